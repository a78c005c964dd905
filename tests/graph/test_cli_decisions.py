"""Decisions by people at the command line: what a command says, and what then serves."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from dagster import RunsFilter
from typer.testing import CliRunner

from cli.demo.driver import Ran
from cli.main import app
from declare.release import ReleasePolicy
from declare.tabular import Tabular
from tests.support.platform import Platform, platform
from tests.support.tiny import DAY, FIRST, land, requests, tiny

HISTORY = FIRST + 49 * DAY
REVIEWED = tiny.model_copy(update={"release": ReleasePolicy(approvals=1, strategy="all_at_once")})
ANN = ("--pipeline", "tiny", "--as", "ann@example.org", "--reason", "looked at the reports")

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def running(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Platform]:
    def declared() -> list[Tabular]:
        return [REVIEWED]

    monkeypatch.setattr("pipelines.definitions.declared_pipelines", declared)
    with platform(home, [REVIEWED]) as started:
        yield started


def evergreen(*words: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a command."""
    ended = CliRunner().invoke(app, list(words), env={"COLUMNS": "300", "NO_COLOR": "1"})
    assert ended.exception is None or isinstance(ended.exception, SystemExit), ended.exception
    return ended.exit_code, ended.stdout, ended.stderr


def told(*words: str) -> Any:
    """The JSON document of a command that succeeds."""
    code, out, err = evergreen(*words, "--json")
    # Of the services only the endpoint runs here, and `status` says so by its exit code.
    assert (code, err) == (4 if words == ("status",) else 0, "")
    return json.loads(out)


def refused(*words: str) -> tuple[int, str]:
    """Exit code and message of a command that does not succeed, as JSON and in words."""
    code, out, err = evergreen(*words, "--json")
    assert out == ""
    document = json.loads(err)
    assert document["code"] == code
    assert evergreen(*words) == (code, "", f"evergreen: {document['error']}\n")
    return code, document["error"]


def settled(running: Platform) -> list[Ran]:
    ran = running.driver.settle()
    assert [run.failure for run in ran if not run.success] == []
    return ran


def serving(running: Platform, day: date) -> str:
    """The bundle that answers, as the endpoint, the ledger and an answer say."""
    bundle = told("served", "--pipeline", "tiny")["bundle"]
    assert isinstance(bundle, str)
    actual = running.endpoint.actual("tiny")
    assert actual is not None
    assert list(actual.bundles) == [bundle]
    answer = running.post("tiny", requests(day)[:1])[0]
    assert (answer.status_code, answer.json()["bundle"]) == (200, bundle)
    return bundle


def alias(running: Platform) -> str:
    """The candidate that MLflow calls the champion."""
    return str(
        running.tracking.client().get_model_version_by_alias("tiny", "champion").tags["candidate"]
    )


