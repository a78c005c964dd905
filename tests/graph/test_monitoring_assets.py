"""Monitoring and the retraining decision on the tiny pipeline: what a day says, and that it says the same when asked again."""

from __future__ import annotations

import shutil
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import polars as pl
import pytest

from assets.lifecycles import kind_of
from assets.names import raw_table
from assets.reporting.report import Report, load_report
from assets.retraining import assets as retraining
from assets.retraining.decide import Decision, load_decision
from assets.tabular.features.moments import refresh
from assets.tabular.monitoring import assets as monitoring, daily, monitors
from assets.tabular.monitoring.drift.evidently_page import Judged, Page
from assets.tabular.monitoring.late_labels import version_name
from assets.traffic.decisions import request_retraining
from assets.traffic.entries import Rollback, entries, record
from assets.traffic.moves import candidate_of
from bundle.records.record import Record
from bundle.records.service import Sample, Traffic, append
from bundle.records.writer import Writer
from declare.monitors import Monitors
from resources.artifacts import Artifacts
from resources.endpoint import LocalEndpoint
from resources.keys import Keys
from resources.lake import Lake
from resources.landing import Landing
from resources.ledger import Ledger
from resources.reports import Reports
from tests.support.entries import released
from tests.support.tiny import FIRST, land, tiny

DAY = timedelta(days=1)
NAME = tiny.name
DAYS = [FIRST + DAY * offset for offset in range(70)]
AS_OF, LAST, DRIFT = DAYS[44], DAYS[66], DAYS[56]
ROWS = 60
NAMES = [monitor.name for monitor in monitors.MONITORS]


def test_every_monitor_that_the_graph_declares_is_computed() -> None:
    assert set(daily.COMPUTED) == set(NAMES)


