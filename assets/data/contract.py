"""The contract of a source, judged by Great Expectations.

Every rule is derived from the declared columns; nothing is said twice. A whole range of days is
judged in one pass. Broken rows are found again by their position, which gives the results by day.
Parsing cells, setting rows aside and pages for people belong to modules of their own.
"""

from __future__ import annotations

import copy
import os
import threading
from collections import defaultdict
from collections.abc import Mapping
from datetime import date
from typing import TYPE_CHECKING, Any, NamedTuple

from assets.data.parse import UNREADABLE
from declare.source import DATE, EVENT_TIME, KNOWN_AT, Source, SourceColumn

if TYPE_CHECKING:
    import pandas as pd
    import polars as pl
    from great_expectations import ExpectationSuite
    from great_expectations.core import (
        ExpectationSuiteValidationResult,
        ExpectationValidationResult,
    )
    from great_expectations.core.batch_definition import BatchDefinition
    from great_expectations.datasource.fluent.interfaces import Batch
    from great_expectations.expectations import Expectation

DELIVERED_UNTIL = "_delivered_until"
RULE = "rule"  # position of an expectation in its suite
SHOWN_VALUES = 12

# Great Expectations registers data sources by name in one context per process.
_LOCK = threading.Lock()
_SUITES: dict[str, tuple[BatchDefinition[Any], ExpectationSuite]] = {}


class Rule(NamedTuple):
    """One rule with the number of rows that break it."""

    text: str
    broken: int


class Judgement(NamedTuple):
    """What was found out about a frame of rows.

    `reasons` says why a row is broken, by its position. `result` is what Great Expectations says of
    every rule, for its Data Docs.
    """

    rules: tuple[Rule, ...]
    reasons: dict[int, str]
    result: ExpectationSuiteValidationResult


def judge(source: Source, rows: pl.DataFrame) -> Judgement:
    """Judge parsed rows (see `parse.parse`); those of daily sources have `_delivered_until`, too.

    `_delivered_until` is the end of the delivery day. Raises RuntimeError when a rule could not be
    evaluated: what was not judged has not passed.
    """
    frame = _pandas(rows)
    with _LOCK:
        definition, suite = _suite(source)
        result = _result(definition.get_batch({"dataframe": frame}), suite)

    broken = _broken(source, suite, result)
    rules = [
        Rule(str(expectation.notes), len(positions))
        for expectation, positions in zip(suite.expectations, broken, strict=True)
    ]
    return Judgement(tuple(rules), _reasons(rows, suite, broken), result)


def broken_by_day(rows: pl.DataFrame, reasons: Mapping[int, str]) -> dict[date | None, int]:
    """Number of broken rows by delivery day (None: of a source that lands once)."""
    counts: dict[date | None, int] = defaultdict(int)
    days = rows.get_column(DATE).to_list() if DATE in rows.columns else [None] * rows.height
    for position in reasons:
        counts[days[position]] += 1
    return dict(counts)


def expectations(source: Source) -> list[Expectation]:
    """The rules of a source's declared columns; each expectation's `notes` say it in words."""
    import great_expectations.expectations as gx

    rules: list[Expectation] = [
        gx.ExpectColumnValuesToBeNull(
            column=UNREADABLE, notes="every cell reads as its declared kind"
        )
    ]
    required = [name for name, column in source.columns.items() if not column.nullable]
    rules += [
        gx.ExpectColumnValuesToNotBeNull(column=name, notes=f"{name} is null")
        for name in [*required, EVENT_TIME, KNOWN_AT]
    ]
    for name, column in source.columns.items():
        rules += _of_column(name, column)

    identity = list(dict.fromkeys([*source.keys, KNOWN_AT, *([DATE] if source.daily else [])]))
    text = f"{', '.join(source.keys)} and known_at occur more than once in the delivery"
    rules.append(gx.ExpectCompoundColumnsToBeUnique(column_list=identity, notes=text))
    if source.daily:
        rules.append(
            gx.ExpectColumnPairValuesAToBeGreaterThanB(
                column_A=DELIVERED_UNTIL,
                column_B=KNOWN_AT,
                ignore_row_if="either_value_is_missing",
                or_equal=True,
                notes="known_at lies after the day of delivery",
            )
        )
    return rules


def _of_column(name: str, column: SourceColumn) -> list[Expectation]:
    """Rules of a column's range, values and pattern."""
    import great_expectations.expectations as gx

    rules: list[Expectation] = []
    if column.ge is not None or column.le is not None:
        low, high = ("" if bound is None else f"{bound:g}" for bound in (column.ge, column.le))
        text = f"{name} lies outside {low or '−∞'} to {high or '∞'}"
        rules.append(
            gx.ExpectColumnValuesToBeBetween(
                column=name, min_value=column.ge, max_value=column.le, notes=text
            )
        )

    if column.values is not None:
        more = " …" if len(column.values) > SHOWN_VALUES else ""
        text = f"{name} is none of {', '.join(column.values[:SHOWN_VALUES])}{more}"
        rules.append(
            gx.ExpectColumnValuesToBeInSet(column=name, value_set=list(column.values), notes=text)
        )

    if column.pattern is not None:
        text = f"{name} does not match {column.pattern}"
        rules.append(
            gx.ExpectColumnValuesToMatchRegex(column=name, regex=column.pattern, notes=text)
        )
    return rules


