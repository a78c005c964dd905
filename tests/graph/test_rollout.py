"""Rollouts in the graph: a retrained bundle takes over step by step, a bad one goes back by itself."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import dagster as dg
import polars as pl
import pytest

from assets.endpoint import assets as endpoint_stage, delivery
from assets.endpoint.delivery import Limits
from assets.endpoint.reconcile import difference
from assets.lifecycles import kind_of
from assets.reporting.report import load_report
from assets.traffic import assets as rollout_stage, decisions, rollouts as state, steps
from assets.traffic.entries import (
    Confirmation,
    LedgerEntry,
    Release,
    Rollback,
    RolloutStep,
    entries,
)
from assets.traffic.judging.daily import ROLLOUT
from bundle.desired import Actual, RefusedBundle
from bundle.records.record import Trial
from bundle.records.writer import Writer
from cli.demo.diary import served
from cli.main import app
from declare.release import ReleasePolicy
from resources.notifier import Notifier
from sensors import decisions as sensing
from tests.graph.test_release import NAME, World, trained  # noqa: F401  the fixture
from tests.support.platform import Platform, platform
from tests.support.tiny import DAY, FIRST, land, requests, tiny

pytestmark = pytest.mark.timeout(600)

POLICY = ReleasePolicy(
    canary=(0.4,),
    shadow_requests=20,
    minimum_requests=5,
    minimum_labels=30,
    quality_margin=0.2,
    prediction_shift=5.0,
    latency_margin=20.0,
)
PROGRESSIVE = tiny.model_copy(update={"release": POLICY})


def shares(running: Platform) -> list[list[float]]:
    """The shares of each confirmation in the ledger; 0 is a shadow."""
    return [
        [arm["share"] for arm in served(entry)["arms"]]
        for entry in entries(running.ledger, NAME)
        if isinstance(entry, Confirmation)
    ]


def test_a_retrained_bundle_goes_through_shadow_and_canary_to_all_traffic(home: Path) -> None:
    with platform(home, [PROGRESSIVE]) as running:
        day = FIRST + 69 * DAY
        land(running.landing, FIRST, day)
        assert [run.failure for run in running.driver.settle() if not run.success] == []
        first = running.ledger.released(NAME)
        decisions.request_retraining(
            running.ledger, NAME, "ada@example.org", "to see it roll out", day
        )
        for _ in range(3):
            day += DAY
            land(running.landing, day, day)
            assert [run.failure for run in running.driver.settle() if not run.success] == []
            answers = running.post(NAME, requests(day))
            assert {answer.status_code for answer in answers} == {200}
        recorded = entries(running.ledger, NAME)
        rollouts = state.rollouts(recorded)
        assert [rollout.outcome for rollout in rollouts] == ["superseded", "full"], [
            rollout.summary for rollout in rollouts
        ]
        new = rollouts[1]
        assert [(step.stage, step.share) for step in new.steps] == [
            ("shadow", 0.0),
            ("canary", 0.4),
            ("full", 1.0),
        ]
        assert [step.day for step in new.steps] == [new.steps[0].day + DAY * n for n in range(3)]
        assert shares(running) == [[1.0], [1.0, 0.0], [0.6, 0.4], [1.0]]
        assert new.champion == first
        actual = running.endpoint.actual(NAME)
        assert actual.bundles == (new.bundle,)
        assert difference(NAME, running.ledger, running.endpoint) is None

        # Each step rests on a stored report, judged on requests and labels of both arms.
        taken = [
            entry
            for entry in recorded
            if isinstance(entry, (RolloutStep, Release)) and entry.first_step is not None
        ]
        for entry, judged in zip(taken, ("shadow", "canary"), strict=True):
            report = load_report(running.reports, NAME, ROLLOUT, entry.day - DAY, new.bundle)
            assert report.digest == entry.report
            assert report.passed
            quality = report.measure("log_loss_worse_by", "shadow")
            assert quality.n >= 40, "labels of the shadow's own day have matured when it is judged"
            assert (report.measure("split_evidence") is not None) == (judged == "canary")
        # What was scored in the shadow is nowhere counted as an answer.
        rows = running.lake.scan(f"{NAME}/predictions").collect()
        assert set(rows["arm"].to_list()) <= {"champion", "challenger"}
        canary = rows.filter(pl.col("date") == new.steps[1].day)
        assert set(canary["bundle"].to_list()) == {first, new.bundle}
        assert canary.height == 40

        split = [entry for entry in recorded if isinstance(entry, Confirmation)][2]
        told = json.loads(
            evergreen("served", "--pipeline", NAME, "--at", split.moment.isoformat(), "--json")
        )
        assert [(arm["arm"], arm["share"]) for arm in told["arms"]] == [
            ("champion", 0.6),
            ("challenger", 0.4),
        ]
        assert told["because"]["kind"] == "rollout"


def evergreen(*words: str) -> str:
    from typer.testing import CliRunner

    result = CliRunner().invoke(app, list(words))
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture
def world(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:  # noqa: F811
    """A platform whose first bundle serves and whose second one is in its shadow."""
    import shutil

    monkeypatch.setattr(endpoint_stage, "RETRIES", None)
    monkeypatch.setattr(delivery, "LIMITS", Limits(answers=0.3, serves=5, refuses=0.2))
    shutil.copytree(trained, tmp_path / "home")
    made = World(tmp_path / "home", PROGRESSIVE)
    for index in (0, 1):
        made.propose(index)
        made.run()
    assert made.kinds == ["approval", "release", "traffic", "approval", "rollout", "traffic"]
    return made


def judge(world: World, day: date) -> dg.ExecuteInProcessResult:
    return dg.materialize(
        rollout_stage.build(PROGRESSIVE, kind_of(PROGRESSIVE)),
        instance=world.instance,
        partition_key=day.isoformat(),
        resources={
            "lake": world.lake, "reports": world.reports, "ledger": world.ledger, "endpoint": world.endpoint, "notifier": Notifier(),
        },
    )  # fmt: skip


def try_out(
    world: World, day: date, *, failures: int = 0, slower: int = 1, count: int = 60
) -> state.Rollout:
    """Log what the candidate made of a day's requests."""
    rollout = state.under_way(entries(world.ledger, NAME))
    assert rollout is not None
    writer = Writer(world.endpoint.trials(NAME)[0])
    moment = datetime.now(UTC)
    for number in range(count):
        output = 0.2 + 0.6 * (number % 10) / 10
        writer.append([Trial(
            day=day.isoformat(), id=f"{day}-{number}", at=moment, event_time=moment, pipeline=NAME, bundle=rollout.bundle, arm="shadow",
            entity=f"{day:%Y%m%d}-{number:04d}", output=None if number < failures else output, latency_us=100 * slower,
            champion=rollout.champion or "", champion_output=output, champion_us=100, failure="no probability" if number < failures else None,
        )])  # fmt: skip
    writer.close()
    return rollout


