"""Rollout: how a released bundle takes over the traffic, step by step on evidence, and experiments between bundles."""
