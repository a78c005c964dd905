"""What is built: one module or package per pipeline, each exporting `pipeline`.

`lifecycle.py` turns a pipeline into its Dagster definitions; `definitions.py` gathers those of all
pipelines.
"""
