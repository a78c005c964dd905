"""The contract of a source, judged by Great Expectations.

Every rule is derived from the declared columns; nothing is said twice. A whole range of days is judged in one pass, and
broken rows are found again by their position, which gives the results by day.
"""

from __future__ import annotations

import copy
import os
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from typing import TYPE_CHECKING, Any, NamedTuple

from assets.data.parse import UNREADABLE
from declare.source import DATE, EVENT_TIME, KNOWN_AT, Source

if TYPE_CHECKING:
    import pandas as pd
    import polars as pl
    from great_expectations import ExpectationSuite
    from great_expectations.core import (
        ExpectationSuiteValidationResult,
        ExpectationValidationResult,
    )
    from great_expectations.datasource.fluent.interfaces import Batch
    from great_expectations.expectations import Expectation
    from great_expectations.expectations.expectation_configuration import ExpectationConfiguration

DELIVERED_UNTIL = "_delivered_until"
RULE = "rule"  # position of an expectation in its suite

# Great Expectations registers data sources by name in one context per process.
_LOCK = threading.Lock()
_SUITES: dict[str, tuple[Any, ExpectationSuite]] = {}


class Rule(NamedTuple):
    """One rule with the number of rows that break it."""

    text: str
    broken: int


class Judgement(NamedTuple):
    """`reasons`: why a row is broken, by its position. `results`: Great Expectations' own results, for its Data Docs."""

    rules: tuple[Rule, ...]
    reasons: dict[int, str]
    results: tuple[ExpectationSuiteValidationResult, ...]

    def merged(self) -> ExpectationSuiteValidationResult:
        """One result for Data Docs: of each rule, what was asked last."""
        first, *later = self.results
        newest = {
            _number(result): result
            for result in [one for results in later for one in results.results]
        }
        merged = copy.copy(first)
        merged.results = [newest.get(_number(result), result) for result in first.results]
        return merged


def judge(source: Source, rows: pl.DataFrame) -> Judgement:
    """Judge parsed rows (see `parse.parse`; with `_delivered_until`, the end of the delivery day, for daily sources).

    Raises RuntimeError when a rule could not be evaluated: what was not judged has not passed.
    """
    if rows.is_empty():
        return Judgement((), {}, ())
    frame = _pandas(rows)
    with _LOCK:
        asset, suite = _suite(source)
        batch = asset.get_batch({"dataframe": frame})
        # Whether a rule holds is cheap to ask; which rows break it is asked only of the rules that do not.
        quick = _validate(batch, suite, {"result_format": "BOOLEAN_ONLY"})
        failing = {_number(result) for result in quick.results if not result.success}
        results = [quick]
        if failing:
            results.append(
                _validate(
                    batch,
                    _part(suite, failing),
                    {"result_format": "COMPLETE", "return_unexpected_index_query": False},
                )
            )
    found = {_number(result): result.result for result in results[-1].results} if failing else {}
    unreadable = dict(enumerate(rows.get_column(UNREADABLE).to_list()))
    reasons: dict[int, list[str]] = defaultdict(list)
    rules = []
    for number, expectation in enumerate(suite.expectations):
        text = str(expectation.notes)
        broken = [
            int(position) for position in found.get(number, {}).get("unexpected_index_list") or ()
        ]
        if number in failing and not broken:
            raise RuntimeError(
                f"source {source.name!r}: the rule '{text}' fails without naming rows, so none can be judged; read the batch by hand"
            )
        rules.append(Rule(text, len(broken)))
        for position in broken:
            said = unreadable[position] or ""
            if getattr(expectation, "column", None) == UNREADABLE:
                reasons[position].insert(0, said)
            # A cell that could not be read is null; saying that twice helps nobody.
            elif f"{text.split(' ', 1)[0]}: '" not in f"{said}":
                reasons[position].append(text)
    return Judgement(
        tuple(rules),
        {position: "; ".join(said) for position, said in sorted(reasons.items())},
        tuple(results),
    )


