"""A request is made once, made again when its run died, and given up after its tries; retries of one run are one try."""

from __future__ import annotations

import dagster as dg
import pytest
from dagster import DagsterRunStatus

from sensors.requests import ATTEMPT, REQUEST, run_request


@pytest.fixture
def instance() -> dg.DagsterInstance:
    return dg.DagsterInstance.ephemeral()


def recorded(instance: dg.DagsterInstance, status: DagsterRunStatus, parent: str | None = None) -> str:
    run = dg.DagsterRun(job_name="work", tags={REQUEST: "r"}, status=status, parent_run_id=parent, root_run_id=parent)
    return instance.add_run(run).run_id


def test_the_first_request_is_try_one(instance: dg.DagsterInstance) -> None:
    request = run_request(instance, "work", "r", tags={"why": "test"})
    assert isinstance(request, dg.RunRequest)
    assert request.run_key == "r:1"
    assert (request.tags[ATTEMPT], request.tags["why"]) == ("1", "test")


@pytest.mark.parametrize("status", [DagsterRunStatus.STARTING, DagsterRunStatus.STARTED, DagsterRunStatus.SUCCESS])
def test_what_is_under_way_or_done_is_not_requested_again(instance: dg.DagsterInstance, status: DagsterRunStatus) -> None:
    recorded(instance, status)
    assert isinstance(run_request(instance, "work", "r"), dg.SkipReason)


def test_a_run_that_died_is_tried_again_until_the_tries_are_spent(instance: dg.DagsterInstance) -> None:
    recorded(instance, DagsterRunStatus.FAILURE)
    again = run_request(instance, "work", "r", attempts=2)
    assert isinstance(again, dg.RunRequest)
    assert again.run_key == "r:2"
    recorded(instance, DagsterRunStatus.FAILURE)
    spent = run_request(instance, "work", "r", attempts=2)
    assert isinstance(spent, dg.SkipReason)
    assert "failed 2 times" in str(spent.skip_message)


def test_dagsters_own_retries_are_one_try(instance: dg.DagsterInstance) -> None:
    first = recorded(instance, DagsterRunStatus.FAILURE)
    recorded(instance, DagsterRunStatus.FAILURE, parent=first)
    request = run_request(instance, "work", "r", attempts=2)
    assert isinstance(request, dg.RunRequest)
    assert request.run_key == "r:2"
