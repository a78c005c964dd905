"""An experiment in the graph: it has traffic, is judged on labels, and stops by its own rule."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
import numpy as np
import polars as pl
import pytest

from assets.endpoint import assets as endpoint_stage
from assets.lifecycles import kind_of
from assets.names import PREDICTIONS, asset_path
from assets.reporting.report import load_report
from assets.tabular.monitoring.predictions import columns
from assets.traffic import assets as rollout_stage, experiments
from assets.traffic.entries import Confirmation, ExperimentStop, entries
from assets.traffic.judging.daily import EXPERIMENT
from declare.release import Experiment
from resources.notifier import Notifier
from tests.graph.test_release import DAYS, NAME, World, trained  # noqa: F401  the fixture
from tests.support.tiny import tiny

DEPTH = Experiment(
    name="depth",
    arms={"champion": 0.5, "candidate": 0.5},
    metric="brier",
    minimum_effect=0.02,
    alpha=0.1,
)
DECLARED = tiny.model_copy(update={"experiments": (DEPTH,)})


@pytest.fixture
def world(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:  # noqa: F811
    """A platform whose first bundle serves and whose second one was approved."""
    monkeypatch.setattr(endpoint_stage, "RETRIES", None)
    shutil.copytree(trained, tmp_path / "home")
    made = World(tmp_path / "home", DECLARED)
    made.propose(0)
    made.run()
    made.propose(1)
    made.run("bundle", "approval")
    return made


def answer(world: World, days: slice, *, sabotaged: bool) -> None:
    """Store answers of both arms over some days, the candidate's upside down if `sabotaged`."""
    facts = (
        world.lake.scan(f"{NAME}/raw/results")
        .collect()
        .sort("event_time")
        .unique("job_id", keep="last", maintain_order=True)
    )
    newest = entries(world.ledger, NAME)[-1]
    assert isinstance(newest, Confirmation)
    desired = [bundle for bundle, _ in newest.arms]
    wanted = DAYS[days]
    rows = (
        facts.with_columns(date=pl.col("event_time").dt.date())
        .filter(pl.col("date").is_in(wanted))
        .drop_nulls("failed")
    )
    arm = np.random.default_rng(1).integers(0, 2, rows.height)
    truth = rows["failed"].cast(pl.Float64).to_numpy()
    good = np.clip(0.5 + 0.4 * (truth - 0.5), 0.05, 0.95)
    outputs = np.where((arm == 1) & sabotaged, 1 - good, good)
    frame = pl.DataFrame(
        {
            "prediction_id": rows["job_id"],
            "event_time": rows["event_time"],
            "wall_time": [datetime.now(UTC)] * rows.height,
            "bundle": [desired[each] for each in arm.tolist()],
            "arm": [("champion", "challenger")[each] for each in arm.tolist()],
            "output": outputs,
            "latency_ms": [1.0] * rows.height,
            "date": rows["date"],
            "job_id": rows["job_id"],
        }
    )
    schema = columns(DECLARED)
    filled = frame.with_columns(
        *(pl.lit(None).alias(name) for name in schema if name not in frame.columns)
    ).select(pl.col(name).cast(kind) for name, kind in schema.items())
    world.lake.write(asset_path(NAME, PREDICTIONS), filled, wanted, evolve=True)


def look(world: World, day: int) -> dg.ExecuteInProcessResult:
    definition = next(
        each
        for each in rollout_stage.build(DECLARED, kind_of(DECLARED))
        if each.key.path[-1] == "experiment"
    )
    return dg.materialize(
        [definition],
        instance=world.instance,
        partition_key=DAYS[day].isoformat(),
        resources={
            "lake": world.lake,
            "reports": world.reports,
            "ledger": world.ledger,
            "notifier": Notifier(),
        },
    )


@pytest.mark.parametrize(
    ("sabotaged", "finding"), [(True, "candidate is worse"), (False, "candidate is alike")]
)
def test_an_experiment_ends_by_its_own_rule_and_the_champion_has_all_traffic_again(
    world: World, sabotaged: bool, finding: str
) -> None:
    look(world, -10)
    assert world.kinds[-1] == "approval", "nothing runs yet"
    experiments.start(
        world.ledger, NAME, DEPTH, world.bundle, "ada@example.org", "does depth help?", DAYS[-10]
    )
    world.run("endpoint")
    actual = world.endpoint.actual(NAME)
    assert actual is not None
    assert [arm.share for arm in actual.arms] == [0.5, 0.5]
    answer(world, slice(-10, -1), sabotaged=sabotaged)
    result = look(world, -2)
    assert [check.passed for check in result.get_asset_check_evaluations()] == [True]
    entry = entries(world.ledger, NAME)[-1]
    assert isinstance(entry, ExperimentStop)
    assert entry.actor == "policy"
    assert finding in entry.reason
    report = load_report(world.reports, NAME, EXPERIMENT, DAYS[-2], DEPTH.name)
    assert report is not None
    assert report.digest == entry.report
    page = Path(
        world.reports.uri,
        world.reports.folder(NAME, EXPERIMENT, DAYS[-2], DEPTH.name),
        "index.html",
    ).read_text()
    assert "The intervals hold at every look" in page
    look(world, -2)
    assert entries(world.ledger, NAME)[-1] == entry
    world.run("endpoint")
    actual = world.endpoint.actual(NAME)
    assert actual is not None
    assert actual.bundles == (world.ledger.released(NAME),)
