"""How each stage of the lifecycle is done: one folder per stage, in lifecycle order.

`declaration.py` says what a pipeline declares. In a stage folder, `assets.py` builds the stage's Dagster assets from a
pipeline and holds no logic; the modules beside it are plain functions over frames and arrays.
"""
