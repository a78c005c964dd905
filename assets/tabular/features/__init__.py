"""Features: point in time from raw partitions, and the newest aggregates for the endpoint."""
