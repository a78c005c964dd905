"""What the endpoint writes down: predictions, trials, and samples of its own health."""
