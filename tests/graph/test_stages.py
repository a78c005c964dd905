"""Stages name their assets and what they read: the graph, the jobs and code versions follow."""

from __future__ import annotations

import ast
from collections import Counter
from pathlib import Path
from typing import Any, get_args

import dagster as dg
import pytest

import assets
from assets.lifecycles import asset_names, kind_of, stages
from assets.names import asset_key, asset_name
from assets.stage import Cadence, Stage
from assets.tabular.kind import TabularKind
from declare import Gates, Monitors, RetrainingPolicy, Tabular
from pipelines.definitions import build_definitions, platform_resources
from pipelines.flight_delays import pipeline as flight_delays
from pipelines.lifecycle import lifecycle_assets
from resources.lake import Lake
from resources.landing import Landing
from resources.reports import Reports
from resources.settings import Settings
from tests.support.tiny import FIRST, land, tiny

ROOM = Path(assets.__file__).parent
CADENCES: tuple[Cadence, ...] = get_args(Cadence)
# What properties of a declaration are made of. Names and people stand on every asset anyway.
MADE_OF = {
    "aggregates": {"features"},
    "join_keys": {"request", "sources"},
    "joins": {"features"},
    "request_columns": {"request", "sources"},
    "request_source": {"request", "sources"},
    "source": {"sources"},
    "tuned": {"model"},
}
EVERYWHERE = {"name", "owner", "risk"}
PIPELINES = pytest.mark.parametrize("pipeline", [flight_delays, tiny], ids=lambda each: each.name)


def code_versions(pipeline: Tabular) -> dict[str, str | None]:
    """The code version of each asset of the real graph, by asset name."""
    definitions = build_definitions([pipeline], platform_resources(Settings()))
    graph = definitions.resolve_asset_graph()
    return {asset_name(key): graph.get(key).code_version for key in graph.get_all_asset_keys()}


def stale(**changes: object) -> set[str]:
    """Names of the tiny pipeline's assets that a changed declaration makes stale."""
    before, after = code_versions(tiny), code_versions(tiny.model_copy(update=changes))
    return {name for name, version in after.items() if version != before[name]}


@PIPELINES
def test_every_asset_stands_once_under_one_cadence(pipeline: Tabular) -> None:
    named = Counter(name for cadence in CADENCES for name in asset_names(pipeline, cadence))
    assert named == Counter(list(code_versions(pipeline)))


@PIPELINES
def test_a_stage_builds_the_assets_that_it_names_in_its_group(pipeline: Tabular) -> None:
    kind = kind_of(pipeline)
    for stage in stages(pipeline):
        specs = [spec for each in stage.build(pipeline, kind) for spec in each.specs]
        named = {name for names in stage.assets(pipeline).values() for name in names}
        assert {asset_name(spec.key) for spec in specs} == named
        assert {spec.group_name for spec in specs} == {stage.group}


def test_every_stage_folder_exports_its_stage() -> None:
    folders = {path.parent for path in ROOM.rglob("assets.py")}
    assert len(stages(tiny)) == len(folders)
    assert len({stage.name for stage in stages(tiny)}) == len(folders)


def test_jobs_materialize_what_the_stages_name() -> None:
    definitions = build_definitions([tiny], platform_resources(Settings()))
    jobs: dict[str, tuple[Cadence, ...]] = {
        "tiny_nightly": ("landed_once", "ingested", "monitored"),
        "tiny_retrain": ("retrained", "released"),
        "tiny_release": ("released",),
    }
    for job, cadences in jobs.items():
        selected = definitions.resolve_job_def(job).asset_layer.selected_asset_keys
        assert selected == {asset_key("tiny", name) for name in asset_names(tiny, *cadences)}


def test_a_touched_gate_makes_reports_stale_and_leaves_data_and_training_alone() -> None:
    gates = tiny.gates.model_copy(update={"champion_margin": 0.1})
    assert stale(gates=gates) == {
        *(name for name in code_versions(tiny) if name.startswith("validation/")),
        "bundle",
        "approval",
        "release",
    } - {"validation/rollout"}


