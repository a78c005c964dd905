"""Declared groups, live: the validation's own fairness figures over matured predictions.

The limit is the gate's. The monitor alarms where even the lower end of a gap exceeds it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from assets.reporting.report import Measure, Verdict
from assets.tabular.validation import gates, rules
from assets.tabular.validation.bootstrap import number_days
from assets.tabular.validation.examinations.fairness import fairness, measures as fairness_measures
from assets.tabular.validation.examinations.slices import grouping

if TYPE_CHECKING:
    import polars as pl

    from declare.gates import Fairness
    from declare.tabular import Tabular

Result = tuple[tuple[Measure, ...], tuple[Verdict, ...], tuple[str, ...]]


def report(rows: pl.DataFrame, subject: str, pipeline: Tabular) -> Result:
    """Measures, verdicts and notes over `matured` rows that the bundle `subject` answered."""
    import polars as pl

    own = rows.filter(pl.col("y").is_not_null() & (pl.col("bundle") == subject))
    if not pipeline.fairness:
        return (), (), ("No groups are declared: fairness was NOT examined.",)

    measures: list[Measure] = []
    notes: list[str] = []
    for declared in pipeline.fairness:
        if own.is_empty() or declared.column not in own.columns:
            notes.append(
                f"{declared.column} was NOT examined: "
                "no matured prediction of the champion carries it."
            )
        else:
            measures += _measures(own, declared, pipeline.monitors.minimum_rows)
    return tuple(measures), _verdicts(pipeline, measures, notes, own.height), tuple(notes)


def _measures(own: pl.DataFrame, declared: Fairness, minimum_rows: int) -> list[Measure]:
    y, p = (np.asarray(own[column].to_numpy(), dtype=np.float64) for column in ("y", "output"))
    groups = grouping(own[declared.column].to_numpy())
    days = number_days(own["date"].to_numpy())
    return fairness_measures(
        fairness(y, p, groups, days, declared.column, declared.threshold, minimum_rows)
    )


def _verdicts(
    pipeline: Tabular, measures: list[Measure], notes: list[str], n: int
) -> tuple[Verdict, ...]:
    limit = pipeline.gates.max_fairness_gap
    if limit is None:
        return ()
    if notes:
        (rule,) = gates.required_gates(pipeline)[gates.FAIRNESS]
        reason = " ".join(notes)
        return (Verdict(rule=rule, passed=None, value=None, limit=limit, n=n, reason=reason),)
    declared = gates.judged_gaps(pipeline)
    return (rules.groups_treated_alike(measures, limit, declared, end="low"),)
