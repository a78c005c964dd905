"""The `evergreen` command: everything an operator does by hand.

Each command loads only what it uses.
"""
