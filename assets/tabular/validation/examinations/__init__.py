"""Examinations of a candidate: numbers alone, over arrays and frames.

Their pages are in `validation.pages`.
"""
