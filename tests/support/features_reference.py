"""Features by the book: a slow pandas computation of what `assets.tabular.features.point_in_time` must give.

It shares nothing with the platform's code but the declaration: it takes a day at a time, sorts versions, and looks.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from datetime import date, timedelta
from typing import Any

import numpy as np
import pandas as pd

from bundle.features.expression import (
    Category,
    Column,
    Expression,
    Join,
    Literal,
    Operation,
    Rolling,
)
from declare.tabular import Tabular

DAY = timedelta(days=1)
HORIZON = timedelta(days=35)
Frames = dict[str, pd.DataFrame]

OPERATIONS: dict[str, Callable[..., Any]] = {
    "add": np.add, "sub": np.subtract, "mul": np.multiply, "truediv": np.divide, "floordiv": np.floor_divide, "mod": np.mod,
    "sin": np.sin, "cos": np.cos, "log1p": np.log1p,
}  # fmt: skip
COMPARISONS: dict[str, Callable[..., Any]] = {
    "eq": np.equal,
    "ge": np.greater_equal,
    "gt": np.greater,
    "lt": np.less,
    "le": np.less_equal,
}


def reference(pipeline: Tabular, raw: Frames, days: Sequence[date]) -> pd.DataFrame:
    """Feature rows of days: entity, event_time, known_at, inputs_known_at, the features, day; in order of event time and entity.

    `raw` holds the raw rows of every source, with `date` where it lands daily.
    """
    frames = {name: effective(pipeline, frame) for name, frame in raw.items()}
    requests = sent(pipeline, frames[pipeline.request])
    rows = requests[requests["_day"].isin(list(days))].reset_index(drop=True)
    rows["_refresh"] = [newest_refresh(pipeline, moment) for moment in rows["_predicted_at"]]
    refreshed = {day: refresh(pipeline, day) for day in sorted(set(rows["_refresh"]))}
    facts = {
        (day, source): known_facts(pipeline, frames, requests, source, day)
        for source in rolled(pipeline)
        for day in refreshed
    }
    known = [rows["known_at"]]
    out = rows[[pipeline.entity, "event_time"]].copy()
    for feature in pipeline.features:
        value = evaluate(pipeline, feature.expression, rows, frames, facts, known)
        out[feature.name] = (
            value
            if isinstance(feature.expression, Category)
            else pd.Series(value, index=rows.index).astype(float)
        )
    out["known_at"] = rows["_predicted_at"]
    out["inputs_known_at"] = (
        pd.concat([one.dt.tz_localize(None) for one in known], axis=1)
        .max(axis=1)
        .dt.tz_localize("UTC")
    )
    out["date"] = rows["_day"]
    return out.sort_values(["event_time", pipeline.entity]).reset_index(drop=True)


def effective(pipeline: Tabular, frame: pd.DataFrame) -> pd.DataFrame:
    """Rows known no earlier than the day of their delivery."""
    frame = frame.copy()
    if "date" in frame:
        days = (
            pd.Series(pd.to_datetime(frame["date"]))
            .dt.tz_localize(pipeline.timezone)
            .dt.tz_convert("UTC")
        )
        frame["known_at"] = frame["known_at"].where(frame["known_at"] >= days, days)
    return frame


def local_day(pipeline: Tabular, moments: pd.Series) -> pd.Series:
    return moments.dt.tz_convert(pipeline.timezone).dt.date


def refresh(pipeline: Tabular, day: date) -> pd.Timestamp:
    return (pd.Timestamp(day) + pipeline.refresh).tz_localize(pipeline.timezone).tz_convert("UTC")


def newest_refresh(pipeline: Tabular, moment: pd.Timestamp) -> date:
    day = moment.tz_convert(pipeline.timezone).date()
    while refresh(pipeline, day) > moment:
        day -= DAY
    return day


def sent(pipeline: Tabular, frame: pd.DataFrame) -> pd.DataFrame:
    """Versions of requests that were predicted: known by then, and not replaced by then; the last one of a day."""
    rows = frame.sort_values("known_at", kind="stable").copy()
    rows["_predicted_at"] = rows["event_time"] - pipeline.lead
    successor = rows.groupby(pipeline.entity)["known_at"].shift(-1)
    rows = rows[
        (rows["known_at"] <= rows["_predicted_at"])
        & (successor.isna() | (successor > rows["_predicted_at"]))
    ]
    rows["_day"] = local_day(pipeline, rows["event_time"])
    return rows.drop_duplicates([pipeline.entity, "_day"], keep="last")


def rolled(pipeline: Tabular) -> set[str]:
    return {node.source or pipeline.label.source for node in pipeline.aggregates}


def known_facts(
    pipeline: Tabular, frames: Frames, requests: pd.DataFrame, source: str, day: date
) -> pd.DataFrame:
    """Facts as the refresh of a day sees them, with the columns of their request."""
    frame = frames[source]
    window = max(
        node.days
        for node in pipeline.aggregates
        if (node.source or pipeline.label.source) == source
    )
    recent = frame[
        (frame["known_at"] <= refresh(pipeline, day))
        & (frame["event_time"] > pd.Timestamp(day, tz="UTC") - (window + 60) * DAY)
    ]
    matured = pipeline.label.matures_after if source == pipeline.label.source else timedelta(0)
    newest = (
        recent.sort_values("known_at", kind="stable")
        .drop_duplicates(list(pipeline.source(source).keys), keep="last")
        .copy()
    )
    newest["_event_day"] = local_day(pipeline, newest["event_time"])
    newest = newest[
        (newest["_event_day"] >= day - window * DAY)
        & (newest["_event_day"] < day)
        & (newest["event_time"] + matured <= refresh(pipeline, day))
    ].reset_index(drop=True)
    if pipeline.entity not in newest:
        return newest
    borrowed = [name for name in pipeline.request_columns if name not in newest]
    near = requests[(requests["_day"] >= day - (window + 1) * DAY) & (requests["_day"] < day)]
    near = near[[pipeline.entity, "_day", "known_at", *borrowed]].rename(
        columns={"known_at": "_sent", "_day": "_request_day"}
    )
    pairs = newest.reset_index(names="_row").merge(near, on=pipeline.entity)
    apart = (pd.to_datetime(pairs["_event_day"]) - pd.to_datetime(pairs["_request_day"])).dt.days
    pairs = (
        pairs[(apart == 0) | (apart == 1)]
        .sort_values("_sent")
        .drop_duplicates("_row", keep="last")
        .set_index("_row")
    )
    return newest.join(pairs[borrowed])


def evaluate(
    pipeline: Tabular,
    node: Expression,
    rows: pd.DataFrame,
    frames: Frames,
    facts: dict[tuple[date, str], pd.DataFrame],
    known: list[pd.Series],
) -> Any:
    """Value of a tree for each row; what was looked up adds to `known` when it was known."""
    match node:
        case Literal(value=value):
            return value
        case Column(name=name):
            return rows[name]
        case Category(operand=operand):
            return evaluate(pipeline, operand, rows, frames, facts, known)
        case Join():
            values, moments = joined(pipeline, node, rows, frames[node.source])
            known.append(moments)
            return values
        case Rolling():
            values, moments = aggregated(pipeline, node, rows, facts)
            known.append(moments)
            return values
        case Operation(operator=name, operands=operands):
            values = [
                evaluate(pipeline, operand, rows, frames, facts, known) for operand in operands
            ]
            return operated(pipeline, name, values)
    raise NotImplementedError(type(node).__name__)


def operated(pipeline: Tabular, name: str, values: list[Any]) -> Any:
    if name in ("weekday", "hour"):
        local = values[0].dt.tz_convert(pipeline.timezone).dt
        return local.weekday + 1.0 if name == "weekday" else local.hour.astype(float)
    if name == "is_null":
        return values[0].isna()
    if name == "fill_null":
        return values[0].fillna(values[1])
    if name in COMPARISONS:
        result = pd.Series(COMPARISONS[name](values[0], values[1])).astype(object)
        for value in values:
            if isinstance(value, pd.Series):
                result[value.isna()] = None
        return result
    with np.errstate(all="ignore"):
        result = OPERATIONS[name](
            *(
                value.astype(float) if isinstance(value, pd.Series) else float(value)
                for value in values
            )
        )
    return result.where(np.isfinite(result))


def joined(
    pipeline: Tabular, node: Join, rows: pd.DataFrame, frame: pd.DataFrame
) -> tuple[pd.Series, pd.Series]:
    """The newest row by key that was known when the prediction was made, and when it was known."""
    pairs = pipeline.join_keys(node)
    theirs, ours = [source for source, _ in pairs], [request for _, request in pairs]
    within = (
        pd.Timedelta(seconds=node.within)
        if node.within
        else (HORIZON if pipeline.source(node.source).daily else None)
    )
    ordered = frame.sort_values("known_at", kind="stable")
    groups = {
        key: (list(group["known_at"]), list(group[node.column]))
        for key, group in ordered.groupby(theirs, dropna=True)
    }
    values, moments = [], []
    for key, predicted in zip(
        rows[ours].itertuples(index=False, name=None), rows["_predicted_at"], strict=True
    ):
        value, moment = None, pd.NaT
        if key in groups:
            known_at, found = groups[key]
            position = bisect_right(known_at, predicted) - 1
            if position >= 0 and (within is None or predicted - known_at[position] <= within):
                value, moment = found[position], known_at[position]
        values.append(value)
        moments.append(moment)
    return pd.Series(values, index=rows.index), pd.Series(
        moments, index=rows.index, dtype="datetime64[us, UTC]"
    )


def aggregated(
    pipeline: Tabular,
    node: Rolling,
    rows: pd.DataFrame,
    facts: dict[tuple[date, str], pd.DataFrame],
) -> tuple[pd.Series, pd.Series]:
    """The statistic of each row's group, and when the newest fact of the group's window was known."""
    source = node.source or pipeline.label.source
    by = list(node.by)
    found: dict[tuple[Any, ...], float] = {}
    newest: dict[tuple[Any, ...], pd.Timestamp] = {}
    for day in sorted(set(rows["_refresh"])):
        window = facts[day, source]
        window = window[window["_event_day"] >= day - node.days * DAY]
        told = window[[*by, "known_at"]].dropna(subset=by)
        for key, group in told.groupby(by) if by else [((), told)]:
            newest[(day, *key)] = group["known_at"].max()
        if isinstance(node.value, Column) and node.value.name == pipeline.label.name:
            values = evaluate(pipeline, pipeline.label.condition, window, {}, {}, [])
        else:
            values = evaluate(pipeline, node.value, window, {}, {}, [])
        values = pd.Series(values, index=window.index).dropna().astype(float)
        groups = window.loc[values.index, by].assign(_value=values).dropna(subset=by)
        for key, group in groups.groupby(by) if by else [((), groups)]:
            numbers = group["_value"].to_numpy()
            found[(day, *key)] = statistic(node.function, numbers)
    keys = list(zip(rows["_refresh"], *(rows[name] for name in by), strict=True))
    missing = 0.0 if node.function == "count" else np.nan
    moments = [newest.get(key, pd.NaT) for key in keys]
    return (
        pd.Series([found.get(key, missing) for key in keys], index=rows.index),
        pd.Series(moments, index=rows.index, dtype="datetime64[us, UTC]"),
    )


def statistic(function: str, numbers: Any) -> float:
    if function == "count":
        return float(len(numbers))
    if len(numbers) == 0 or (function == "std" and len(numbers) < 2):
        return np.nan
    return float(
        {
            "rate": np.mean,
            "mean": np.mean,
            "min": np.min,
            "max": np.max,
            "std": lambda values: np.std(values, ddof=1),
        }[function](numbers)
    )


def compared(
    reference: pd.DataFrame, computed: pd.DataFrame, names: Sequence[str]
) -> dict[str, float]:
    """Largest relative difference of each numeric column. Raises AssertionError for other nulls, texts or moments."""
    differences = {}
    assert len(reference) == len(computed), (len(reference), len(computed))
    for name in names:
        expected, found = reference[name], computed[name]
        assert (expected.isna().to_numpy() == found.isna().to_numpy()).all(), (name, "nulls differ")
        present = expected.notna().to_numpy()
        if pd.api.types.is_numeric_dtype(found):
            a, b = expected[present].to_numpy(dtype=float), found[present].to_numpy(dtype=float)
            differences[name] = float(
                np.max(np.abs(a - b) / np.maximum(np.abs(a), 1.0), initial=0.0)
            )
        else:
            assert (expected[present].to_numpy() == found[present].to_numpy()).all(), (
                name,
                "values differ",
            )
    return differences