def test_a_shadow_that_fails_goes_back_once_and_stays_away(world: World) -> None:
    champion = world.ledger.released(NAME)
    rollout = try_out(world, world.day, failures=2)
    result = judge(world, world.day)
    assert [check.passed for check in result.get_asset_check_evaluations()] == [False], "an alert"
    entry = entries(world.ledger, NAME)[-1]
    assert isinstance(entry, Rollback)
    assert (entry.actor, entry.bundle, entry.left) == ("policy", champion, rollout.bundle)
    assert "2 of 60 outputs are no probability" in entry.reason
    report = load_report(world.reports, NAME, ROLLOUT, world.day, rollout.bundle)
    assert report is not None
    assert report.digest == entry.report
    page = Path(
        world.reports.uri,
        world.reports.folder(NAME, ROLLOUT, world.day, rollout.bundle),
        "index.html",
    ).read_text()
    assert "goes back" in page
    judge(world, world.day)
    assert entries(world.ledger, NAME)[-1] == entry, "judged again, nothing more happens"
    world.run("endpoint")
    actual = world.endpoint.actual(NAME)
    assert actual is not None
    assert (actual.bundles, actual.shadows) == ((champion,), ())
    # The same bundle, proposed again, is not rolled out by policy.
    world.run("approval", "release", "endpoint")
    assert world.ledger.entries(NAME)[-1].kind == "traffic"
    assert world.ledger.released(NAME) == champion


def test_too_few_requests_wait_and_enough_take_the_step_once(world: World) -> None:
    try_out(world, world.day, count=10)
    judge(world, world.day)
    assert world.kinds[-1] == "traffic"
    try_out(world, world.day, count=60)
    for _ in range(2):
        judge(world, world.day)
    rollout = state.under_way(entries(world.ledger, NAME))
    assert rollout is not None
    assert [(step.stage, step.day) for step in rollout.steps] == [
        ("shadow", world.day),
        ("canary", world.day + timedelta(days=1)),
    ]
    newest = entries(world.ledger, NAME)[-1]
    assert isinstance(newest, RolloutStep)
    assert "NOT judged on labels" in str(newest.reason)


