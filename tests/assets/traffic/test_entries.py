"""What ledger entries say: one type a kind, read back as written, and nothing else believed."""

from __future__ import annotations

import json
import sqlite3
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from assets.traffic.entries import (
    Approval,
    Confirmation,
    EntryError,
    ExperimentStart,
    ExperimentStop,
    LedgerEntry,
    Rejection,
    Release,
    RetrainRequest,
    Rollback,
    RolloutStep,
    document,
    entries,
    payload,
    record,
)
from resources.keys import Keys
from resources.ledger import Kind, Ledger, LedgerError

DAY = date(2013, 4, 1)
A, B = "a" * 64, "b" * 64
ALWAYS: dict[str, Any] = {"pipeline": "flights", "day": DAY, "actor": "ada@example.org"}
DRAFTS: list[LedgerEntry] = [
    Approval(**ALWAYS, bundle=A, candidate="c", evidence={"performance": "1"}, reason="good"),
    Rejection(**ALWAYS, bundle=A, candidate="c", evidence={"performance": "1"}, reason="bad"),
    Release(**ALWAYS, bundle=A, candidate="c", evidence={}, gates=("one",), unjudged=()),
    RolloutStep(
        **ALWAYS,
        bundle=B,
        candidate="d",
        evidence={"performance": "2"},
        stage="canary",
        share=0.25,
        champion=A,
        arms=((A, 0.75), (B, 0.25)),
        key="carrier",
        salt="salt",
        first_step=3,
        report="f" * 64,
        reason="alike",
    ),
    Rollback(**ALWAYS, bundle=A, candidate="c", left=B, left_candidate="d", reason="slow"),
    Confirmation(
        **ALWAYS, bundle=A, decision=5, arms=((A, 1.0),), golden_rows=3, golden_difference=1e-9
    ),
    ExperimentStart(
        **ALWAYS,
        bundle=A,
        name="depth",
        names=("champion", "candidate"),
        arms=((A, 0.5), (B, 0.5)),
        salt="depth",
        reason="which depth?",
    ),
    ExperimentStop(**ALWAYS, bundle=A, name="depth", arms=((A, 1.0),), reason="alike"),
    RetrainRequest(**ALWAYS, reason="a new machine"),
]


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(path=str(tmp_path / "ledger.db"), signer=Keys(path=str(tmp_path / "keys")))


def append(ledger: Ledger, kind: Kind, said: dict[str, Any], bundle: str | None = A) -> None:
    """An entry that is signed, whatever it says."""
    ledger.append("flights", kind, bundle=bundle, day=DAY, actor="ada@example.org", payload=said)


@pytest.mark.parametrize("draft", DRAFTS, ids=lambda draft: type(draft).__name__)
def test_every_kind_is_read_as_it_was_written(ledger: Ledger, draft: LedgerEntry) -> None:
    recorded = record(ledger, draft)
    assert type(recorded) is type(draft)
    assert payload(recorded) == payload(draft)
    assert recorded.serial == 1
    assert recorded.digest == ledger.entries()[0].digest
    assert entries(ledger) == entries(ledger, "flights") == [recorded]
    assert json.loads(json.dumps(document(recorded)))["kind"] == draft.kind


def test_what_is_stored_is_what_earlier_releases_stored(ledger: Ledger) -> None:
    """The names in payloads are part of every signature; they never change."""
    for draft in DRAFTS[3:6]:
        record(ledger, draft)
    step, back, confirmation = (entry.payload for entry in ledger.entries())
    assert step["rollout"] == 3
    assert step["arms"] == [[A, 0.75], [B, 0.25]]
    assert step["shadows"] == []
    assert back == {
        "from": B,
        "from_candidate": "d",
        "candidate": "c",
        "reason": "slow",
    }
    assert confirmation["decision"] == 5


def test_a_release_of_an_earlier_ledger_is_read(ledger: Ledger) -> None:
    said = {"candidate": "c", "evidence": {"performance": "1"}, "gates": ["one"], "unjudged": []}
    append(ledger, "release", {**said, "dagster_run": "1f2e"})
    append(
        ledger,
        "traffic",
        {"decision": 1, "arms": [[A, 1.0]], "golden_rows": 2, "golden_difference": 0.0},
    )
    append(
        ledger, "rollback", {"from": B, "from_candidate": None, "candidate": None, "reason": "x"}
    )
    release, confirmation, back = entries(ledger)
    assert isinstance(release, Release)
    assert (release.gates, release.dagster_run, release.first_step) == (("one",), "1f2e", None)
    assert isinstance(confirmation, Confirmation)
    assert confirmation.shadows == ()
    assert isinstance(back, Rollback)
    assert back.candidate is None


@pytest.mark.parametrize(
    ("kind", "said", "field", "value"),
    [
        ("approval", {"candidate": "c", "evidence": {}}, "reason", None),
        ("approval", {"candidate": 7, "evidence": {}, "reason": "x"}, "candidate", 7),
        ("traffic", {"decision": "one", "arms": []}, "decision", "one"),
        ("traffic", {"decision": 1, "arms": [[A]]}, "arms", [[A]]),
        ("experiment", {"name": "depth", "stage": "paused"}, "stage", "paused"),
        ("experiment", {"name": "depth", "stage": ["running"]}, "stage", ["running"]),
        ("retrain_request", {"reason": "x", "urgent": True}, "urgent", True),
        ("retrain_request", {"reason": "x", "serial": 9}, "serial", 9),
        ("rollback", {"left": B, "reason": "x"}, "left", B),
    ],
)
def test_what_cannot_be_read_is_named_and_stops_everything(
    ledger: Ledger, kind: Kind, said: dict[str, Any], field: str, value: object
) -> None:
    append(ledger, "retrain_request", {"reason": "before"}, bundle=None)
    append(ledger, kind, said, bundle=None if kind == "retrain_request" else A)
    with pytest.raises(EntryError) as caught:
        entries(ledger)
    error = caught.value
    assert isinstance(error, LedgerError)
    assert (error.serial, error.kind, error.field, error.value) == (2, kind, field, value)
    assert f"entry 2 ({kind}): {field}={value!r}" in str(error)
    with pytest.raises(EntryError):
        record(ledger, DRAFTS[0], unless=lambda now: None)
    assert len(ledger.entries()) == 2


def test_an_entry_without_its_bundle_is_named(ledger: Ledger) -> None:
    append(ledger, "release", {"candidate": "c", "evidence": {}}, bundle=None)
    with pytest.raises(EntryError, match="bundle=None"):
        entries(ledger)


def test_an_altered_payload_is_not_decoded(ledger: Ledger) -> None:
    record(ledger, DRAFTS[0])
    with sqlite3.connect(ledger.path) as connection:
        connection.execute("DROP TRIGGER no_update")
        connection.execute("UPDATE entries SET payload = '{}'")
    with pytest.raises(LedgerError, match="was altered"):
        entries(ledger)


def test_what_is_known_already_is_returned_instead(ledger: Ledger) -> None:
    first = record(ledger, DRAFTS[0])
    assert record(ledger, DRAFTS[1], unless=lambda now: now[0]) == first
    assert len(ledger.entries()) == 1
