"""Drift: the reference of a bundle, the statistics of a day against it, and their reports."""
