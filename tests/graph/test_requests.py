"""A request is made once, made again when its run died, and given up after its tries; retries of one run are one try."""

from __future__ import annotations

from datetime import date

import dagster as dg
import pytest
from dagster import DagsterRunStatus
from dagster._core.storage.tags import AUTO_RETRY_RUN_ID_TAG, WILL_RETRY_TAG

from sensors import requests
from sensors.requests import ATTEMPT, RANGE_END, RANGE_START, REQUEST, overlapping, run_request


@pytest.fixture
def instance() -> dg.DagsterInstance:
    return dg.DagsterInstance.ephemeral()


def recorded(
    instance: dg.DagsterInstance, status: DagsterRunStatus, parent: str | None = None
) -> str:
    run = dg.DagsterRun(
        job_name="work",
        tags={REQUEST: "r"},
        status=status,
        parent_run_id=parent,
        root_run_id=parent,
    )
    return instance.add_run(run).run_id


def test_the_first_request_is_try_one(instance: dg.DagsterInstance) -> None:
    request = run_request(instance, "work", "r", tags={"why": "test"})
    assert isinstance(request, dg.RunRequest)
    assert request.run_key == "r:1"
    assert (request.tags[ATTEMPT], request.tags["why"]) == ("1", "test")


@pytest.mark.parametrize(
    "status", [DagsterRunStatus.STARTING, DagsterRunStatus.STARTED, DagsterRunStatus.SUCCESS]
)
def test_what_is_under_way_or_done_is_not_requested_again(
    instance: dg.DagsterInstance, status: DagsterRunStatus
) -> None:
    recorded(instance, status)
    assert isinstance(run_request(instance, "work", "r"), dg.SkipReason)


def test_a_run_that_died_is_tried_again_until_the_tries_are_spent(
    instance: dg.DagsterInstance,
) -> None:
    recorded(instance, DagsterRunStatus.FAILURE)
    again = run_request(instance, "work", "r", attempts=2)
    assert isinstance(again, dg.RunRequest)
    assert again.run_key == "r:2"
    recorded(instance, DagsterRunStatus.FAILURE)
    spent = run_request(instance, "work", "r", attempts=2)
    assert isinstance(spent, dg.SkipReason)
    assert "died 2 times" in str(spent.skip_message)


@dg.op
def breaks() -> None:
    raise ValueError("no column 'wind'\nand more that nobody reads first")


@dg.job(name="work")
def breaking() -> None:
    breaks()


def failed(instance: dg.DagsterInstance, request: str) -> None:
    breaking.execute_in_process(instance=instance, tags={REQUEST: request}, raise_on_error=False)


def test_a_run_whose_step_failed_is_not_tried_again(instance: dg.DagsterInstance) -> None:
    failed(instance, "r")
    skipped = run_request(instance, "work", "r")
    assert isinstance(skipped, dg.SkipReason)
    assert str(skipped.skip_message) == (
        "r failed (breaks: ValueError: no column 'wind'). Mend the cause, then run "
        "`evergreen retry`"
    )


def test_a_run_whose_blocking_check_failed_is_not_tried_again(
    instance: dg.DagsterInstance,
) -> None:
    @dg.asset(check_specs=[dg.AssetCheckSpec("whole", asset="rows", blocking=True)])
    def rows() -> dg.MaterializeResult:
        refused = dg.AssetCheckResult(passed=False, check_name="whole")
        return dg.MaterializeResult(check_results=[refused])

    dg.materialize([rows], instance=instance, tags={REQUEST: "r"}, raise_on_error=False)
    skipped = run_request(instance, "work", "r")
    assert isinstance(skipped, dg.SkipReason)
    assert "r failed (rows: " in str(skipped.skip_message)


def test_a_step_that_was_told_to_stop_is_no_error_of_its_own(
    instance: dg.DagsterInstance,
) -> None:
    @dg.op
    def stopped() -> None:
        raise KeyboardInterrupt

    @dg.job
    def work() -> None:
        stopped()

    work.execute_in_process(instance=instance, tags={REQUEST: "r"}, raise_on_error=False)
    again = run_request(instance, "work", "r")
    assert isinstance(again, dg.RunRequest)


def test_what_is_stuck_is_named_and_goes_on_once_it_is_forgiven(
    instance: dg.DagsterInstance,
) -> None:
    failed(instance, "toy:ingest:2024-01-01")
    (stuck,) = requests.spent(instance)
    assert (stuck.request, stuck.job) == ("toy:ingest:2024-01-01", "work")
    assert "no column 'wind'" in stuck.why

    assert requests.forgive(instance, stuck.request) == 1
    assert requests.spent(instance) == []
    again = run_request(instance, "work", stuck.request)
    assert isinstance(again, dg.RunRequest)
    # A run key that Dagster has seen would be ignored.
    assert again.run_key == "toy:ingest:2024-01-01:2"

    failed(instance, stuck.request)
    assert [each.request for each in requests.spent(instance)] == [stuck.request]


