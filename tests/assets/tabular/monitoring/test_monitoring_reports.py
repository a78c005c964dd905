"""What the monitors say: numbers against limits, and what they could not judge."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import numpy as np
import polars as pl
import pytest

from assets.reporting.report import Measure, Verdict
from assets.tabular.monitoring import performance, skew
from assets.tabular.monitoring.drift import report
from assets.tabular.monitoring.drift.reference import Reference, reference
from declare.monitors import Monitors

LIMITS = Monitors()
FIRST = date(2013, 4, 1)
OURS, OTHERS = "a" * 64, "b" * 64


def rows(
    days: int, per_day: int, seed: int = 1, noise: float = 0.0, bundle: str = OURS
) -> pl.DataFrame:
    """Predictions that are right about their probabilities, unless `noise` moves them."""
    rng = np.random.default_rng(seed)
    n = days * per_day
    p = rng.beta(2, 5, n)
    y = (rng.random(n) < p).astype(float)
    shown = np.clip(p + noise, 0.001, 0.999)
    day = [FIRST + timedelta(days=index // per_day) for index in range(n)]
    return pl.DataFrame({"date": day, "bundle": bundle, "output": shown, "y": y})


def find(measures: tuple[Measure, ...], name: str, group: str | None = None) -> Measure:
    return next(each for each in measures if (each.name, each.group) == (name, group))


def only(verdicts: tuple[Verdict, ...], rule: str) -> Verdict:
    return next(each for each in verdicts if each.rule == rule)


def test_a_model_that_is_as_good_as_on_its_test_split_passes() -> None:
    live = rows(7, 800)
    measures, verdicts, notes = performance.performance(
        live, OURS, {"log_loss": 0.55, "roc_auc": 0.68}, 12_000, LIMITS
    )
    found = find(measures, "log_loss")
    assert only(verdicts, "live_log_loss").passed is True
    assert found.low is not None
    assert found.high is not None
    assert found.low < found.value < found.high  # type: ignore[operator]
    assert found.n == 5_600
    assert find(measures, "log_loss", "test").n == 12_000
    assert notes == ()


def test_a_model_that_has_become_worse_fails_and_says_by_how_much() -> None:
    measures, verdicts, _ = performance.performance(
        rows(7, 800, noise=0.4), OURS, {"log_loss": 0.55}, 12_000, LIMITS
    )
    failed = only(verdicts, "live_log_loss")
    assert failed.passed is False
    assert failed.limit == pytest.approx(0.60)
    assert "test log loss 0.550 plus 0.05" in failed.reason
    assert find(measures, "log_loss", performance.ALL).n == 5_600


def test_only_the_champions_own_rows_are_judged() -> None:
    mixed = pl.concat([rows(7, 100), rows(7, 800, noise=0.5, bundle=OTHERS)])
    measures, verdicts, _ = performance.performance(mixed, OURS, {"log_loss": 0.55}, 12_000, LIMITS)
    assert only(verdicts, "live_log_loss").passed is True
    assert only(verdicts, "live_log_loss").n == 700
    assert find(measures, "log_loss", performance.ALL).n == 6_300


@pytest.mark.parametrize("count", [0, 10])
def test_too_few_matured_labels_are_said_and_not_judged(count: int) -> None:
    _, verdicts, _ = performance.performance(
        rows(1, count), OURS, {"log_loss": 0.55}, 12_000, LIMITS
    )
    assert only(verdicts, "live_log_loss").passed is None
    assert f"{count} matured rows are too few" in only(verdicts, "live_log_loss").reason


def test_one_prediction_counts_for_an_entity_and_labels_of_the_future_do_not() -> None:
    moment = datetime(2013, 4, 2, 8, tzinfo=UTC)
    predictions = pl.DataFrame({
        "prediction_id": ["1", "2", "3"], "flight_id": ["x", "x", "z"], "date": [FIRST] * 3, "bundle": [OURS] * 3, "output": [0.1, 0.9, 0.5],
        "known_at": [moment - timedelta(hours=20), moment - timedelta(hours=19), moment - timedelta(hours=19)],
    })  # fmt: skip
    labels = pl.DataFrame(
        {
            "flight_id": ["x", "z"],
            "known_at": [moment - timedelta(hours=1), moment + timedelta(hours=1)],
            "late": [1, 0],
        }
    )
    found = performance.matured(predictions, labels, "flight_id", "late", moment).sort("flight_id")
    assert found["prediction_id"].to_list() == ["2", "3"]
    assert found["y"].to_list() == [1.0, None]


def drift_frame(n: int, seed: int, missing: float = 0.0, shift: float = 0.0) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    temp = np.where(rng.random(n) < missing, np.nan, rng.normal(50 + shift, 10, n))
    return pl.DataFrame({
        "date": [FIRST + timedelta(days=index * 30 // n) for index in range(n)],
        "temp": temp, "wind": rng.normal(10 + shift, 3, n), "carrier": rng.choice(["AA", "UA"], n).tolist(),
    })  # fmt: skip


@pytest.fixture(scope="module")
def known() -> Reference:
    outputs = pl.DataFrame({"output": np.random.default_rng(3).beta(2, 5, 9_000)})
    return Reference.decode(reference(drift_frame(20_000, 1), ("temp", "wind", "carrier"), outputs))


def test_the_drift_report_names_the_features_and_their_numbers(known: Reference) -> None:
    measures, verdicts, notes = report.data_drift(drift_frame(900, 2, shift=30), known, LIMITS)
    failed = only(verdicts, "drift_share")
    assert failed.passed is False
    assert failed.value == pytest.approx(2 / 3)
    assert "2 of 3 features drifted (n=900)" in failed.reason
    assert find(measures, "drifted", "temp").value == 1
    assert find(measures, "drifted", "carrier").value == 0
    assert "Bonferroni" in notes[0]


def test_a_quiet_day_passes_and_a_small_one_is_not_judged(known: Reference) -> None:
    assert all(
        verdict.passed for verdict in report.data_drift(drift_frame(900, 4), known, LIMITS)[1]
    )
    assert [
        verdict.passed
        for verdict in report.data_drift(drift_frame(150, 4, shift=30), known, LIMITS)[1]
    ] == [None, None]


def test_missing_values_are_told_apart_from_drift(known: Reference) -> None:
    verdict = only(
        report.data_drift(drift_frame(900, 2, missing=0.6), known, LIMITS)[1],
        "missing_values",
    )
    assert verdict.passed is False
    assert "values are missing in temp" in verdict.reason


def test_prediction_drift_compares_outputs_with_those_on_the_test_split(known: Reference) -> None:
    rng = np.random.default_rng(5)
    same, moved = (
        pl.DataFrame({"output": rng.beta(2, 5, 900)}),
        pl.DataFrame({"output": rng.beta(5, 2, 900)}),
    )
    assert report.prediction_drift(same, known.output, LIMITS)[1][0].passed is True
    assert report.prediction_drift(moved, known.output, LIMITS)[1][0].passed is False
    assert report.prediction_drift(moved, None, LIMITS)[1][0].passed is None


def test_skew_compares_numbers_as_float32_and_texts_by_vocabulary() -> None:
    online = pl.DataFrame({
        "prediction_id": ["1", "2", "3", "4"], "flight_id": ["a", "b", "c", "z"],
        "temp": pl.Series([0.1, None, 3.0, 9.0], dtype=pl.Float32), "carrier": ["AA", "(unseen)", None, "AA"],
    })  # fmt: skip
    offline = pl.DataFrame(
        {"flight_id": ["c", "b", "a"], "temp": [3.5, None, 0.1], "carrier": [None, "ZZ", "AA"]}
    )
    features = {"temp": None, "carrier": frozenset({"AA", "UA"}), "gone": None}
    found = skew.compare(online, offline, "flight_id", features)
    assert found.different == {"temp": 1, "carrier": 0}
    assert (found.compared, found.unmatched) == (3, 1)
    assert found.examples == (("3", "temp", 3.0, 3.5),)
    measures, verdicts, notes = skew.report(found, LIMITS)
    assert only(verdicts, "skew").passed is False
    assert find(measures, "equal_share").value == pytest.approx(5 / 6)
    assert "1 predictions are for entities" in notes[0]


def test_skew_without_a_comparable_row_is_not_judged() -> None:
    nothing = pl.DataFrame({"prediction_id": ["1"], "flight_id": ["a"], "temp": [1.0]})
    found = skew.compare(
        nothing, nothing.drop("prediction_id").clear(), "flight_id", {"temp": None}
    )
    assert skew.report(found, LIMITS)[1][0].passed is None
