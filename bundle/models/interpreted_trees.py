"""Trees without a table or without the walker: treelite's interpreter (`gtil`).

One row takes it 40 µs (200 trees of depth 6), of which half is the public function's own checks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Matrix = NDArray[np.float32]
    Array = NDArray[np.float64]


def parse(ubj: bytes, name: str) -> Any:
    """XGBoost's UBJ as treelite reads it.

    Raises ValueError, which calls it `name`, for trees that treelite cannot read.
    """
    import treelite

    # treelite reports whatever it cannot read as its own error; the model is refused in any case.
    try:
        return treelite.frontend.from_xgboost_ubjson(ubj)
    except treelite.TreeliteError as error:
        raise ValueError(
            f"{name} cannot be read by treelite (train on numbers and integer codes): {error}"
        ) from error


class InterpretedTrees:
    """The trees of a treelite model that read rows of `width` numbers, NaN for missing.

    Several threads may ask it at once.
    """

    def __init__(self, trees: Any, width: int) -> None:
        self._trees = trees
        self._width = width

    def margins(self, matrix: Matrix) -> Array:
        """Sums of the trees for rows (n, width), shape (n,)."""
        import numpy as np
        from treelite import gtil

        sums = gtil.predict(self._trees, matrix, nthread=1, pred_margin=True)
        return np.asarray(sums, dtype=np.float64).reshape(len(matrix))

    def margin(self, row: Sequence[float]) -> float:
        """The sum of the trees for one row. Raises ValueError for a row of another width."""
        import numpy as np

        if len(row) != self._width:
            raise ValueError(f"the model takes rows of {self._width} features, not of {len(row)}")
        return float(self.margins(np.array([row], dtype=np.float32))[0])
