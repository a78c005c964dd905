"""Where one engine of a model begins to beat the other: measured, when a bundle is loaded."""

from __future__ import annotations

import math
from collections.abc import Callable
from time import perf_counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Matrix = NDArray[np.float32]
    Margin = Callable[[Matrix], NDArray[np.float64]]

# A batch has no more rows than this; an engine that wins up to here always does.
ALWAYS = 1 << 20
# Enough rows to tell what each costs from what a call costs, on a busy machine too.
ROWS, REPEATS = 512, 5


def crossover(few: Margin, many: Margin, sample: Matrix) -> int:
    """The number of rows up to which `few` is faster than `many`, from 1 to `ALWAYS`.

    Both are timed on rows of the sample (n, k). Either costs a start and so much a row, hence two
    sizes tell where the lines cross.
    """
    import numpy as np

    rows = np.resize(sample, (ROWS, sample.shape[1])).astype(np.float32)
    few_start, few_row = _line(few, rows)
    many_start, many_row = _line(many, rows)

    gain = few_row - many_row
    if gain <= 0:
        return ALWAYS
    return int(min(max((many_start - few_start) / gain, 1.0), ALWAYS))


def _line(margin: Margin, rows: Matrix) -> tuple[float, float]:
    """Seconds of a call and of each row in it, from one row and from all rows."""
    margin(rows)
    one, all_rows = _fastest(margin, rows[:1]), _fastest(margin, rows)
    row = max(all_rows - one, 0.0) / (len(rows) - 1)
    return max(one - row, 0.0), row


def _fastest(margin: Margin, rows: Matrix) -> float:
    """Seconds of the fastest of some calls."""
    best = math.inf
    for _ in range(REPEATS):
        start = perf_counter()
        margin(rows)
        best = min(best, perf_counter() - start)
    return best
