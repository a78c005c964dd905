"""Bootstrap intervals: seeded, paired, as wide as theory says."""

from __future__ import annotations

import numpy as np
import pytest

from assets.tabular.validation import bootstrap


def _models(n: int = 2_000, seed: int = 5) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    generator = np.random.default_rng(seed)
    x = generator.normal(size=n)
    y = (generator.random(n) < 1 / (1 + np.exp(1 - x))).astype(float)
    noisy = 1 / (1 + np.exp(1 - x - generator.normal(size=n) * 0.7))
    return y, {"candidate": 1 / (1 + np.exp(1 - x)), "baseline": noisy}


def test_equal_inputs_give_equal_intervals() -> None:
    y, models = _models()
    first, second = (bootstrap.compare(y, models, resamples=50) for _ in range(2))
    assert all(np.array_equal(first.samples[model], second.samples[model]) for model in models)
    assert first.interval("candidate", "roc_auc") != bootstrap.compare(
        y, models, resamples=50, seed=9
    ).interval("candidate", "roc_auc")


def test_interval_of_a_mean_has_the_width_that_theory_gives() -> None:
    y, models = _models()
    interval = bootstrap.compare(y, models, resamples=500).interval("candidate", "brier")
    losses = (models["candidate"] - y) ** 2
    expected = 2 * 1.96 * losses.std() / np.sqrt(len(y))
    assert interval.high - interval.low == pytest.approx(expected, rel=0.15)
    assert interval.low < losses.mean() < interval.high


def test_paired_difference_is_narrower_than_the_models_own_intervals() -> None:
    y, models = _models()
    compared = bootstrap.compare(y, models, resamples=300)
    difference, interval = compared.difference("candidate", "baseline", "log_loss")
    own = compared.interval("candidate", "log_loss")
    assert interval.low < difference < interval.high < 0
    assert interval.high - interval.low < own.high - own.low


def test_a_model_does_not_differ_from_itself() -> None:
    y, models = _models(300)
    compared = bootstrap.compare(
        y, {"a": models["candidate"], "b": models["candidate"]}, resamples=20
    )
    assert compared.difference("a", "b", "roc_auc") == (0.0, bootstrap.Interval(0.0, 0.0))


def test_whole_days_give_wider_intervals_where_days_differ() -> None:
    generator = np.random.default_rng(2)
    days = np.repeat(np.arange(20), 100)
    y = (generator.random(2_000) < generator.uniform(0.05, 0.6, 20)[days]).astype(float)
    p = {"m": np.full(2_000, 0.3)}
    rows, clusters = (
        bootstrap.compare(y, p, resamples=200),
        bootstrap.compare(y, p, resamples=200, days=days),
    )
    widths = [result.interval("m", "log_loss") for result in (rows, clusters)]
    assert widths[1].high - widths[1].low > 2 * (widths[0].high - widths[0].low)


def test_group_means_equal_means_by_hand_and_share_draws_with_the_whole() -> None:
    generator = np.random.default_rng(4)
    codes, values = generator.integers(0, 4, 400), generator.normal(size=(400, 2))
    codes[codes == 2] = 1  # group 2 is empty
    means = bootstrap.group_means(codes, 4, values, np.arange(400) % 25, resamples=100)
    assert means.n.tolist() == [int((codes == g).sum()) for g in range(4)]
    for g in (0, 1, 3):
        assert means.values[g] == pytest.approx(values[codes == g].mean(axis=0))
        assert means.samples[:, g, 0].mean() == pytest.approx(
            values[codes == g, 0].mean(), abs=0.05
        )
    assert np.isnan(means.values[2]).all()
    assert means.overall[:, 1].mean() == pytest.approx(values[:, 1].mean(), abs=0.03)


def test_no_rows_give_no_interval() -> None:
    compared = bootstrap.compare(np.zeros(0), {"m": np.zeros(0)}, resamples=5)
    assert np.isnan(compared.interval("m", "log_loss")).all()
    assert np.isnan(bootstrap.means(np.zeros((0, 2)), np.zeros(0, dtype=int))).all()


def test_one_class_gives_a_loss_but_no_ranking_interval() -> None:
    compared = bootstrap.compare(np.zeros(50), {"m": np.linspace(0.1, 0.4, 50)}, resamples=20)
    assert np.isfinite(compared.interval("m", "log_loss")).all()
    assert np.isnan(compared.interval("m", "roc_auc")).all()


def test_large_samples_get_fewer_resamples() -> None:
    assert [bootstrap.resamples_for(n) for n in (10, 50_000, 100_000, 10_000_000)] == [
        1_000,
        1_000,
        500,
        200,
    ]


def _coverage(days: int, spread: float, drawn: str, worlds: int = 400) -> float:
    """How often the interval of a mean loss difference holds its truth, 0, where days differ.

    Every row is its day's effect (standard deviation `spread`) plus noise of its own, as rows of
    one day share its weather.
    """
    rows, generator = 60, np.random.default_rng(11)
    day_of = np.repeat(np.arange(days), rows)
    unit = day_of if drawn == "days" else np.arange(days * rows)
    held = 0
    for world in range(worlds):
        effect = generator.normal(0, spread, days)[day_of]
        values = effect + generator.normal(0, 1, days * rows)
        samples = values[:, None]
        if drawn == "days":
            (interval,) = bootstrap.means(samples, unit, resamples=400, seed=world)
        else:
            means = [
                float(counts @ values) / len(values)
                for counts in bootstrap.draws(len(values), 200, seed=world)
            ]
            interval = bootstrap.percentile_interval(np.array(means))
        held += interval.low <= 0 <= interval.high
    return held / worlds


@pytest.mark.parametrize("days", [7, 10, 14, 30])
def test_intervals_by_day_hold_the_truth_as_often_as_they_say(days: int) -> None:
    """95 % of 400 worlds is 380; four standard errors below are 362, above 398."""
    assert 0.905 <= _coverage(days, spread=0.5, drawn="days") <= 0.995


def test_intervals_by_row_do_not_where_days_differ() -> None:
    """What the test above would refute: rows of one day are alike, and rows drawn forget it."""
    assert _coverage(10, spread=0.5, drawn="rows", worlds=100) < 0.6


def test_days_that_do_not_differ_cost_no_coverage() -> None:
    assert 0.905 <= _coverage(14, spread=0.0, drawn="days") <= 0.995


@pytest.mark.parametrize("days", [0, 1, 4])
def test_too_few_days_give_no_interval(days: int) -> None:
    codes = np.repeat(np.arange(days), 10)
    (interval,) = bootstrap.means(np.ones((days * 10, 1)), codes)
    assert np.isnan(interval).all()


@pytest.mark.parametrize(("days", "quantile"), [(5, 2.776445), (10, 2.262157), (30, 2.045230)])
def test_percentiles_of_few_days_have_the_width_of_the_t_interval(
    days: int, quantile: float
) -> None:
    """Normal samples with the bootstrap's standard deviation give back mean ± t × standard error."""
    generator = np.random.default_rng(3)
    error = 1 / np.sqrt(days)  # of a mean of `days` values with standard deviation 1
    bootstrapped = generator.normal(0, error * np.sqrt((days - 1) / days), 400_000)
    interval = bootstrap.percentile_interval(bootstrapped, days)
    assert interval.high == pytest.approx(quantile * error, rel=0.02)
    assert interval.low == pytest.approx(-quantile * error, rel=0.02)
