"""Judging: what each day shows of a rollout or an experiment, and what follows from it."""
