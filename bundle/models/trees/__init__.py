"""The table of a model's trees, and what walks it.

`table` writes the table that travels in a bundle, `walker` answers from it. The walking itself is
one C extension, `_walker`, from the sources in `native/`: part of the platform, built by
`make setup` and in the endpoint's image. Nothing of a model is ever code.
"""
