"""Trees where no compiler is: treelite's interpreter, without the checks of types and shapes that cost more than small trees do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Matrix = NDArray[np.float32]
    Array = NDArray[np.float64]


def parse(ubj: bytes, name: str) -> Any:
    """XGBoost's UBJ as treelite reads it. Raises ValueError, which calls it `name`, for trees that it cannot read."""
    import treelite

    # treelite reports whatever it cannot read as its own error; what matters is that the model is refused.
    try:
        return treelite.frontend.from_xgboost_ubjson(ubj)
    except treelite.TreeliteError as error:
        raise ValueError(
            f"{name} cannot be read by treelite (train on numbers and integer codes): {error}"
        ) from error


class InterpretedTrees:
    """`margin(row)` is the sum of the trees for one row of `width` numbers, NaN for missing; `margins(matrix)` those of rows (n, width).
    Both may be called by several threads at once."""

    def __init__(self, trees: Any, width: int) -> None:
        self._trees = trees
        self._width = width

    @cached_property
    def _configuration(self) -> Any:
        from treelite.gtil.gtil import GTILConfig

        # The public function builds its configuration anew for each call, which costs as much as the prediction.
        return GTILConfig(predict_type="raw", nthread=1)

    def margins(self, matrix: Matrix) -> Array:
        import numpy as np
        from treelite.gtil.gtil import _predict_impl

        return np.asarray(
            _predict_impl(self._trees, matrix, config=self._configuration), dtype=np.float64
        ).reshape(len(matrix))

    def margin(self, row: Sequence[float]) -> float:
        """Raises ValueError for a row of another width."""
        return self._one(row)

    @cached_property
    def _one(self) -> Callable[[Sequence[float]], float]:
        from ctypes import byref, c_char_p, c_float, c_uint64

        import numpy as np
        from treelite.core import _LIB, _check_call

        trees, configuration, width = self._trees, self._configuration, self._width
        if trees.input_type != "float32" or trees.output_type != "float32":
            return lambda row: float(self.margins(np.array([row], dtype=np.float32))[0])
        values, predict, kind, one = (
            c_float * width,
            _LIB.TreeliteGTILPredict,
            c_char_p(b"float32"),
            c_uint64(1),
        )

        def margin(row: Sequence[float]) -> float:
            if len(row) != width:
                raise ValueError(f"the model takes rows of {width} features, not of {len(row)}")
            # Buffers of its own for each call: several threads may predict at once.
            result = c_float()
            _check_call(
                predict(trees.handle, values(*row), kind, one, byref(result), configuration.handle)
            )
            return result.value

        return margin
