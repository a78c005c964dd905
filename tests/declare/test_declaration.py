"""A wrong declaration fails when it is loaded: file, pipeline, field, value and what would be right, in one message."""

from __future__ import annotations

import subprocess
import sys
from datetime import date, timedelta
from typing import Any

import pytest
from pydantic import ValidationError

from bundle.desired import NOT_PIPELINES
from declare import (
    Fairness,
    Gates,
    Label,
    Pipeline,
    ReleasePolicy,
    Source,
    Tabular,
    category,
    col,
    days,
    hours,
    join,
    mean,
    number,
    rate,
    text,
)
from declare.base import Declared
from declare.pipeline import TAKEN
from pipelines.flight_delays import pipeline as flight_delays
from tests.support.tiny import tiny

DECLARED: dict[str, Any] = {name: getattr(tiny, name) for name in type(tiny).model_fields}


def with_field(source: str, column: str, **changes: Any) -> tuple[Source, ...]:
    """The tiny pipeline's sources with one column declared otherwise."""

    def changed(one: Source) -> Source:
        columns = {
            name: kept.model_copy(update=changes) if name == column else kept
            for name, kept in one.columns.items()
        }
        return one.model_copy(update={"columns": columns})

    return tuple(changed(one) if one.name == source else one for one in tiny.sources)


WRONG: dict[str, tuple[dict[str, Any], str, str, str]] = {
    # what is wrong: (changed fields, field named, value named, way out named)
    "unknown column in a feature": ({"features": [col("lod")]}, "features.lod", "'lod'", "it has job_id, machine, load"),
    "unknown column in a category": ({"features": [category("colour")]}, "features.colour", "'colour'", "it has job_id, machine, load"),
    "unknown column of a join": ({"features": [join("heat").humidity]}, "features.heat_humidity", "'humidity'", "it has machine, degrees"),
    "unknown source of a join": ({"features": [join("rain").drops]}, "features.rain_drops", "'rain'", "sources are jobs, heat, results, machines"),
    "join without its keys": (
        {"sources": (*tiny.sources, Source("towns", keys=["town"], columns={"town": text(), "size": number()})), "features": [join("towns").size]},
        "features.towns_size", "[]", "needs on=",
    ),
    "join older than nothing": ({"features": [join("heat", within=hours(-1)).degrees]}, "features.heat_degrees", "-3600", "give the greatest age"),
    "join of the label's source": ({"features": [join("results").failed]}, "features.results_failed", "'results'", "use aggregates"),
    "label column as a feature": ({"features": [col("fails")]}, "features.fails", "'fails'", "rate('fails', by=..., over=days(7))"),
    "column of the label's source as a feature": ({"features": [col("failed").named("x")]}, "features.x", "'failed'", "use an aggregate over earlier facts"),
    "column not known at prediction time": (
        {"sources": with_field("jobs", "load", known="after")}, "features.load", "'load'", "known are job_id, machine",
    ),
    "negative window": ({"features": [rate("fails", over=days(-7))]}, "features.fails_rate_-7d", "-7", "give a positive number of days"),
    "empty window": ({"features": [mean("minutes", over=days(0))]}, "features.minutes_mean_0d", "0 days", "give a positive number of days"),
    "aggregate by an unknown column": ({"features": [rate("fails", by="colour", over=days(7))]}, "features.fails_rate_by_colour_7d", "'colour'", "it has job_id"),
    "aggregate of an unknown column": ({"features": [mean("weight", over=days(7))]}, "features.weight_mean_7d", "'weight'", "it has job_id, failed, minutes"),
    "aggregate of an unknown source": ({"features": [mean("size", over=days(7), source="towns")]}, "features.size_mean_7d", "'towns'", "sources are jobs"),
    "duplicate feature": ({"features": [col("load"), col("load")]}, "features", "'load'", "names must differ"),
    "duplicate source": ({"sources": (*tiny.sources, tiny.sources[0])}, "sources", "'jobs'", "names must differ"),
    "feature without a name": ({"features": [col("load") + 1]}, "features.0", "features[0]", ".named('...')"),
    "text as a feature": ({"features": ["load"]}, "features.0", "'load'", "col('...')"),
    "feature with a reserved name": ({"features": [col("load").named("known_at")]}, "features.known_at", "'known_at'", "are taken"),
    "slice over an unknown column": ({"slices": ["colour"]}, "slices", "'colour'", "known are"),
    "gate on an undeclared slice": ({"slices": [], "gates": Gates(max_slice_gap=0.1)}, "gates.max_slice_gap", "0.1", "declare slices=[...]"),
    "gate on undeclared fairness": ({"fairness": [], "gates": Gates(max_fairness_gap=0.1)}, "gates.max_fairness_gap", "0.1", "declare fairness=[...]"),
    "fairness over an unknown column": ({"fairness": [Fairness(column="owner", reason="who owns it")]}, "fairness", "'owner'", "known are"),
    "label of an unknown column": ({"label": Label("fails", col("broke"), source="results")}, "label.condition", "'broke'", "it has job_id, failed, minutes"),
    "label of an unknown source": ({"label": Label("fails", col("failed"), source="outcome")}, "label.source", "'outcome'", "sources are jobs"),
    "label over an aggregate": ({"label": Label("fails", rate("failed", over=days(7)) > 0.5, source="results")}, "label.condition", "rolling", "of its own source alone"),
    "name of an endpoint's folder": ({"name": "service"}, "name", "'service'", "names that are taken so are bundles"),
    "unknown request": ({"request": "orders"}, "request", "'orders'", "sources are jobs"),
    "unknown entity": ({"entity": "order_id"}, "entity", "'order_id'", "its columns are job_id"),
    "negative lead": ({"lead": timedelta(hours=-1)}, "lead", "-1 day, 23:00:00", "zero or more"),
    "end before start": ({"end": date(2020, 1, 1)}, "end", "2020-01-01", "later day"),
    "unknown timezone": ({"timezone": "Mars/Base"}, "timezone", "'Mars/Base'", "America/New_York"),
    "high risk without people": ({"risk": "high", "release": ReleasePolicy(approvals=0)}, "release.approvals", "0", "at least one human approval"),
    "unknown field": ({"colour": "red"}, "colour", "'red'", "fields are baseline"),
    "unknown risk": ({"risk": "huge"}, "risk", "'huge'", "'minimal', 'limited' or 'high'"),
    "wrong kind of value": ({"start": "2024-01-01"}, "start", "'2024-01-01'", "date"),
}  # fmt: skip


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_declaration_names_file_pipeline_field_value_and_way_out(wrong: str) -> None:
    changes, field, value, way_out = WRONG[wrong]
    with pytest.raises(ValidationError) as caught:
        Tabular(**{**DECLARED, **changes})
    message = str(caught.value)
    assert f"Tabular {changes.get('name', 'tiny')!r}" in message
    assert "test_declaration.py:" in message
    assert f"\n{field}\n" in message
    assert value in message
    assert way_out in message


