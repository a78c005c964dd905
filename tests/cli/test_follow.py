"""What `up` says of ledger entries, of an altered ledger, and of checks and runs that fail."""

from __future__ import annotations

import sqlite3
from datetime import UTC, date, datetime
from pathlib import Path

import pytest

from assets.traffic import decisions, experiments, steps
from assets.traffic.entries import entries
from assets.traffic.rollouts import under_way
from assets.traffic.standing import Proposal
from assets.traffic.steps import Grounds
from cli.platform.follow import LedgerReader, entry_line, event_lines
from declare.release import Experiment, ReleasePolicy
from resources.keys import Keys
from resources.ledger import Ledger
from sensors.event_log import Event
from tests.support.entries import confirmed

DAY = date(2013, 4, 1)
NAME = "flights"
OLD, NEW = "a" * 64, "b" * 64
POLICY = ReleasePolicy(canary=(0.25,))
SPLIT = Experiment(name="depth", arms={"champion": 0.5, "candidate": 0.5})


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(path=str(tmp_path / "ledger.db"), signer=Keys(path=str(tmp_path / "keys")))


def begin(ledger: Ledger, bundle: str) -> None:
    proposed = Proposal(NAME, bundle, f"candidate {bundle[0]}", DAY, {"performance": "1"})
    decisions.approve_by_policy(ledger, proposed, "all gates passed")
    steps.start(ledger, proposed, 0, POLICY, Grounds())
    confirmed(ledger, NAME)


def advance(ledger: Ledger) -> None:
    rollout = under_way(entries(ledger, NAME))
    assert rollout is not None
    steps.advance(ledger, rollout, POLICY, DAY)
    confirmed(ledger, NAME)


def said(line: str) -> str:
    """What a line says of an entry, without pipeline, day and actor."""
    return line.removeprefix(f"{NAME}: ").split(f" on {DAY}")[0]


def test_each_entry_says_what_begins_and_each_confirmation_what_serves(ledger: Ledger) -> None:
    begin(ledger, OLD)
    begin(ledger, NEW)
    advance(ledger)
    advance(ledger)
    decisions.rollback(ledger, NAME, "ada@example.org", "it is slow")
    confirmed(ledger, NAME)
    old, new = OLD[:12], NEW[:12]
    assert [said(entry_line(entry)) for entry in entries(ledger)] == [
        f"approved bundle {old}",
        f"released bundle {old}",
        f"the endpoint serves bundle {old}",
        f"approved bundle {new}",
        f"bundle {new} is to be scored in the shadow of the champion",
        f"the endpoint scores bundle {new} in the shadow of {old}",
        f"bundle {new} is to answer 25% of the traffic",
        f"the endpoint divides the traffic: bundles {old} 75%, {new} 25%",
        f"released bundle {new}",
        f"the endpoint serves bundle {new}",
        f"rolled back to bundle {old} from {new}",
        f"the endpoint serves bundle {old}",
    ]


def test_an_experiment_and_a_wish_are_said_too(ledger: Ledger) -> None:
    begin(ledger, OLD)
    proposed = Proposal(NAME, NEW, "candidate b", DAY, {"performance": "1"})
    decisions.approve(ledger, proposed, "ada@example.org", "looks right")
    experiments.start(ledger, NAME, SPLIT, NEW, "ada@example.org", "which depth?", DAY)
    running = experiments.running(entries(ledger, NAME))
    assert running is not None
    experiments.stop(ledger, NAME, running, "policy", "alike", DAY)
    decisions.request_retraining(ledger, NAME, "bo@example.org", "a new machine", DAY)
    lines = [entry_line(entry) for entry in entries(ledger)[-3:]]
    assert [said(line) for line in lines] == [
        "experiment depth begins: champion, candidate",
        f"experiment depth ends; bundle {OLD[:12]} is to answer alone",
        "retraining requested (a new machine)",
    ]
    assert lines[-1].endswith("by bo@example.org (ledger entry 7)")


def alter(ledger: Ledger, actor: str) -> None:
    with sqlite3.connect(ledger.path) as connection:
        connection.execute("DROP TRIGGER IF EXISTS no_update")
        connection.execute("UPDATE entries SET actor = ? WHERE serial = 1", (actor,))


def test_only_what_is_new_is_said(ledger: Ledger) -> None:
    begin(ledger, OLD)
    reader = LedgerReader(ledger)
    assert reader.lines() == []
    begin(ledger, NEW)
    assert len(reader.lines()) == 3
    assert reader.lines() == []


def test_a_broken_ledger_is_said_once_and_nothing_of_it_is_believed(ledger: Ledger) -> None:
    begin(ledger, OLD)
    reader = LedgerReader(ledger)
    alter(ledger, "mallory")
    broken, way_out = reader.lines()
    assert broken.startswith("THE LEDGER IS BROKEN: ledger entry 1 was altered")
    assert "the endpoint serves on" in way_out
    assert reader.lines() == []

    # Who starts on a broken ledger hears it too, and no entry of before once it is sound.
    late = LedgerReader(ledger)
    assert [line.split(":")[0] for line in late.lines()][:1] == ["THE LEDGER IS BROKEN"]
    alter(ledger, "policy")
    for each in (reader, late):
        assert each.lines() == ["the ledger is sound again: releases and rollouts go on"]
        assert each.lines() == []


def check(asset: str, name: str, *, passed: bool) -> Event:
    parts = (NAME, *asset.split("/"))
    moment = datetime(2013, 4, 1, tzinfo=UTC)
    text = "4 of 31 features drifted\nmore below"
    return Event(
        "check", moment, "run", asset=parts, name=name, passed=passed, severity="warn", text=text
    )


def test_checks_that_fail_and_failed_runs_are_said_in_plain_words() -> None:
    failed = Event(
        "run_failure",
        datetime(2013, 4, 1, tzinfo=UTC),
        "0123456789",
        name="nightly",
        text="no disk",
    )
    events = [
        check("monitoring/data_drift", "drift_share", passed=False),
        check("validation/performance", "roc_auc_is_high", passed=False),
        check("features", "feature_bounds", passed=False),
        check("features", "no_future", passed=True),
        failed,
    ]
    why = "(4 of 31 features drifted)"
    assert event_lines(events) == [
        f"{NAME}: drift seen: monitoring/data_drift: drift_share {why}",
        f"{NAME}: gate failed: validation/performance: roc_auc_is_high {why}",
        f"{NAME}: check failed: features: feature_bounds {why}",
        "nightly: run 01234567 failed (no disk)",
    ]
