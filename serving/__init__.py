"""The endpoint server, a process of its own: it verifies bundles, answers predictions and logs them.

It imports `bundle` and its own libraries alone, and needs nothing else of the platform to be running.
"""