def test_people_approve_reject_roll_back_and_ask_for_a_retrain(running: Platform) -> None:
    # A first bundle waits for a person.
    land(running.landing, FIRST, HISTORY)
    settled(running)
    waits = told("status")["pipelines"]["tiny"]
    first = waits["waiting"]["bundle"]
    assert waits["released"] is None
    assert waits["waiting"]["approval"] == "0 of 1 approvals (none)"
    assert (
        waits["waiting"]["needed"],
        waits["waiting"]["approved_by"],
        waits["waiting"]["refusals"],
    ) == (1, [], [])
    assert f"evergreen approve {first[:12]} --pipeline tiny" in evergreen("status")[1]
    assert evergreen("served", "--pipeline", "tiny")[0] == 5
    assert refused("rollback", *ANN) == (
        5,
        "pipeline 'tiny' has released nothing yet; there is nothing to roll back",
    )

    # Who decides, and why, must be said; the platform's own name is nobody's.
    assert (
        refused("approve", first[:12], "--pipeline", "tiny", "--as", "policy", "--reason", "none")[
            0
        ]
        == 5
    )
    assert (
        refused(
            "approve", first[:12], "--pipeline", "tiny", "--as", "ann@example.org", "--reason", " "
        )[0]
        == 5
    )
    assert refused("approve", "no-such-bundle", *ANN)[0] == 2
    assert (
        refused(
            "approve",
            first,
            "--pipeline",
            "other",
            "--as",
            "ann@example.org",
            "--reason",
            "mistaken",
        )[0]
        == 2
    )

    # What the gates refuse stays unreleased, whoever approves it, and nothing is recorded.
    report = Path(running.settings.reports_uri) / "tiny" / "validation" / "performance"
    report.rename(report.with_name("away"))
    code, said = refused("approve", first[:12], *ANN)
    assert code == 5
    assert said.startswith(f"bundle {first[:12]} stays unreleased: ")
    assert "validation/performance is missing" in said
    assert running.ledger.entries() == []
    report.with_name("away").rename(report)

    # Approved, it is released and served; approving again is the same decision.
    entry = told("approve", first[:12], *ANN)
    assert (entry["kind"], entry["bundle"], entry["actor"]) == (
        "approval",
        first,
        "ann@example.org",
    )
    assert told("approve", first, *ANN)["serial"] == entry["serial"]
    assert (
        told("status")["pipelines"]["tiny"]["waiting"]["approval"]
        == "1 of 1 approvals (ann@example.org)"
    )
    assert [(run.job, run.tags["evergreen/cause"]) for run in settled(running)] == [
        ("tiny_release", "approval")
    ]
    assert serving(running, HISTORY + DAY) == first
    assert (
        told("status")["pipelines"]["tiny"] | {"released": first, "waiting": None}
        == told("status")["pipelines"]["tiny"]
    )
    assert refused("reject", first, *ANN)[0] == 5
    champion = alias(running)

    # A person asks for a retrain: the next decision takes it up, and its run says who asked.
    asked = told(
        "retrain", "--pipeline", "tiny", "--as", "bob@example.org", "--reason", "a new machine"
    )
    assert (asked["kind"], asked["bundle"], asked["payload"]) == (
        "retrain_request",
        None,
        {"reason": "a new machine"},
    )
    assert settled(running) == []
    land(running.landing, HISTORY + DAY, HISTORY + 2 * DAY)
    retrained = [run for run in settled(running) if run.job == "tiny_retrain"]
    assert [run.tags["evergreen/cause"] for run in retrained] == ["request"]
    assert retrained[0].tags["evergreen/requested_by"] == "bob@example.org"
    assert (
        running.instance.get_runs_count(
            RunsFilter(tags={"evergreen/requested_by": "bob@example.org"})
        )
        == 1
    )
    second = told("status")["pipelines"]["tiny"]["waiting"]["bundle"]
    assert second != first
    assert serving(running, HISTORY + 2 * DAY) == first

    # Rejected, it stays unreleased, whatever else happens.
    rejection = told(
        "reject",
        second[:12],
        "--pipeline",
        "tiny",
        "--as",
        "bob@example.org",
        "--reason",
        "too few rows of the new machine",
    )
    assert (rejection["kind"], rejection["bundle"]) == ("rejection", second)
    assert settled(running) == []
    waits = told("status")["pipelines"]["tiny"]["waiting"]
    assert (waits["bundle"], waits["refused_by"]) == (second, "bob@example.org")
    assert "overrules the rejection by bob@example.org" in evergreen("status")[1]
    assert serving(running, HISTORY + 2 * DAY) == first
    assert refused("rollback", *ANN)[0] == 5, "nothing served before the first bundle"
    assert refused("approve", first, *ANN)[0] == 5, (
        "an approval of any but the newest bundle would change nothing"
    )

    # A person overrules a person.
    told("approve", second, *ANN)
    settled(running)
    assert serving(running, HISTORY + 2 * DAY) == second
    assert alias(running) != champion

    # Back to the former one: the endpoint, the ledger and MLflow's alias follow.
    back = told("rollback", *ANN)
    assert (back["kind"], back["bundle"], back["payload"]["from"]) == ("rollback", first, second)
    assert [run.tags["evergreen/cause"] for run in settled(running)] == ["rollback"]
    assert serving(running, HISTORY + 2 * DAY) == first
    assert alias(running) == champion
    assert told("served", "--pipeline", "tiny")["because"]["kind"] == "rollback"
    assert running.ledger.verify() == len(running.ledger.entries("tiny"))
    assert refused("rollback", "--to", first[:12], *ANN)[0] == 5
    assert settled(running) == [], "what was rolled back is not released again"
