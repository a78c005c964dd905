"""What is served: bundles as they are loaded, tried, swapped, and asked for predictions."""
