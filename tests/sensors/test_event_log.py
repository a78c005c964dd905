"""Events and runs as plain facts."""

from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from resources.settings import settings
from sensors import event_log, instance as platform

INFRA = Path(__file__).resolve().parents[2] / "infra"


@pytest.fixture
def instance(home: Path) -> Iterator[dg.DagsterInstance]:
    platform.create(settings())
    with platform.opened(settings(), compute_logs=False) as opened:
        yield opened


@dg.asset(check_specs=[dg.AssetCheckSpec("small_enough", asset="measured")])
def measured() -> dg.MaterializeResult:
    failed = dg.AssetCheckResult(
        passed=False,
        check_name="small_enough",
        severity=dg.AssetCheckSeverity.WARN,
        description="3 is above 2",
        metadata={"limit": 2},
    )
    return dg.MaterializeResult(metadata={"number": 3}, check_results=[failed])


@dg.asset
def broken() -> None:
    raise ValueError("no such file")


def test_events_are_read_once_in_order(instance: dg.DagsterInstance) -> None:
    dg.materialize([measured], instance=instance)
    reader = event_log.Reader(instance)
    assert reader.read() == [], "what happened before the reader was made is not its concern"

    run = dg.materialize([measured], instance=instance)
    dg.materialize([broken], instance=instance, raise_on_error=False)
    events = reader.read()
    assert [event.kind for event in events] == ["materialization", "check", "run_failure"]
    assert events[0].metadata["number"] == 3
    assert (events[1].asset, events[1].name, events[1].passed, events[1].severity) == (
        ("measured",),
        "small_enough",
        False,
        "warn",
    )
    assert events[1].text == "3 is above 2"
    assert events[2].text == "broken: ValueError: no such file"
    newest = event_log.finished_runs(instance, 2)
    assert [each["reason"] for each in newest] == ["broken: ValueError: no such file", None]
    assert reader.read() == []
    assert event_log.events_of_run(instance, run.run_id) == events[:2]


def test_events_of_a_run_at_work_are_read_as_they_come(instance: dg.DagsterInstance) -> None:
    reader = event_log.Reader(instance)
    seen: list[list[str]] = []

    @dg.asset
    def first() -> dg.MaterializeResult:
        return dg.MaterializeResult(metadata={"number": 1})

    @dg.asset(deps=[first])
    def second() -> None:
        seen.append([event.asset[0] for event in reader.read()])

    dg.materialize([first, second], instance=instance)
    seen.append([event.asset[0] for event in reader.read()])
    assert seen == [["first"], ["second"]]


def test_what_a_person_reports_in_the_ui_is_read_too(instance: dg.DagsterInstance) -> None:
    reader = event_log.Reader(instance)
    instance.report_runless_asset_event(dg.AssetMaterialization("measured", partition="2013-01-01"))
    assert [(event.asset, event.partition) for event in reader.read()] == [
        (("measured",), "2013-01-01")
    ]
    assert reader.read() == []
