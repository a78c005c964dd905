"""Training: manifest of the training set, tuning, baseline and candidate."""
