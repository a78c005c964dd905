"""Models as data: one module for each engine, the table of trees, and how a model is loaded."""
