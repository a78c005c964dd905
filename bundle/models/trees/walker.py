"""What answers from a table of trees: the C extension, where it was built."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from bundle.models.trees.table import TableError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Matrix = NDArray[np.float32]

try:
    from bundle.models.trees import _walker

    MISSING = None
except ImportError as error:
    # treelite's interpreter walks the trees then; `evergreen doctor` and the endpoint say so.
    MISSING = f"the walker is not built ({error}); `make setup` builds it"


class Walker:
    """The trees of a table that read rows of `width` features.

    `margin(row)` is the margin (log odds) of one row of `width` numbers, NaN for missing;
    `margins(matrix)` those of rows (n, width), float32, computed while other threads run. Both may
    be called by several threads at once.
    """

    def __init__(self, table: bytes, width: int) -> None:
        """Raises TableError for a file that is no sound table, or one of another width.

        Needs the extension: `MISSING` is None.
        """
        try:
            self._forest = _walker.Forest(table)
        except _walker.RefusedError as refused:
            raise TableError(*refused.args) from None
        if self._forest.features != width:
            raise TableError(
                f"it reads {self._forest.features} features, the model {width}", "the header"
            )
        self.width = width
        # The extension's own method: a call through Python would cost a tenth of a row.
        self.margin: Callable[[Sequence[float]], float] = self._forest.margin

    def margins(self, matrix: Matrix) -> Matrix:
        """Raises ValueError for rows of another width."""
        import numpy as np

        if matrix.ndim != 2 or matrix.shape[1] != self.width:
            raise ValueError(
                f"the model takes rows of {self.width} features,"
                f" not a matrix of shape {matrix.shape}"
            )
        rows = np.ascontiguousarray(matrix, dtype=np.float32)
        margins = np.empty(len(rows), dtype=np.float32)
        self._forest.margins(rows, margins)
        return margins