def test_a_newer_request_of_the_same_stage_takes_the_place_of_a_stuck_one(
    instance: dg.DagsterInstance,
) -> None:
    failed(instance, "toy:ingest:2024-01-01")
    failed(instance, "toy:monitor:2024-01-01")
    tags = {REQUEST: "toy:ingest:2024-01-02"}
    instance.add_run(dg.DagsterRun(job_name="work", tags=tags, status=DagsterRunStatus.SUCCESS))
    assert [each.request for each in requests.spent(instance)] == ["toy:monitor:2024-01-01"]


def test_dagsters_own_retries_are_one_try(instance: dg.DagsterInstance) -> None:
    first = recorded(instance, DagsterRunStatus.FAILURE)
    recorded(instance, DagsterRunStatus.FAILURE, parent=first)
    request = run_request(instance, "work", "r", attempts=2)
    assert isinstance(request, dg.RunRequest)
    assert request.run_key == "r:2"


def test_a_run_that_dagster_is_about_to_retry_is_under_way(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the death of a worker and Dagster's retry lie seconds in which no run is under way; asking again in them would
    have the same work done twice."""
    died = recorded(instance, DagsterRunStatus.STARTED)
    instance.report_run_failed(instance.get_run_by_id(died))
    instance.add_run_tags(died, {WILL_RETRY_TAG: "true"})
    waiting = run_request(instance, "work", "r")
    assert isinstance(waiting, dg.SkipReason)
    assert "under way" in str(waiting.skip_message)
    # A daemon that does not keep its word holds nothing up for ever.
    with monkeypatch.context() as later:
        later.setattr(requests, "RETRY_SECONDS", -1.0)
        assert isinstance(run_request(instance, "work", "r"), dg.RunRequest)
    # Once the retry is made, it speaks for itself.
    again = recorded(instance, DagsterRunStatus.FAILURE, parent=died)
    instance.add_run_tags(died, {AUTO_RETRY_RUN_ID_TAG: again})
    assert isinstance(run_request(instance, "work", "r"), dg.RunRequest)


@pytest.mark.parametrize(
    ("status", "kind", "first", "last", "found"),
    [
        # It has told of its first two weeks, and is about to tell of the rest.
        (DagsterRunStatus.STARTED, "toy:ingest:", date(2024, 1, 15), date(2024, 3, 10), True),
        (DagsterRunStatus.STARTING, "toy:ingest:", date(2024, 3, 10), date(2024, 3, 12), True),
        (DagsterRunStatus.STARTED, "toy:ingest:", date(2024, 3, 11), date(2024, 3, 11), False),
        (DagsterRunStatus.STARTED, "toy:monitor:", date(2024, 1, 15), date(2024, 3, 10), False),
        (DagsterRunStatus.SUCCESS, "toy:ingest:", date(2024, 1, 15), date(2024, 3, 10), False),
        (DagsterRunStatus.FAILURE, "toy:ingest:", date(2024, 1, 15), date(2024, 3, 10), False),
    ],
)
def test_days_that_a_run_is_doing_are_not_due(
    instance: dg.DagsterInstance,
    status: DagsterRunStatus,
    kind: str,
    first: date,
    last: date,
    found: bool,
) -> None:
    tags = {
        REQUEST: "toy:ingest:2024-01-01:2024-03-10:abc",
        RANGE_START: "2024-01-01",
        RANGE_END: "2024-03-10",
    }
    instance.add_run(dg.DagsterRun(job_name="work", tags=tags, status=status))
    assert overlapping(instance, "work", kind, first, last) == (tags[REQUEST] if found else None)
    assert overlapping(instance, "other", kind, first, last) is None


def test_days_of_a_run_that_dagster_is_about_to_retry_are_not_due(
    instance: dg.DagsterInstance,
) -> None:
    tags = {
        REQUEST: "toy:ingest:2024-01-01:2024-03-10:abc",
        RANGE_START: "2024-01-01",
        RANGE_END: "2024-03-10",
    }
    died = instance.add_run(
        dg.DagsterRun(job_name="work", tags=tags, status=DagsterRunStatus.STARTED)
    )
    instance.report_run_failed(died)
    instance.add_run_tags(died.run_id, {WILL_RETRY_TAG: "true"})
    assert (
        overlapping(instance, "work", "toy:ingest:", date(2024, 1, 15), date(2024, 3, 10))
        == tags[REQUEST]
    )
