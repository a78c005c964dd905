"""Robustness: every perturbation does what it says, to the features it names alone."""

from __future__ import annotations

import numpy as np
import pytest

from assets.tabular.validation.examinations import robustness
from assets.tabular.validation.terms import ALL_NUMBERS

NAMES, CATEGORICAL = ("strong", "weak", "place"), (False, False, True)


def _predict(matrix: np.ndarray) -> np.ndarray:
    strong = np.nan_to_num(np.clip(matrix[:, 0], -5, 5).astype(float), nan=0.0)
    return 1 / (1 + np.exp(-2 * strong - 0.5 * (matrix[:, 2] == 1)))


def _rows(n: int = 3_000) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    matrix = np.column_stack(
        [generator.normal(size=n), generator.normal(size=n), generator.integers(1, 3, n)]
    ).astype(np.float32)
    return matrix, (generator.random(n) < _predict(matrix)).astype(float)


def _effects(predict=_predict, **options):
    matrix, y = _rows()
    found = robustness.robustness(
        predict,
        matrix,
        y,
        np.arange(len(y)) % 10,
        NAMES,
        CATEGORICAL,
        {"weather": ("strong", "weak")},
        **options,
    )
    return found, {effect.group: effect for effect in found.effects}


def test_losing_what_matters_hurts_and_losing_what_does_not_does_nothing() -> None:
    _, effects = _effects()
    assert effects["missing: strong"].loss_increase > 0.1
    assert effects["missing: strong"].loss_interval.low > 0
    assert effects["missing: weak"].loss_increase == 0
    assert effects["missing source: weather"].loss_increase == pytest.approx(
        effects["missing: strong"].loss_increase
    )
    assert effects["unseen category: place"].shift > 0


def test_noise_moves_predictions_in_proportion() -> None:
    (_, small), (_, large) = _effects(noise_sd=0.05), _effects(noise_sd=0.5)
    assert 0 < small[f"noise: {ALL_NUMBERS}"].shift < large[f"noise: {ALL_NUMBERS}"].shift
    assert small["noise: weak"].shift == 0
    assert "noise: place" not in small


def test_inputs_are_left_alone_and_equal_seeds_give_equal_results() -> None:
    matrix, y = _rows()
    before = matrix.copy()
    first, second = (
        robustness.robustness(_predict, matrix, y, np.arange(len(y)) % 10, NAMES, CATEGORICAL, {})
        for _ in range(2)
    )
    assert np.array_equal(matrix, before)
    assert first == second


def test_a_sample_is_stated() -> None:
    found, effects = _effects(rows=500)
    assert (found.n, found.of) == (500, 3_000)
    assert all(effect.n == 500 for effect in effects.values())


def test_predictions_that_are_no_probabilities_are_counted() -> None:
    def breaks(matrix: np.ndarray) -> np.ndarray:
        return np.where(np.abs(matrix[:, 1]) > 1e6, np.nan, _predict(matrix))

    found, effects = _effects(predict=breaks)
    assert effects["extreme: weak"].invalid == found.n
    assert robustness.measures(found)[-1].value == found.n


def test_a_matrix_that_does_not_fit_is_refused() -> None:
    matrix, y = _rows(20)
    with pytest.raises(ValueError, match="must fit"):
        robustness.robustness(
            _predict, matrix[:, :2], y, np.arange(len(y)) % 10, NAMES, CATEGORICAL, {}
        )
