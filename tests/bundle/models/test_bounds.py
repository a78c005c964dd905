"""Rows outside the range of the training set are found: one at a time and many at once alike."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given, strategies as st

from bundle.models.bounds import Bounds, Range, learn

NAMES = ("number", "rare", "holes", "category", "pooled", "void")
CATEGORICAL = (False, False, False, True, True, False)


def training(rows: int = 4000) -> np.ndarray:
    """A number, a flag set in few rows, a number with gaps, a category, one whose rare texts were pooled, and nothing at all."""
    random = np.random.default_rng(3)
    matrix = np.column_stack([
        random.normal(10, 2, rows), np.arange(rows) % 2000 == 7, random.uniform(0, 1, rows), random.integers(1, 5, rows),
        random.integers(0, 5, rows), np.full(rows, np.nan),
    ]).astype(np.float32)  # fmt: skip
    matrix[::10, 2] = np.nan
    return matrix


BOUNDS = learn(training(), NAMES, CATEGORICAL)


def test_what_was_trained_on_is_inside_and_what_was_not_is_outside() -> None:
    inside = [10.0, 1.0, math.nan, 2.0, 0.0, 5.0]
    outside = BOUNDS.one(NAMES)
    assert outside(inside) == ()
    for place, value in (
        (0, 40.0),
        (0, -20.0),
        (0, math.nan),
        (1, 2.0),
        (2, 3.0),
        (3, 0.0),
        (3, math.nan),
    ):
        row = list(inside)
        row[place] = value
        assert outside(row) == (NAMES[place],), (NAMES[place], value)
    assert outside([40.0, 2.0, 3.0, 0.0, 0.0, 5.0]) == NAMES[:4]
    assert "void" not in BOUNDS.features
    assert BOUNDS.rows == 4000
    # The range leaves out two tails of 0.1 % and is widened after that.
    assert BOUNDS.outside <= 0.002 * len(NAMES)


@given(
    st.lists(
        st.lists(st.floats(width=32, allow_infinity=False), min_size=6, max_size=6),
        min_size=1,
        max_size=20,
    )
)
def test_one_row_and_many_rows_agree(rows: list[list[float]]) -> None:
    outside = BOUNDS.one(NAMES)
    found = BOUNDS.many(NAMES)(np.array(rows, dtype=np.float32))
    assert found == {place: outside(row) for place, row in enumerate(rows) if outside(row)}


def test_bounds_survive_their_encoding_and_name_only_what_they_know() -> None:
    assert Bounds.decode(BOUNDS.encode()) == BOUNDS
    assert Bounds({}, 0, 0.0).one(NAMES)([math.nan] * 6) == ()
    hostile = 'x" or 1/0 or "'
    assert Bounds({hostile: Range(0.0, 1.0, True)}, 1, 0.0).one([hostile])([2.0]) == (hostile,)
