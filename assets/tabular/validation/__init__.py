"""Validation: reports on a candidate, and the gates that read them."""
