"""Statistics that may be looked at daily: they err as declared over all looks, and find what is there."""

from __future__ import annotations

import numpy as np
import pytest

from assets.traffic.judging.sequential import (
    SPLIT_ALPHA,
    centred,
    confidence_sequence,
    effects,
    split_evidence,
)

ALPHA = 0.05


def differences(random: np.random.Generator, n: int, worse_by: float = 0.0) -> np.ndarray:
    """Paired differences in log loss of two models, the second one further off the truth."""
    truth = random.beta(2, 5, n)
    y = random.random(n) < truth
    first, second = (np.clip(truth + random.normal(0, 0.08, n), 0.01, 0.99) for _ in range(2))
    loss = [-np.where(y, np.log(p), np.log(1 - p)) for p in (first, second)]
    return loss[1] - loss[0] + worse_by


def test_an_a_a_comparison_that_is_looked_at_every_day_keeps_its_false_alarm_rate() -> None:
    """An ordinary interval, looked at as often, errs several times as often: peeking costs that."""
    runs, looks, day = 400, 40, 50
    alarms = peeked = 0
    for run in range(runs):
        values = differences(np.random.default_rng(run), looks * day)
        bounds = [
            confidence_sequence(values[: look * day], ALPHA, 400) for look in range(2, looks + 1)
        ]
        alarms += any(not found.low <= 0 <= found.high for found in bounds)
        half = [1.96 * values[: found.n].std() / found.n**0.5 for found in bounds]
        peeked += any(abs(found.mean) > width for found, width in zip(bounds, half, strict=True))
    assert alarms <= ALPHA * runs
    assert peeked > 2 * ALPHA * runs


def test_a_worse_model_is_found_out() -> None:
    found = [
        confidence_sequence(
            differences(np.random.default_rng(seed), 900, worse_by=0.05), ALPHA, 400
        )
        for seed in range(50)
    ]
    assert sum(bounds.low > 0 for bounds in found) >= 45


@pytest.mark.parametrize("n", [0, 1])
def test_nothing_is_said_of_less_than_two_observations(n: int) -> None:
    assert np.isnan(confidence_sequence(np.zeros(n), ALPHA).mean)


def test_effects_of_a_randomised_split_are_the_difference_of_both_arms_on_average() -> None:
    """The mood of a day moves everybody's loss by more than the arm does; it is taken out."""
    random = np.random.default_rng(3)
    estimates, alarms = [], 0
    for _ in range(200):
        days = np.repeat(np.arange(20), 100)
        treated = random.random(len(days)) < 0.1
        losses = 0.4 + 0.3 * np.sin(days) + random.normal(0, 0.2, len(days)) + 0.03 * treated
        values = effects(losses, treated, np.full(len(days), 0.1), centred(losses, days))
        estimates.append(values.mean())
        looks = [confidence_sequence(values[: 100 * look], ALPHA, 400) for look in range(1, 21)]
        alarms += any(not bounds.low <= 0.03 <= bounds.high for bounds in looks)
    assert np.mean(estimates) == pytest.approx(0.03, abs=0.005)
    assert alarms <= ALPHA * 200


def test_a_split_as_declared_hardly_ever_looks_wrong_however_often_it_is_looked_at() -> None:
    random = np.random.default_rng(5)
    wrong = 0
    for _ in range(1_000):
        candidate = np.cumsum(random.binomial(90, 0.1, size=30))
        wrong += any(
            split_evidence([90 * (look + 1) - n, n], [0.9, 0.1]) > 1 / SPLIT_ALPHA
            for look, n in enumerate(candidate.tolist())
        )
    assert wrong <= 3  # one expected


def test_a_wrong_split_is_found_out() -> None:
    assert split_evidence([820, 180], [0.9, 0.1]) > 1 / SPLIT_ALPHA
    assert split_evidence([900, 100], [0.9, 0.1]) < 1
