"""Models as data: one module for each engine, the trees that they share, and how a bundle's model is loaded."""
