"""Where a model has seen rows: the range of each feature in its training set.

A row with a feature outside is still predicted, because a model that refuses is of no use on the
day that something changes. Its answer and its record say so (`ood`, out of distribution), and it is
counted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Matrix = NDArray[np.float32]

FORMAT = 1
# A range holds all but this share of the training rows at either end: outliers of the training set
# are no evidence of coverage. It is widened by this share of its width, so that the next day's rows
# do not fall out by chance.
TAIL, WIDENED = 0.001, 0.25
# Rounding to float32, as training rows are.
ROUNDING = 1e-6

Outside = Callable[[Sequence[float]], tuple[str, ...]]
OutsideOfMany = Callable[["Matrix"], dict[int, tuple[str, ...]]]


class Range(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Values of one feature that count as known, both ends included.

    `missing`: whether a missing value does. The codes of a category begin at 1 where a text never
    seen in training (code 0) does not count.
    """

    low: float
    high: float
    missing: bool


class Bounds(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """bounds.json: a range for each feature, learned from `rows` training rows.

    The share `outside` of them has at least one feature out of its range.
    """

    features: dict[str, Range]
    rows: int
    outside: float
    format: int = FORMAT

    def encode(self) -> bytes:
        return msgspec.json.encode(self, order="sorted")

    @staticmethod
    def decode(content: bytes) -> Bounds:
        """Raises ValueError for anything but bounds of this format."""
        found = msgspec.json.decode(content, type=Bounds)
        if found.format != FORMAT:
            raise ValueError(
                f"bounds.json has format {found.format}; this release reads format {FORMAT}"
            )
        return found

    def one(self, names: Sequence[str]) -> Outside:
        """A function from one row (values in the order of `names`) to the features outside.

        It takes about a microsecond a row.
        """
        rules = [
            (place, name, self.features[name])
            for place, name in enumerate(names)
            if name in self.features
        ]
        # NaN compares false with everything: the first form lets missing values pass, the second
        # does not.
        conditions = [
            f"row[{place}] < {found.low!r} or row[{place}] > {found.high!r}"
            if found.missing
            else f"not {found.low!r} <= row[{place}] <= {found.high!r}"
            for place, _, found in rules
        ]
        inside: Outside = lambda row: ()  # noqa: E731
        if not rules:
            return inside
        listed = ", ".join(
            f"*(({name!r},) if {condition} else ())"
            for (_, name, _), condition in zip(rules, conditions, strict=True)
        )
        # One expression of comparisons with constants: a loop over the features costs several times
        # as much.
        source = f"lambda row: ({listed},) if {' or '.join(conditions)} else ()"
        # It is made of numbers, and of names that are quoted.
        compiled: Outside = eval(source, {"__builtins__": {}, "inf": float("inf")})  # noqa: S307
        return compiled

    def many(self, names: Sequence[str]) -> OutsideOfMany:
        """A function from a matrix (n, k; float32, NaN for missing) to the features outside.

        They are given by the places of the rows that have any.
        """
        mask = self._mask(names)

        def outside(matrix: Matrix) -> dict[int, tuple[str, ...]]:
            found: dict[int, tuple[str, ...]] = {}
            wrong = mask(matrix)
            if wrong.any():
                rows, places = wrong.nonzero()
                for row, place in zip(rows.tolist(), places.tolist(), strict=True):
                    found[row] = (*found.get(row, ()), names[place])
            return found

        return outside

    def _mask(self, names: Sequence[str]) -> Callable[[Matrix], NDArray[np.bool_]]:
        import numpy as np

        ranges = [self.features.get(name, Range(-np.inf, np.inf, True)) for name in names]
        low = _float32([found.low for found in ranges], np.inf)
        high = _float32([found.high for found in ranges], -np.inf)
        missing = np.array([found.missing for found in ranges])

        def mask(matrix: Matrix) -> NDArray[np.bool_]:
            # Missing values compare false.
            outside: NDArray[np.bool_] = ~((matrix >= low) & (matrix <= high))
            if outside.any():
                outside &= ~(np.isnan(matrix) & missing)
            return outside

        return mask


def _float32(limits: Sequence[float], inwards: float) -> NDArray[np.float32]:
    """The float32 values that divide float32 numbers as these limits do."""
    import numpy as np

    wanted = np.array(limits, dtype=np.float64)
    with np.errstate(over="ignore"):
        found = wanted.astype(np.float32)
    beyond = found < wanted if inwards > 0 else found > wanted
    return np.where(beyond, np.nextafter(found, np.float32(inwards)), found)


def learn(matrix: Matrix, names: Sequence[str], categorical: Sequence[bool]) -> Bounds:
    """Bounds of the training rows (n, k): float32, NaN for missing.

    A feature that is missing throughout has no range.
    """
    import numpy as np

    features = {}
    for place, (name, category) in enumerate(zip(names, categorical, strict=True)):
        column = matrix[:, place].astype(np.float64)
        known = column[~np.isnan(column)]
        if len(known):
            low, high = _codes(known) if category else _numbers(known)
            features[name] = Range(low, high, missing=len(known) < len(column))

    bounds = Bounds(features, len(matrix), 0.0)
    outside = float(bounds._mask(names)(matrix).any(axis=1).mean()) if len(matrix) else 0.0
    return msgspec.structs.replace(bounds, outside=outside)


def _codes(known: NDArray[np.float64]) -> tuple[float, float]:
    """The range of a category's codes."""
    import numpy as np

    # Where rare texts were pooled under code 0 in training, an unseen text is one of them.
    return float(np.quantile(known, TAIL) >= 1), float(known.max())


def _numbers(known: NDArray[np.float64]) -> tuple[float, float]:
    """The range of a number."""
    import numpy as np

    low, high = (float(value) for value in np.quantile(known, (TAIL, 1 - TAIL)))
    if low == high:
        # Nearly constant: the rare other values are all that tells its range.
        low, high = float(known.min()), float(known.max())
    margin = WIDENED * (high - low)
    return low - margin - ROUNDING * abs(low), high + margin + ROUNDING * abs(high)
