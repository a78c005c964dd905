"""Declared groups, live: the validation's own fairness figures and rule over matured predictions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from assets.reporting.report import Measure, Verdict
from assets.tabular.validation import gates
from assets.tabular.validation.examinations.fairness import fairness, measures as fairness_measures
from assets.tabular.validation.examinations.slices import grouping

if TYPE_CHECKING:
    import polars as pl

    from declare.tabular import Tabular


def report(
    rows: pl.DataFrame, subject: str, pipeline: Tabular
) -> tuple[tuple[Measure, ...], tuple[Verdict, ...], tuple[str, ...]]:
    """Measures, verdicts and notes over `matured` rows that the bundle `subject` answered; limits are the gate's."""
    import polars as pl

    own = rows.filter(pl.col("y").is_not_null() & (pl.col("bundle") == subject))
    if not pipeline.fairness:
        return (
            (),
            gates.verdicts(pipeline, gates.FAIRNESS, ()),
            ("No groups are declared: fairness was NOT examined.",),
        )
    y, p = (np.asarray(own[column].to_numpy(), dtype=np.float64) for column in ("y", "output"))
    found: list[Measure] = []
    notes: list[str] = []
    for declared in pipeline.fairness:
        if own.is_empty() or declared.column not in own.columns:
            notes.append(
                f"{declared.column} was NOT examined: no matured prediction of the champion carries it."
            )
            continue
        groups = grouping(own[declared.column].to_numpy())
        found += fairness_measures(
            fairness(
                y, p, groups, declared.column, declared.threshold, pipeline.monitors.minimum_rows
            )
        )
    if notes:
        verdicts = tuple(
            Verdict(
                rule=rule,
                passed=None,
                value=None,
                limit=pipeline.gates.max_fairness_gap,
                n=own.height,
                reason=" ".join(notes),
            )
            for rule in gates.required_gates(pipeline)[gates.FAIRNESS]
        )
        return tuple(found), verdicts, tuple(notes)
    return tuple(found), gates.verdicts(pipeline, gates.FAIRNESS, found), ()