def _suite(source: Source) -> tuple[BatchDefinition[Any], ExpectationSuite]:
    """Batch definition and suite of a source, built once per process."""
    os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")
    declared = source.model_dump_json()
    if declared not in _SUITES:
        import great_expectations
        from great_expectations.data_context.types.base import ProgressBarsConfig

        context = great_expectations.get_context(mode="ephemeral")
        context.variables.progress_bars = ProgressBarsConfig(globally=False)
        asset = context.data_sources.add_pandas("landing").add_dataframe_asset(source.name)
        suite = great_expectations.ExpectationSuite(
            name=f"{source.name} contract", expectations=expectations(source)
        )
        for number, expectation in enumerate(suite.expectations):
            expectation.meta = {RULE: number}
        _SUITES[declared] = (asset.add_batch_definition_whole_dataframe("delivery"), suite)
    return _SUITES[declared]


def _result(batch: Batch, suite: ExpectationSuite) -> ExpectationSuiteValidationResult:
    """What Great Expectations says of every rule, in the order of the suite.

    Whether a rule holds is cheap to ask. Which rows break it is asked only of the rules that fail.
    """
    quick = _validate(batch, suite, {"result_format": "BOOLEAN_ONLY"})
    found = {_number(one): one for one in quick.results}
    failing = [number for number, one in sorted(found.items()) if not one.success]
    if failing:
        from great_expectations import ExpectationSuite

        part = ExpectationSuite(
            name=suite.name,
            expectations=[copy.copy(suite.expectations[number]) for number in failing],
        )
        wanted = {"result_format": "COMPLETE", "return_unexpected_index_query": False}
        found |= {_number(one): one for one in _validate(batch, part, wanted).results}

    quick.results = [found[number] for number in sorted(found)]
    return quick


def _validate(
    batch: Batch, suite: ExpectationSuite, result_format: dict[str, Any]
) -> ExpectationSuiteValidationResult:
    result = batch.validate(suite, result_format=result_format)
    for one in result.results:
        # Great Expectations reports what it could not evaluate instead of raising: for the whole
        # expectation, or by metric, in a dictionary without the key `raised_exception`.
        info = one.exception_info
        if info and info.get("raised_exception", True):
            rule = f"{one.expectation_config.type} {one.expectation_config.kwargs}"
            raise RuntimeError(
                f"{suite.name}: {rule} could not be evaluated, so no row was judged: {info}"
            )
    return result


def _number(result: ExpectationValidationResult) -> int:
    """Which rule a result speaks of: results do not come in the order of the suite."""
    return int(result.expectation_config.meta[RULE])


def _broken(
    source: Source, suite: ExpectationSuite, result: ExpectationSuiteValidationResult
) -> list[list[int]]:
    """Positions of the rows that break each rule of the suite."""
    broken = []
    for expectation, one in zip(suite.expectations, result.results, strict=True):
        positions = [int(each) for each in one.result.get("unexpected_index_list") or ()]
        if not one.success and not positions:
            raise RuntimeError(
                f"source {source.name!r}: the rule '{expectation.notes}' fails without naming "
                "rows, so no row was judged; read the batch by hand"
            )
        broken.append(positions)
    return broken


def _reasons(
    rows: pl.DataFrame, suite: ExpectationSuite, broken: list[list[int]]
) -> dict[int, str]:
    """Why each broken row is broken, in words."""
    unreadable = rows.get_column(UNREADABLE)
    reasons: dict[int, list[str]] = defaultdict(list)
    for expectation, positions in zip(suite.expectations, broken, strict=True):
        text = str(expectation.notes)
        for position in positions:
            said = unreadable[position] or ""
            if getattr(expectation, "column", None) == UNREADABLE:
                reasons[position].insert(0, said)
            # A cell that could not be read is null; saying that twice helps nobody.
            elif f"{text.split(' ', 1)[0]}: '" not in said:
                reasons[position].append(text)
    return {position: "; ".join(said) for position, said in sorted(reasons.items())}


def _pandas(rows: pl.DataFrame) -> pd.DataFrame:
    """Rows as Great Expectations wants them.

    Integers and booleans keep their nulls beside exact values. As floats they would lose digits, as
    objects they would be slow. Other kinds have a null of their own.
    """
    import pandas as pd
    import pyarrow as pa

    kinds = {pa.int64(): pd.Int64Dtype(), pa.bool_(): pd.BooleanDtype()}
    frame: pd.DataFrame = rows.to_arrow().to_pandas(types_mapper=kinds.get, date_as_object=False)
    return frame
