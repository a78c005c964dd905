"""Predicting with what is served: arms, turns, trials, explanations. `following` keeps it new."""
