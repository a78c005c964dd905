"""What a tabular pipeline can predict: the metrics, row losses and outputs of each task."""