def test_a_missing_field_is_named() -> None:
    with pytest.raises(ValidationError, match=r"Tabular 'tiny' .*\nowner\n  the field is required"):
        Tabular(**{name: value for name, value in DECLARED.items() if name != "owner"})


@pytest.mark.parametrize(
    ("declare", "words"),
    [
        (
            lambda: Source("heat", keys=["town"], columns={"machine": text()}),
            ["Source 'heat'", "keys", "'town'", "columns are machine"],
        ),
        (
            lambda: Source("heat", keys=["machine"], columns={"machine": text(nullable=True)}),
            ["columns.machine.nullable", "never null"],
        ),
        (
            lambda: Source("heat", keys=["known_at"], columns={"known_at": text()}),
            ["columns.known_at", "leave it out"],
        ),
        (
            lambda: Source("heat", keys=["machine"], columns={"machine": text()}, lands="weekly"),
            ["lands", "'weekly'", "the day before"],
        ),
        (
            lambda: Source("heat", keys=["machine"], columns={"machine": text()}, volume=(9, 3)),
            ["volume", "(9, 3)", "least and the most"],
        ),
        (
            lambda: Source("heat", keys=["machine"], columns={"machine": text()}, refuses_above=5),
            ["refuses_above", "5", "less than or equal to 1"],
        ),
        (lambda: number(gte=3), ["SourceColumn", "gte", "fields are", "ge"]),
        (lambda: Gates(primary="accuracy"), ["Gates", "primary", "'accuracy'", "'log_loss'"]),
        (lambda: Gates(min_slice_rows=0), ["min_slice_rows", "greater than or equal to 1"]),
    ],
)
def test_a_wrong_part_names_itself(declare: Any, words: list[str]) -> None:
    with pytest.raises(ValidationError) as caught:
        declare()
    message = str(caught.value)
    assert "test_declaration.py:" in message
    for word in words:
        assert word in message


def test_windows_are_whole_days() -> None:
    with pytest.raises(
        ValueError, match=r"over=12:00:00 is no whole number of days; .*over=days\(7\)"
    ):
        rate("fails", over=timedelta(hours=12))


def test_declarations_are_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        tiny.name = "other"


@pytest.mark.parametrize("pipeline", [tiny, flight_delays], ids=lambda pipeline: pipeline.name)
def test_declared_pipelines_are_whole(pipeline: Tabular) -> None:
    assert isinstance(pipeline, Declared)
    assert pipeline.request_source.keys == (pipeline.entity,)
    assert pipeline.joins
    assert pipeline.aggregates
    # Equal lookups and aggregates in several features are computed once.
    assert len({repr(node) for node in pipeline.aggregates}) == len(pipeline.aggregates)


def test_names_that_an_endpoint_takes_for_its_folders_are_no_pipelines() -> None:
    assert TAKEN == NOT_PIPELINES


def test_the_one_import_line_loads_no_heavy_library() -> None:
    heavy = {"dagster", "mlflow", "numpy", "pandas", "polars", "sklearn", "xgboost"}
    code = "import sys; from declare import *; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert not heavy & set(loaded.stdout.split())


def test_every_kind_of_pipeline_is_declared_with_what_all_have_in_common() -> None:
    shared = {"name", "owner", "purpose", "risk", "sources", "release", "monitors", "retraining"}
    assert shared <= set(Pipeline.model_fields) < set(Tabular.model_fields)
    assert not {"label", "features", "request", "model", "gates"} & set(Pipeline.model_fields)
