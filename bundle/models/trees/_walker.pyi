"""The C extension that walks tables of trees; see `native/module.c`."""

from collections.abc import Sequence
from typing import Any

VERSION: int

class RefusedError(ValueError):
    """Bytes that are no sound table. `args` is what is wrong, and where."""

class Forest:
    """A table, checked and laid out. Several threads may ask it at once."""

    def __init__(self, table: bytes) -> None:
        """Raises RefusedError, or MemoryError."""

    @property
    def features(self) -> int: ...
    def margin(self, row: Sequence[float], /) -> float:
        """The margin of one row of `features` numbers, NaN for missing.

        Raises ValueError for a row of another width.
        """

    def margins(self, rows: Any, margins: Any, /) -> None:
        """Writes the margins of rows, float32 (n, features), to `margins`, float32 (n,).

        Both are buffers without gaps. Other threads run meanwhile. Raises ValueError for buffers
        of another type or shape.
        """
