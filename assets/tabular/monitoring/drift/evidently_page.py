"""Evidently's page of a day: what people look at weekly, on an alarm and on request.

Evidently draws and judges every feature with the statistic and the limit of the daily check, so
that page and verdict never disagree. None of its built-in methods gives that statistic: they drop
missing values and cut the histogram from the rows they are given, while ours counts missing values
over the bins of all training rows. The two methods are therefore registered with Evidently
(`register_stattest`, its public way to add one); it compares their score with the limit itself.

Two dozen features cost two to four seconds, most of it for drawing: not for every day.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

from assets.tabular.monitoring.drift.comparison import Drift
from assets.tabular.monitoring.drift.reference import NumberReference, Reference, sampled_rows

if TYPE_CHECKING:
    import pandas as pd
    import polars as pl

PSI, JENSEN_SHANNON = "evergreen_psi", "evergreen_jensen_shannon"

# Evidently writes categories into a script of its page as they are: `</script>` would end it.
_MARKUP = str.maketrans("<>", "‹›")

# Evidently calls a method with two columns and a threshold; the day's statistics are read here.
_day: ContextVar[Mapping[str, Drift]] = ContextVar("day")


class Judged(NamedTuple):
    """What Evidently's own test said of a feature: its score, the limit, and whether it drifted."""

    score: float
    limit: float
    drifted: bool


class Page(NamedTuple):
    """The page, Evidently's judgement of each feature on it, and the features it cannot draw."""

    html: bytes
    features: dict[str, Judged]
    left_out: tuple[str, ...]


def render(frame: pl.DataFrame, against: Reference, judged: Sequence[Drift]) -> Page | None:
    """Evidently's drift page of a day's rows, with the statistics `judged` over all of them.

    Distributions are drawn from at most 2,000 rows of the day and the reference's sample. Evidently
    refuses features without any value on either side; they are left out. None where no feature is
    left, or where none was judged because the day has too few rows.
    """
    # Evidently reports its use over the network unless told not to; it reads this on import.
    os.environ["DO_NOT_TRACK"] = "1"
    from evidently import DataDefinition, Dataset, Report
    from evidently.metrics import ValueDrift

    candidates = [each for each in judged if each.drifted is not None]
    reference, day = _frames(frame, against, [each.feature for each in candidates])
    drawn = [
        each
        for each in candidates
        if reference[each.feature].notna().any() and day[each.feature].notna().any()
    ]
    if not drawn:
        return None

    _register_methods()
    definition = DataDefinition(
        numerical_columns=[each.feature for each in drawn if each.judged_by == "psi"],
        categorical_columns=[each.feature for each in drawn if each.judged_by == "js"],
    )
    report = Report(
        [
            ValueDrift(
                column=each.feature,
                method=PSI if each.judged_by == "psi" else JENSEN_SHANNON,
                threshold=each.limit,
            )
            for each in sorted(drawn, key=lambda each: each.limit - each.judged)
        ],
        include_tests=True,
    )
    columns = [each.feature for each in drawn]
    token = _day.set({each.feature: each for each in drawn})
    try:
        snapshot = report.run(
            Dataset.from_pandas(day[columns], data_definition=definition),
            Dataset.from_pandas(reference[columns], data_definition=definition),
        )
    finally:
        _day.reset(token)

    html = snapshot.get_html_str(as_iframe=False).encode()
    left_out = tuple(each.feature for each in candidates if each.feature not in columns)
    return Page(html, _judged(snapshot.dict()), left_out)


@cache
def _register_methods() -> None:
    """Register the platform's two statistics with Evidently, once in a process."""
    from evidently import ColumnType
    from evidently.legacy.calculations.stattests import StatTest, register_stattest

    def statistic(
        reference: pd.Series[Any], current: pd.Series[Any], kind: object, threshold: float
    ) -> tuple[float, bool]:
        score = _day.get()[str(current.name)].judged
        return score, score > threshold

    for name, title, column_type in (
        (PSI, "PSI over the deciles of all training rows", ColumnType.Numerical),
        (JENSEN_SHANNON, "Jensen-Shannon distance over all training rows", ColumnType.Categorical),
    ):
        method = StatTest(name=name, display_name=title, allowed_feature_types=[column_type])
        register_stattest(method, default_impl=statistic)


def _frames(
    frame: pl.DataFrame, against: Reference, features: Sequence[str]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The reference's sample and at most as many of the day's rows, as Evidently wants them."""
    import pandas as pd

    rows = frame[sampled_rows(frame.height).tolist()]
    reference = pd.DataFrame(
        {name: pd.Series(_drawable(against.features[name].sample)) for name in features}
    )
    day = pd.DataFrame({name: _drawable(rows[name].to_list()) for name in features})

    kinds = {
        name: "float64" if isinstance(against.features[name], NumberReference) else "object"
        for name in features
    }
    return reference.astype(kinds), day.astype(kinds)


def _drawable(values: Sequence[object]) -> list[object]:
    """Values whose text holds no markup."""
    return [value.translate(_MARKUP) if isinstance(value, str) else value for value in values]


def _judged(snapshot: Mapping[str, Any]) -> dict[str, Judged]:
    """Evidently's own scores and test results by feature, from its public snapshot."""
    scores = {metric["config"]["column"]: metric for metric in snapshot["metrics"]}
    tests = {test["metric_config"]["params"]["column"]: test for test in snapshot["tests"]}
    return {
        name: Judged(
            float(metric["value"]),
            float(metric["config"]["threshold"]),
            tests[name]["status"].value == "FAIL",
        )
        for name, metric in scores.items()
    }
