"""Monitoring: what was predicted, how it drifts, and how good it turned out to be."""
