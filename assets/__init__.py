"""How each stage of the lifecycle is done: one folder per stage.

`names`, `stage` and `kind` are what stages share; `lifecycles` says which stages a kind of pipeline
has. In a stage folder, `assets.py` builds the stage's Dagster assets from a pipeline and holds no
logic; the modules beside it are plain functions over frames and arrays.
"""