def test_killed_between_report_and_ledger_the_next_run_takes_the_step(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    def killed(*_: object, **__: object) -> None:
        raise Killed

    try_out(world, world.day)
    with monkeypatch.context() as patch:
        patch.setattr(steps, "advance", killed)
        with pytest.raises(Killed):
            judge(world, world.day)
    assert world.kinds[-1] == "traffic"
    judge(world, world.day)
    assert world.kinds[-1] == "rollout"


def refuse(
    world: World, monkeypatch: pytest.MonkeyPatch, move: LedgerEntry, bundle: str | None
) -> None:
    """Let the endpoint say that it cannot serve a move, because of `bundle` where that is given.

    What it says in words names the candidate in any case.
    """
    actual = type(world.endpoint).actual

    def refusing(self: object, pipeline: str) -> Actual | None:
        found = actual(self, pipeline)  # type: ignore[arg-type]
        assert found is not None
        if found.serial != move.serial:
            return found
        why = (
            f"desired.json: bundle {move.bundle} ends the process that loads it (signal 11), so no "
            "worker loads it"
        )
        return Actual(
            pipeline=pipeline,
            ready=True,
            serial=1,
            desired_serial=move.serial,
            arms=found.arms[:1],
            error=why,
            refused=None if bundle is None else RefusedBundle(move.serial, bundle, why),
        )

    monkeypatch.setattr(type(world.endpoint), "actual", refusing)


def test_a_candidate_that_the_endpoint_refuses_goes_back_and_the_champion_serves_on(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    try_out(world, world.day)
    judge(world, world.day)
    champion, move = world.ledger.released(NAME), entries(world.ledger, NAME)[-1]
    refuse(world, monkeypatch, move, move.bundle)
    result = world.run("endpoint")
    assert [check.passed for check in result.get_asset_check_evaluations()] == [False], "an alert"
    back, traffic = entries(world.ledger, NAME)[-2:]
    assert isinstance(back, Rollback)
    assert isinstance(traffic, Confirmation)
    assert "signal 11" in back.reason
    assert traffic.bundle == champion == world.served


@pytest.mark.parametrize("bundle", [None, "champion"])
def test_what_an_endpoint_says_in_words_sends_no_candidate_back(
    world: World, monkeypatch: pytest.MonkeyPatch, bundle: str | None
) -> None:
    try_out(world, world.day)
    judge(world, world.day)
    champion, move = world.ledger.released(NAME), entries(world.ledger, NAME)[-1]
    refuse(world, monkeypatch, move, champion if bundle else None)
    result = world.run("endpoint", raises=False)
    assert not result.success
    assert [check.passed for check in result.get_asset_check_evaluations()] == [False]
    assert entries(world.ledger, NAME)[-1] == move


def test_a_candidate_altered_in_the_store_goes_back(world: World) -> None:
    try_out(world, world.day)
    judge(world, world.day)
    bundle = world.ledger.entries(NAME)[-1].bundle
    place = world.home / "artifacts" / "bundles" / str(bundle) / "model.ubj"
    place.write_bytes(place.read_bytes()[:-3] + b"zzz")
    champion = world.ledger.released(NAME)
    world.run("endpoint")
    assert world.kinds[-2:] == ["rollback", "traffic"]
    assert world.served == champion


def test_what_is_desired_and_what_is_served_are_compared(world: World) -> None:
    assert difference(NAME, world.ledger, world.endpoint) is None
    place = Path(world.endpoint.path) / NAME / "desired.json"
    before = place.read_bytes()
    decisions.rollback(world.ledger, NAME, "ada@example.org", "not now")
    assert "has not been confirmed" in str(difference(NAME, world.ledger, world.endpoint))
    world.run("endpoint")
    assert difference(NAME, world.ledger, world.endpoint) is None
    place.write_bytes(before)
    assert "is desired" in str(difference(NAME, world.ledger, world.endpoint))

    # The sensor asks at the second look, then ever more rarely, until nothing differs any more.
    sensor = next(each for each in sensing.build(PROGRESSIVE) if each.name.endswith("reconciler"))
    cursor: str | None = None
    asked = []
    for _ in range(5):
        with dg.build_sensor_context(
            world.instance,
            cursor=cursor,
            resources={"ledger": world.ledger, "endpoint": world.endpoint},
        ) as context:
            tick = sensor.evaluate_tick(context)
        cursor = tick.cursor
        asked.append(
            [
                key.path[-1]
                for request in tick.run_requests or []
                for key in request.asset_selection or []
            ]
        )
    assert asked == [[], ["endpoint"], [], ["endpoint"], []]
    world.run("endpoint")
    assert difference(NAME, world.ledger, world.endpoint) is None
