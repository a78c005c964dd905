"""Slices: found, counted and compared with the whole."""

from __future__ import annotations

import numpy as np
import pytest

from assets.tabular.validation.examinations import slices
from assets.tabular.validation.examinations.slices import MISSING, OTHERS, grouping


def _bad_in(place: str, n: int = 4_000) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    origin = generator.choice(["EWR", "JFK", "LGA"], n).astype(object)
    p = generator.uniform(0.1, 0.5, n)
    y = (generator.random(n) < np.where(origin == place, 1 - p, p)).astype(float)
    return y, p, origin


@pytest.mark.parametrize("primary", ["log_loss", "brier", "roc_auc"])
def test_the_bad_slice_has_the_greatest_gap(primary: str) -> None:
    y, p, origin = _bad_in("JFK")
    found = slices.slices(y, p, {"origin": origin}, np.arange(len(y)) % 20, primary)
    worst = max(found, key=lambda each: each.gap)
    assert [each.value for each in found] == ["EWR", "JFK", "LGA"]
    assert worst.value == "JFK"
    assert worst.gap_interval.low > 0
    assert all(each.gap_interval.low <= each.gap <= each.gap_interval.high for each in found)
    assert sum(each.n for each in found) == len(y)


def test_slice_values_equal_values_by_hand() -> None:
    y, p, origin = _bad_in("JFK")
    found = {
        each.value: each
        for each in slices.slices(y, p, {"origin": origin}, np.arange(len(y)) % 20, "brier")
    }
    rows = origin == "EWR"
    assert found["EWR"].metric == pytest.approx(((p - y)[rows] ** 2).mean())
    assert found["EWR"].base_rate == pytest.approx(y[rows].mean())
    assert found["EWR"].predicted == pytest.approx(p[rows].mean())


def test_nulls_are_a_group_of_their_own() -> None:
    assert grouping(np.array(["b", None, "a", None], dtype=object)).names == (MISSING, "a", "b")
    assert grouping(np.array([1.0, np.nan, 2.0])).names == ("1", "2", MISSING)
    assert grouping(np.array([True, False, None], dtype=object)).names == (MISSING, "False", "True")


def test_numbers_are_cut_at_quartiles_and_every_row_is_in_one_group() -> None:
    values = np.append(np.arange(100.0), np.nan)
    groups = grouping(values)
    assert len(groups.names) == 5
    assert np.bincount(groups.codes).tolist() == [25, 25, 25, 25, 1]


def test_rare_values_are_looked_at_together() -> None:
    groups = grouping(
        np.array([f"v{index}" for index in range(1_000)] + ["often"] * 5, dtype=object)
    )
    assert len(groups.names) == 300
    assert OTHERS in groups.names
    assert "often" in groups.names


def test_no_rows_give_no_slices() -> None:
    assert (
        slices.slices(
            np.zeros(0),
            np.zeros(0),
            {"origin": np.zeros(0, dtype=object)},
            np.zeros(0, dtype=int),
            "log_loss",
        )
        == []
    )


def test_measures_tell_metric_gap_and_n_of_every_slice() -> None:
    y, p, origin = _bad_in("LGA", 600)
    found = slices.slices(y, p, {"origin": origin}, np.arange(len(y)) % 20, "log_loss")
    measures = slices.measures(found, "log_loss")
    assert {(measure.name, measure.group) for measure in measures} >= {
        ("gap", "origin=LGA"),
        ("log_loss", "origin=EWR"),
        ("base_rate", "origin=JFK"),
    }
    assert all(
        measure.n == next(each.n for each in found if each.name == measure.group)
        for measure in measures
    )
