"""The endpoint server: a process that verifies bundles, answers predictions and logs them.

It imports `bundle` and its own libraries alone. No other part of the platform needs to run.
"""
