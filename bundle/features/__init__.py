"""The feature program: features as data, and one module for each way in which it is computed."""
