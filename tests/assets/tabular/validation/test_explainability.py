"""TreeSHAP: contributions add up, and the feature that decides comes first."""

from __future__ import annotations

import numpy as np
import pytest

from assets.tabular.validation.examinations import explainability
from assets.tabular.validation.terms import ADDITIVITY_TOLERANCE
from bundle.models.contributions import contributions


def _model(n: int = 800):
    import xgboost as xgb

    generator = np.random.default_rng(0)
    matrix = np.column_stack(
        [generator.normal(size=n), generator.normal(size=n), generator.integers(0, 4, n)]
    ).astype(np.float32)
    matrix[::17, 0] = np.nan
    y = (
        np.nan_to_num(matrix[:, 0]) * 2 + (matrix[:, 2] == 2) + generator.normal(size=n) > 0.5
    ).astype(float)
    data = xgb.DMatrix(
        matrix,
        y,
        feature_names=["strong", "useless", "kind"],
        feature_types=["q", "q", "c"],
        enable_categorical=True,
    )
    booster = xgb.train(
        {"objective": "binary:logistic", "max_depth": 3, "tree_method": "hist", "nthread": 1},
        data,
        30,
    )
    return booster, matrix


def _days(matrix: np.ndarray) -> np.ndarray:
    return np.arange(len(matrix)) % 10


def test_contributions_and_bias_add_up_to_the_margin() -> None:
    model, matrix = _model()
    parts, margins = contributions(model, matrix, (False, False, True))
    assert parts.shape == (len(matrix), 4)
    found = explainability.explain(
        parts, margins, matrix, ("strong", "useless", "kind"), _days(matrix), 5_000
    )
    assert found.additivity_error < ADDITIVITY_TOLERANCE
    assert (found.n, found.of) == (800, 5_000)


def test_the_deciding_feature_comes_first_and_every_importance_has_an_interval() -> None:
    model, matrix = _model()
    names = ("strong", "useless", "kind")
    found = explainability.explain(
        *contributions(model, matrix, (False, False, True)),
        matrix,
        names,
        _days(matrix),
        len(matrix),
    )
    assert [names[index] for index in found.ranking] == ["strong", "kind", "useless"]
    assert found.importance == pytest.approx(np.abs(found.contributions).mean(axis=0))
    assert all(
        low <= found.importance[index] <= high for index, (low, high) in enumerate(found.intervals)
    )
    assert [measure.group for measure in explainability.measures(found)][:3] == [
        "strong",
        "kind",
        "useless",
    ]


def test_contributions_that_do_not_add_up_are_told() -> None:
    model, matrix = _model(50)
    parts, margins = contributions(model, matrix, (False, False, True))
    assert explainability.explain(
        parts, margins + 0.1, matrix, ("a", "b", "c"), _days(matrix), 50
    ).additivity_error == pytest.approx(0.1, abs=1e-3)


def test_a_matrix_of_another_width_is_refused() -> None:
    model, matrix = _model(50)
    with pytest.raises(ValueError, match="has 3 features, the matrix 2"):
        contributions(model, matrix[:, :2], (False, False))


def test_the_sample_is_seeded_sorted_and_bounded() -> None:
    rows = explainability.sample_rows(27_000)
    assert len(rows) == explainability.ROWS <= 1_000
    assert np.array_equal(rows, explainability.sample_rows(27_000))
    assert (np.diff(rows) > 0).all()
    assert explainability.sample_rows(10).tolist() == list(range(10))