@pytest.fixture(scope="module")
def lived(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with a champion as of day 44 that answered every request up to day 66; from day 56 on the world is another."""
    from assets.data import raw
    from assets.data.ingest import collect
    from assets.data.parse import parse
    from assets.tabular.features.declared_program import program
    from assets.tabular.features.point_in_time import features
    from assets.tabular.monitoring.champion import candidate_reference
    from assets.tabular.training import candidate, manifest
    from bundle.features.program import FeatureProgram
    from bundle.models.loading import load_model

    home = tmp_path_factory.mktemp("monitored")
    world = World(home)
    landing = Landing(uri=str(home / "landing"))
    land(landing, last=DAYS[-1], rows=ROWS, drift_from=DRIFT)
    for source in tiny.sources:
        rows = parse(source, collect(tiny, source, DAYS, landing)).rows
        stored = rows.select(
            [
                name
                for name in rows.columns
                if name in {*source.columns, "event_time", "known_at", "date"}
            ]
        )
        place = raw_table(NAME, source.name)
        world.lake.write(place, stored, DAYS) if source.daily else world.lake.overwrite(
            place, stored
        )
    table = features(tiny, DAYS, raw.reader(world.lake, NAME))
    world.lake.write(f"{NAME}/features", table, DAYS)
    rows = manifest.assemble(tiny, world.lake, AS_OF)
    training_set = world.artifacts.put("training_sets", {manifest.FILE: rows.manifest.encode()})
    files = candidate.train(tiny, rows, training_set, program(tiny), {}, None).files
    fitted, model = FeatureProgram.decode(files["program.json"]), load_model(files)
    digest = world.artifacts.put("candidates", files)
    bundle = world.artifacts.put(
        "bundles", {**files, "reference.json": candidate_reference(rows.frame, fitted, model)}
    )
    released(world.ledger, NAME, bundle, AS_OF, digest)
    answer(world, table.filter(pl.col("date").is_between(AS_OF, LAST)), fitted, model, bundle)
    return home


def answer(world: World, table: pl.DataFrame, program: Any, model: Any, bundle: str) -> None:
    """Log a prediction for every row, as the endpoint does, and a sample of the server's health."""
    matrix = program.matrix(table)
    outputs = model.predict(matrix)
    writer = Writer(world.endpoint.predictions(NAME)[0], segment_bytes=60_000)
    wall = datetime(2025, 5, 1, tzinfo=UTC)
    for index, row in enumerate(table.iter_rows(named=True)):
        request = {name: row[name] for name in ("job_id", "machine", "load")}
        used = [None if np.isnan(value) else float(value) for value in matrix[index]]
        writer.append([Record(
            day=row["date"].isoformat(), id=f"p{index:06d}", at=wall + timedelta(minutes=index), event_time=row["event_time"], pipeline=NAME,
            bundle=bundle, arm="champion", entity=row["job_id"], request=request, row=used, output=float(outputs[index]),
            online_as_of=row["date"].isoformat(), latency_us=150,
        )])  # fmt: skip
    writer.close()
    traffic = Traffic({"200": table.height, "422": 3}, table.height, {"20": table.height}, 0.001)
    for minute in range(0, table.height, 10):
        share = Traffic({"200": 10, "422": 1}, 10, {"20": 10}, 0.001)
        append(
            world.endpoint.samples()[0],
            Sample(
                wall + timedelta(minutes=minute, seconds=30),
                600.0,
                "w0",
                1,
                0.2,
                90_000_000,
                {NAME: share},
            ),
        )
    assert traffic.requests == table.height + 3


class World:
    """A platform home and the two stages on it."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.pipeline = tiny
        self.instance = dg.DagsterInstance.ephemeral()
        self.lake = Lake(uri=str(home / "lake"))
        self.artifacts = Artifacts(uri=str(home / "artifacts"))
        self.reports = Reports(uri=str(home / "reports"), url="http://reports")
        self.ledger = Ledger(
            path=str(home / "ledger" / "ledger.db"), signer=Keys(path=str(home / "keys"))
        )
        self.endpoint = LocalEndpoint(path=str(home / "endpoint"), url="http://127.0.0.1:1")

    def run(
        self,
        first: date,
        last: date | None = None,
        *,
        config: dict[str, Any] | None = None,
        only: str | None = None,
    ) -> dg.ExecuteInProcessResult:
        """Materialize the stages (or one asset) for a range of days in one run."""
        selection = dg.AssetSelection.assets([NAME, *only.split("/")]) if only else None
        return dg.materialize(
            [*monitoring.build(self.pipeline), *retraining.build(self.pipeline, kind_of(self.pipeline))],
            selection=selection,
            instance=self.instance,
            tags={"dagster/asset_partition_range_start": str(first), "dagster/asset_partition_range_end": str(last or first)},
            run_config={"ops": config or {}},
            resources={
                "lake": self.lake, "artifacts": self.artifacts, "reports": self.reports, "ledger": self.ledger, "endpoint": self.endpoint,
            },
        )  # fmt: skip

    @property
    def bundle(self) -> str:
        found = self.ledger.released(NAME)
        assert found is not None
        return found

    def report(self, name: str, day: date) -> Report:
        found = load_report(self.reports, NAME, name, day, self.bundle)
        assert found is not None
        return found

    def decision(self, day: date) -> Decision:
        found = load_decision(self.reports, NAME, day)
        assert found is not None
        return found


@pytest.fixture
def world(lived: Path, tmp_path: Path) -> World:
    shutil.copytree(lived, tmp_path / "home")
    return World(tmp_path / "home")


def checks(result: dg.ExecuteInProcessResult) -> dict[str, tuple[bool, str]]:
    return {
        found.check_name: (found.passed, found.description or "")
        for found in result.get_asset_check_evaluations()
    }


@pytest.fixture(autouse=True)
def rendered(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Evidently takes seconds, and has its own test; here one counts when it is asked."""
    asked: list[str] = []

    def render(frame: pl.DataFrame, *rest: object) -> Page:
        asked.append(str(frame["date"][0]))
        return Page(b"<html></html>", {"load": Judged(0.1, 0.25, False)}, ())

    monkeypatch.setattr("assets.tabular.monitoring.drift.evidently_page.render", render)
    return asked


def test_before_anything_serves_the_day_says_so_and_asks_for_the_first_model(world: World) -> None:
    day = AS_OF - DAY
    result = world.run(day)
    assert result.success
    assert all(passed for passed, _ in checks(result).values())
    assert "not judged: nothing was served" in checks(result)["drift_share"][1]
    for name in NAMES:
        found = load_report(world.reports, NAME, name, day, "none")
        assert found is not None
        assert "Nothing was served" in found.notes[0]
    assert world.decision(day).cause == "first_model"
    assert world.lake.days("tiny/predictions") == [day]


def test_a_quiet_week_passes_every_check(world: World) -> None:
    result = world.run(AS_OF, AS_OF + 7 * DAY)
    assert {name: told for name, told in checks(result).items() if not told[0]} == {}
    day = AS_OF + 7 * DAY
    assert world.report("monitoring/skew", day).measure("equal_share").value == 1  # type: ignore[union-attr]
    live = world.report("monitoring/performance", day).measure("log_loss")
    assert live is not None
    assert live.n == 7 * ROWS
    assert live.low < live.value < live.high  # type: ignore[operator]
    service = world.report("monitoring/service", day)
    assert service.measure("failed_requests").value == 0  # type: ignore[union-attr]
    assert service.measure("refused_requests").value > 0  # type: ignore[union-attr]
    assert service.measure("cpu_cores").value == pytest.approx(0.2)  # type: ignore[union-attr]
    assert not any(world.decision(AS_OF + DAY * offset).retrain for offset in range(8))
    assert (
        world.home
        / "reports"
        / NAME
        / "monitoring/skew"
        / f"{day}-{world.bundle[:16]}"
        / "index.html"
    ).exists()


def test_drift_fails_its_check_and_leads_to_one_decision_to_retrain(world: World) -> None:
    result = world.run(AS_OF, LAST)
    told = checks(result)
    assert told["drift_share"][0] is False
    assert told["live_log_loss"][0] is False
    retrains = [
        world.decision(day) for day in DAYS if AS_OF <= day <= LAST and world.decision(day).retrain
    ]
    assert [decision.cause for decision in retrains] == ["performance"] or [
        decision.cause for decision in retrains
    ] == ["drift"]
    assert retrains[0].day > DRIFT
    later = world.decision(LAST)
    assert later.evidence.last_retrain == retrains[0].day
    assert later.evidence.unreleased == 1


def test_a_day_decided_again_later_decides_the_same(world: World) -> None:
    day = AS_OF + 9 * DAY
    world.run(AS_OF, day)
    before = {name: world.report(name, day).digest for name in NAMES}
    decided = world.decision(day)
    world.run(day + DAY, LAST)
    request_retraining(world.ledger, NAME, "ann", "later", LAST)
    back = Rollback(
        pipeline=NAME, bundle="0" * 64, day=LAST, actor="ann", left=world.bundle, reason="later"
    )
    record(world.ledger, back)
    bundle = decided.evidence.champion.bundle  # type: ignore[union-attr]
    world.run(day)
    assert {
        name: load_report(world.reports, NAME, name, day, bundle).digest for name in NAMES
    } == before
    assert world.decision(day) == decided


def test_a_range_says_what_its_days_say_one_by_one(
    world: World, lived: Path, tmp_path: Path
) -> None:
    first, last = AS_OF + 8 * DAY, AS_OF + 10 * DAY
    world.run(first, last)
    shutil.copytree(lived, tmp_path / "single")
    single = World(tmp_path / "single")
    for offset in range(3):
        single.run(first + DAY * offset)
    for name in NAMES:
        for offset in range(3):
            day = first + DAY * offset
            assert world.report(name, day).digest == single.report(name, day).digest


def tell_labels_late(world: World, event_day: date, delivered: date) -> int:
    """Take the labels of a day out of their delivery, and deliver them on another day."""
    table, prompt = raw_table(NAME, "results"), event_day + DAY
    rows = world.lake.scan(table, prompt, prompt).collect()
    world.lake.write(table, rows.clear(), [prompt])
    known = pl.lit(refresh(tiny, delivered) - timedelta(hours=1)).cast(rows.schema["known_at"])
    late = rows.with_columns(known_at=known, date=pl.lit(delivered))
    others = world.lake.scan(table, delivered, delivered).collect()
    world.lake.write(table, pl.concat([others, late]), [delivered])
    return rows.height


def version(world: World, day: date, known_on: date) -> Report | None:
    name = version_name("monitoring/performance", known_on)
    return load_report(world.reports, NAME, name, day, world.bundle)


@pytest.mark.parametrize("days_late", [4, 20])
def test_late_labels_count_and_their_days_are_judged_again(world: World, days_late: int) -> None:
    event_day = AS_OF + DAY
    delivered = event_day + days_late * DAY
    late = tell_labels_late(world, event_day, delivered)
    missed = event_day + 2 * DAY
    world.run(AS_OF, delivered - DAY)
    first = world.report("monitoring/performance", missed)
    decided = world.decision(missed)
    assert version(world, missed, delivered - DAY) is None

    # A day is judged again once its window has passed, and later when labels of it come.
    judged = max(delivered, missed + 7 * DAY)
    result = world.run(delivered, judged)
    newer = version(world, missed, judged)
    assert newer is not None
    n = {report: report.measure("log_loss").n for report in (first, newer)}  # type: ignore[union-attr]
    assert n[newer] == n[first] + late
    (event,) = result.asset_materializations_for_node("tiny__monitoring__performance")[-1:]
    assert str(missed) in str(event.metadata["judged_again"].value)
    # What the day knew, and decided on, stays.
    assert world.report("monitoring/performance", missed).digest == first.digest
    assert world.decision(missed) == decided


def test_days_without_new_labels_keep_their_one_report(world: World) -> None:
    world.run(AS_OF, AS_OF + 10 * DAY)
    stored = {path.name for path in (world.home / "reports").rglob("as_known_on")}
    assert stored == set()


def test_a_person_asks_by_the_ledger_or_with_the_run(world: World) -> None:
    request_retraining(world.ledger, NAME, "ann", "a new machine", AS_OF + DAY)
    world.run(AS_OF, AS_OF + 3 * DAY)
    assert [world.decision(AS_OF + DAY * offset).cause for offset in range(4)] == [
        None,
        "request",
        None,
        None,
    ]
    assert "ann asked on 2024-02-15: a new machine" in world.decision(AS_OF + DAY).reason
    world.run(
        AS_OF + 3 * DAY,
        only="retraining_decision",
        config={"tiny__retraining_decision": {"config": {"requested_by": "bob"}}},
    )
    assert world.decision(AS_OF + 3 * DAY).cause == "request"


def test_evidentlys_page_is_drawn_weekly_when_an_alarm_begins_and_on_request(
    world: World, rendered: list[str]
) -> None:
    def drifted(day: date, config: dict[str, Any] | None = None) -> dg.ExecuteInProcessResult:
        return world.run(day, only="monitoring/data_drift", config=config)

    monday = next(day for day in DAYS if day > AS_OF and day.isoweekday() == 1)
    world.run(monday - DAY, monday + 3 * DAY, only="predictions")
    for offset in (-1, 0, 1, 2):
        drifted(monday + DAY * offset)
    assert rendered == [str(monday)]
    result = drifted(monday + DAY, {"tiny__monitoring__data_drift": {"config": {"drawn": True}}})
    assert rendered[1:] == [str(monday + DAY)]
    metadata = result.asset_materializations_for_node("tiny__monitoring__data_drift")[0].metadata
    link, page = str(metadata["evidently"].value), str(metadata["report"].value)
    assert link.endswith("/evidently.html")
    stored = world.home / "reports"
    assert (stored / link.removeprefix("http://reports/")).read_bytes() == b"<html></html>"
    assert 'href="evidently.html"' in (stored / page.removeprefix("http://reports/")).read_text()
    # One feature of seven is enough here: the alarm begins on the first day of the other world, and holds on the second.
    world.pipeline = tiny.model_copy(
        update={"monitors": Monitors(minimum_rows=20, drift_share=0.1, report_weekday=7)}
    )
    for day in (DRIFT, DRIFT + DAY):
        world.run(day, only="predictions")
        assert checks(drifted(day))["drift_share"][0] is False
    # After a quiet day the alarm is back within the week: it is the same one, and its page exists.
    calm, back = DRIFT + 2 * DAY, DRIFT + 3 * DAY
    for day, limit, alarm in ((calm, 1.0, False), (back, 0.1, True)):
        world.pipeline = tiny.model_copy(
            update={"monitors": Monitors(minimum_rows=20, drift_share=limit, report_weekday=7)}
        )
        world.run(day, only="predictions")
        assert checks(drifted(day))["drift_share"][0] is not alarm
    assert 7 not in {day.isoweekday() for day in (DRIFT, DRIFT + DAY, calm, back)}
    assert rendered[2:] == [str(DRIFT)]


def test_a_value_that_the_endpoint_computed_otherwise_is_skew(world: World) -> None:
    day = AS_OF + 2 * DAY
    world.run(day, only="predictions")
    table = world.lake.scan("tiny/predictions", day, day).collect()
    world.lake.write(
        "tiny/predictions", table.with_columns(feature_load=pl.col("feature_load") + 1), [day]
    )
    result = world.run(day, only="monitoring/skew")
    passed, told = checks(result)["skew"]
    assert passed is False
    assert f"different in load ({ROWS})" in told


def test_a_reference_is_computed_for_a_bundle_that_carries_none(world: World) -> None:
    files = world.artifacts.get("bundles", world.bundle)
    candidate = candidate_of(entries(world.ledger, NAME), world.bundle)
    assert candidate is not None
    bare = world.artifacts.put(
        "bundles", {name: content for name, content in files.items() if name != "reference.json"}
    )
    released(world.ledger, NAME, bare, AS_OF, candidate)
    from assets.tabular.monitoring.champion import load, load_reference

    served = load(world.artifacts, entries(world.ledger, NAME), bare)
    found = load_reference(tiny, served, world.artifacts, world.lake, world.reports)
    assert found.encode() == files["reference.json"]
    assert (world.home / "reports" / NAME / "references" / f"{bare}.json").exists()