def expectations(source: Source) -> list[Expectation]:
    """The rules of a source's declared columns; each expectation's `notes` say it in words."""
    import great_expectations.expectations as gx

    rules: list[Expectation] = [
        gx.ExpectColumnValuesToBeNull(
            column=UNREADABLE, notes="every cell reads as its declared kind"
        )
    ]
    required = [name for name, column in source.columns.items() if not column.nullable] + [
        EVENT_TIME,
        KNOWN_AT,
    ]
    rules += [
        gx.ExpectColumnValuesToNotBeNull(column=name, notes=f"{name} is null") for name in required
    ]
    for name, column in source.columns.items():
        if column.ge is not None or column.le is not None:
            low, high = ("" if bound is None else f"{bound:g}" for bound in (column.ge, column.le))
            text = f"{name} lies outside {low or '−∞'} to {high or '∞'}"
            rules.append(
                gx.ExpectColumnValuesToBeBetween(
                    column=name, min_value=column.ge, max_value=column.le, notes=text
                )
            )
        if column.values is not None:
            text = f"{name} is none of {', '.join(column.values[:12])}" + (
                " …" if len(column.values) > 12 else ""
            )
            rules.append(
                gx.ExpectColumnValuesToBeInSet(
                    column=name, value_set=list(column.values), notes=text
                )
            )
        if column.pattern is not None:
            rules.append(
                gx.ExpectColumnValuesToMatchRegex(
                    column=name,
                    regex=column.pattern,
                    notes=f"{name} does not match {column.pattern}",
                )
            )
    identity = list(dict.fromkeys([*source.keys, KNOWN_AT, *([DATE] if source.daily else [])]))
    text = f"{', '.join(source.keys)} and known_at occur more than once in the delivery"
    rules.append(gx.ExpectCompoundColumnsToBeUnique(column_list=identity, notes=text))
    if source.daily:
        rules.append(
            gx.ExpectColumnPairValuesAToBeGreaterThanB(
                column_A=DELIVERED_UNTIL, column_B=KNOWN_AT, ignore_row_if="either_value_is_missing", or_equal=True,
                notes="known_at lies after the day of delivery",
            )
        )  # fmt: skip
    return rules


def _suite(source: Source) -> tuple[Any, ExpectationSuite]:
    """Data asset and suite of a source, built once per process."""
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


def _part(suite: ExpectationSuite, numbers: set[int]) -> ExpectationSuite:
    from great_expectations import ExpectationSuite

    return ExpectationSuite(
        name=suite.name,
        expectations=[copy.copy(suite.expectations[number]) for number in sorted(numbers)],
    )


def _number(result: ExpectationValidationResult) -> int:
    """Which rule a result speaks of: results do not come in the order of the suite."""
    return int(result.expectation_config.meta[RULE])


@contextmanager
def _configured_once() -> Iterator[None]:
    """Have each expectation's configuration derived once: Great Expectations does so some eighty times in a validation, which is most
    of what judging a day costs. Nothing changes an expectation while it is judged. Call under `_LOCK`."""
    from great_expectations.expectations.expectation import Expectation

    derive = Expectation.configuration
    # The expectation is kept too, so that no other one gets its identity meanwhile.
    kept: dict[int, tuple[Expectation, ExpectationConfiguration]] = {}

    def configuration(expectation: Expectation) -> ExpectationConfiguration:
        if id(expectation) not in kept:
            kept[id(expectation)] = expectation, derive.__get__(expectation)
        return kept[id(expectation)][1]

    Expectation.configuration = property(configuration)
    try:
        yield
    finally:
        Expectation.configuration = derive


def _validate(
    batch: Batch, suite: ExpectationSuite, result_format: dict[str, Any]
) -> ExpectationSuiteValidationResult:
    with _configured_once():
        result = batch.validate(suite, result_format=result_format)
    for one in result.results:
        # Great Expectations reports what it could not evaluate instead of raising.
        if one.exception_info and (
            one.exception_info.get("raised_exception")
            or "raised_exception" not in one.exception_info
        ):
            raise RuntimeError(
                f"{suite.name}: {one.expectation_config.type} {one.expectation_config.kwargs} could not be evaluated: {one.exception_info}"
            )
    return result


def _pandas(rows: pl.DataFrame) -> pd.DataFrame:
    import polars as pl

    # Integers and booleans with nulls as objects would be slow and lose precision; Int64 and boolean keep both.
    frame = rows.with_columns(pl.col(pl.Date).cast(pl.String)).to_pandas()
    for name, kind in rows.schema.items():
        if kind.is_integer() and rows.get_column(name).null_count():
            frame[name] = (
                rows.get_column(name).to_pandas(use_pyarrow_extension_array=False).astype("Int64")
            )
    return frame


def broken_by_day(rows: pl.DataFrame, reasons: dict[int, str]) -> dict[date | None, int]:
    """Number of broken rows by delivery day (None: of a source that lands once)."""
    counts: dict[date | None, int] = defaultdict(int)
    days = rows.get_column(DATE).to_list() if DATE in rows.columns else [None] * rows.height
    for position in reasons:
        counts[days[position]] += 1
    return dict(counts)
