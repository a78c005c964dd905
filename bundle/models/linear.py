"""Linear models over a feature program's matrix as plain numbers: one term for each feature."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.float64]
    Matrix = NDArray[np.float32]


class NumberTerm(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="number"):
    """A numeric feature.

    Missing values become `fill` (the median); `weight` is per standard deviation (`scale`) around
    `mean`; `missing` is added where the value was missing (0 where training never saw that).
    """

    fill: float
    mean: float
    scale: float
    weight: float
    missing: float

    def many(self, values: Array, missing: NDArray[np.bool_]) -> Array:
        """What the term adds to rows (n,) with these values."""
        import numpy as np

        found = (np.where(missing, self.fill, values) - self.mean) / self.scale * self.weight
        return found + np.where(missing, self.missing, 0.0)

    def one(self) -> Callable[[float], float]:
        """What the term adds to one row, as a function of its value."""
        weight, mean, scale = self.weight, self.mean, self.scale
        unknown = (self.fill - mean) / scale * weight + self.missing
        return lambda value: (value - mean) / scale * weight if value == value else unknown


class CategoryTerm(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="category"):
    """A categorical feature: the weight of each code seen in training, ascending.

    Missing values have the weight `missing`, codes never seen have none.
    """

    codes: tuple[float, ...]
    weights: tuple[float, ...]
    missing: float

    def many(self, values: Array, missing: NDArray[np.bool_]) -> Array:
        """What the term adds to rows (n,) with these values."""
        import numpy as np

        found = np.where(missing, self.missing, 0.0)
        if self.codes:
            codes, weights = np.asarray(self.codes), np.asarray(self.weights)
            place = np.minimum(np.searchsorted(codes, values), len(codes) - 1)
            found += np.where(codes[place] == values, weights[place], 0.0)
        return found

    def one(self) -> Callable[[float], float]:
        """What the term adds to one row, as a function of its value."""
        weights, unknown = dict(zip(self.codes, self.weights, strict=True)), self.missing
        return lambda value: weights.get(value, 0.0) if value == value else unknown


class Linear:
    """Log odds = intercept + the sum of all terms, one for each of k features.

    Rows hold NaN for missing values. Raises ValueError for rows of another width.
    """

    def __init__(self, terms: Sequence[NumberTerm | CategoryTerm], intercept: float) -> None:
        self.terms = tuple(terms)
        self.intercept = intercept

    @cached_property
    def _ones(self) -> list[Callable[[float], float]]:
        return [term.one() for term in self.terms]

    def margin(self, row: Sequence[float]) -> float:
        """The log odds of one row of k numbers."""
        try:
            parts = [one(value) for one, value in zip(self._ones, row, strict=True)]
            return self.intercept + sum(parts)
        except ValueError:
            raise ValueError(
                f"the model takes rows of {len(self.terms)} features, not of {len(row)}"
            ) from None

    def margins(self, matrix: Matrix) -> Array:
        """The log odds of rows (n, k), shape (n,)."""
        found: Array = self.intercept + self.parts(matrix).sum(axis=1)
        return found

    def parts(self, matrix: Matrix) -> Array:
        """What each term adds to each row, shape (n, k)."""
        import numpy as np

        if matrix.ndim != 2 or matrix.shape[1] != len(self.terms):
            raise ValueError(
                f"the model takes rows of {len(self.terms)} features,"
                f" not an array of shape {matrix.shape}"
            )
        found = np.empty(matrix.shape)
        for column, term in enumerate(self.terms):
            values = matrix[:, column].astype(np.float64)
            found[:, column] = term.many(values, np.isnan(values))
        return found


def linear(pipeline: Any) -> Linear:
    """The terms of a logistic regression over the columns that training makes.

    Those are numbers filled with their median and standardised, indicators of what was missing, and
    one-hot categories. Raises ValueError for another pipeline of scikit-learn.
    """
    try:
        regression, columns = pipeline.named_steps["regression"], pipeline.named_steps["columns"]
        numbers, categories = (list(chosen) for _, _, chosen in columns.transformers_)
        weights = iter(regression.coef_[0].tolist())
        # In the order of the regression's weights: all numbers, all indicators, all categories.
        terms: dict[int, NumberTerm | CategoryTerm] = {
            **_number_terms(columns, numbers, weights),
            **_category_terms(columns, categories, weights),
        }
        ordered = [terms[column] for column in range(len(terms))]
        return Linear(ordered, float(regression.intercept_[0]))
    except (AttributeError, KeyError, StopIteration) as error:
        raise ValueError(
            "the estimator is a pipeline of another form than those that this platform trains:"
            f" {error}"
        ) from error


def _number_terms(
    columns: Any, numbers: Sequence[int], weights: Iterator[float]
) -> dict[int, NumberTerm]:
    if not numbers:
        return {}
    union = dict(columns.named_transformers_["numbers"].transformer_list)
    steps = union["values"].named_steps
    fills, scaler = steps["fill"].statistics_, steps["scale"]
    own = [next(weights) for _ in numbers]
    found = {}
    for column, fill, mean, scale, weight in zip(
        numbers, fills, scaler.mean_, scaler.scale_, own, strict=True
    ):
        missing = next(weights)
        found[column] = NumberTerm(float(fill), float(mean), float(scale), weight, missing)
    return found


def _category_terms(
    columns: Any, categories: Sequence[int], weights: Iterator[float]
) -> dict[int, CategoryTerm]:
    if not categories:
        return {}
    seen = columns.named_transformers_["categories"].categories_
    found = {}
    for column, codes in zip(categories, seen, strict=True):
        own = dict(zip((float(code) for code in codes), weights, strict=False))
        known = sorted(code for code in own if code == code)
        missing = next((own[code] for code in own if code != code), 0.0)
        found[column] = CategoryTerm(tuple(known), tuple(own[code] for code in known), missing)
    return found
