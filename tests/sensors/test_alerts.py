"""The alert sensors: what they tell of runs that failed and of checks that failed, once each."""

from __future__ import annotations

import dagster as dg
import pytest

from resources.notifier import Notifier
from sensors import alerts
from sensors.requests import REQUEST


@dg.asset(check_specs=[dg.AssetCheckSpec("small_enough", asset="measured")])
def measured() -> dg.MaterializeResult:
    failed = dg.AssetCheckResult(
        passed=False, check_name="small_enough", severity=dg.AssetCheckSeverity.WARN
    )
    return dg.MaterializeResult(check_results=[failed])


@dg.asset(deps=[measured])
def broken() -> None:
    raise ValueError("no such file")


WATCHED = ("failed_runs", "failed_checks")


class Desk:
    """Both sensors over a repository with one job, and the log that the notifier writes."""

    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        self.instance = dg.DagsterInstance.ephemeral()
        self._repository = dg.Definitions(
            assets=[measured, broken],
            jobs=[dg.define_asset_job("nightly", selection="*")],
            sensors=[each for each in alerts.build() if each.name in WATCHED],
            resources={"notifier": Notifier()},
        ).get_repository_def()
        self._cursors: dict[str, str | None] = {}
        self._caplog = caplog

    def run(
        self, *assets: dg.AssetsDefinition, request: str | None = None
    ) -> dg.ExecuteInProcessResult:
        keys = [key for asset in assets for key in asset.keys]
        return self._repository.get_job("nightly").execute_in_process(
            instance=self.instance,
            asset_selection=keys,
            raise_on_error=False,
            tags={REQUEST: request} if request is not None else None,
        )

    def look(self) -> list[str]:
        """What one tick of both sensors tells."""
        self._caplog.clear()
        for sensor in self._repository.sensor_defs:
            context = dg.build_sensor_context(
                instance=self.instance,
                cursor=self._cursors.get(sensor.name),
                repository_def=self._repository,
                sensor_name=sensor.name,
                resources={"notifier": Notifier()},
            )
            with context:
                self._cursors[sensor.name] = sensor.evaluate_tick(context).cursor
        return [each.message for each in self._caplog.records if "notifier" in each.name]


@pytest.fixture
def desk(caplog: pytest.LogCaptureFixture) -> Desk:
    desk = Desk(caplog)
    assert desk.look() == []
    return desk


def test_a_failed_check_of_a_run_that_went_through_is_told_once(desk: Desk) -> None:
    assert desk.run(measured).success
    assert desk.look() == ["1 asset checks failed\nmeasured: small_enough (warn)"]
    assert desk.look() == []


def test_a_failed_run_is_told_once_with_the_checks_that_failed_in_it(desk: Desk) -> None:
    run = desk.run(measured, broken)
    assert not run.success
    (told,) = desk.look()
    assert told.startswith("Run of nightly failed\n")
    assert run.run_id in told
    assert "broken: ValueError: no such file\n" in told
    assert told.endswith("measured: small_enough (warn)")
    assert desk.look() == []


def test_a_request_that_is_not_tried_again_is_said_to_be(desk: Desk) -> None:
    desk.run(broken, request="toy:ingest:2024-01-01")
    (told,) = desk.look()
    assert "of toy:ingest:2024-01-01" in told
    assert told.endswith("It is not tried again. Mend the cause, then run `evergreen retry`.")
