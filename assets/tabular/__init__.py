"""The stages of pipelines that predict from rows."""
