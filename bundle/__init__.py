"""What travels between training and serving: feature program, models, manifest, signatures.

This room imports no Dagster, MLflow, pandas or plotting, so that the endpoint stays small and safe.
"""