def test_a_touched_contract_makes_that_raw_data_stale_and_leaves_training_alone() -> None:
    jobs, *others = tiny.sources
    load = jobs.columns["load"].model_copy(update={"le": 90})
    touched = jobs.model_copy(update={"columns": {**jobs.columns, "load": load}})

    # The bundle holds the request's contract: the endpoint refuses what breaks it.
    released = {"bundle", "approval", "release"}
    assert stale(sources=(touched, *others)) == {"raw/jobs", *released}


@pytest.mark.parametrize(
    ("changes", "fresh", "touched"),
    [
        ({"monitors": Monitors(minimum_rows=21)}, "candidate", "monitoring/data_drift"),
        ({"retraining": RetrainingPolicy(every_days=9)}, "candidate", "retraining_decision"),
        ({"model": tiny.model.model_copy(update={"seed": 7})}, "features", "candidate"),
        ({"lead": 2 * tiny.lead}, "raw/jobs", "features"),
        ({"gates": Gates(max_fairness_gap=0.3)}, "candidate", "monitoring/fairness"),
    ],
    ids=["monitors", "retraining", "model", "lead", "fairness"],
)
def test_a_change_makes_stale_what_reads_it(
    changes: dict[str, Any], fresh: str, touched: str
) -> None:
    found = stale(**changes)
    assert touched in found
    assert fresh not in found


def test_raw_data_keeps_the_version_of_the_contract_that_it_was_read_under(tmp_path: Path) -> None:
    """Dagster calls an asset stale once the declared version is not the one it recorded."""
    key = asset_key("tiny", "raw/machines")
    resources = {
        "landing": Landing(uri=str(tmp_path / "landing")),
        "lake": Lake(uri=str(tmp_path / "lake")),
        "reports": Reports(uri=str(tmp_path / "reports"), url="http://reports"),
    }
    land(resources["landing"], FIRST, FIRST)
    raw = [asset for asset in lifecycle_assets(tiny) if asset.key == key]
    with dg.DagsterInstance.ephemeral() as instance:
        assert dg.materialize(raw, resources=resources, instance=instance).success
        recorded = instance.get_latest_materialization_code_versions([key])[key]

    age = tiny.source("machines").columns["age"].model_copy(update={"le": 60})
    columns = {**tiny.source("machines").columns, "age": age}
    machines = tiny.source("machines").model_copy(update={"columns": columns})
    touched = tiny.model_copy(update={"sources": (*tiny.sources[:-1], machines)})
    assert recorded == code_versions(tiny.model_copy(update={"gates": Gates()}))["raw/machines"]
    assert recorded != code_versions(touched)["raw/machines"]


class Recorder:
    """A pipeline that remembers which of its fields were read."""

    def __init__(self, pipeline: Tabular) -> None:
        self._pipeline, self.read = pipeline, set[str]()

    def __getattr__(self, name: str) -> Any:
        self.read |= MADE_OF.get(name, {name})
        return getattr(self._pipeline, name)


@pytest.mark.parametrize("stage", stages(tiny), ids=lambda stage: stage.name)
def test_a_stage_reads_no_more_of_the_declaration_than_it_names(stage: Stage[Any]) -> None:
    recorder: Any = Recorder(tiny)
    for names in stage.assets(tiny).values():
        for name in names:
            stage.reads(recorder, TabularKind(recorder), name)

    assert fields_in_code_of(stage) - recorder.read - EVERYWHERE == set()


def fields_in_code_of(stage: Stage[Any]) -> set[str]:
    """Fields of the declaration that any module of a stage mentions, as `….pipeline.<field>`."""
    folder = next(
        path.parent for path in ROOM.rglob("assets.py") if _module(path) == stage.reads.__module__
    )
    found: set[str] = set()
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and _names_a_pipeline(node.value):
                found |= MADE_OF.get(node.attr, {node.attr})
    return found & set(Tabular.model_fields)


def _names_a_pipeline(node: ast.expr) -> bool:
    name = node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")
    return name in ("pipeline", "_pipeline")


def _module(path: Path) -> str:
    return ".".join(path.relative_to(ROOM.parent).with_suffix("").parts)
