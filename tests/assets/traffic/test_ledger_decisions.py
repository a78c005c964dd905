"""Who may release what, computed from the ledger alone."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest

from assets.traffic.decisions import (
    approve,
    approve_by_policy,
    reject,
    request_retraining,
    rollback,
)
from assets.traffic.entries import Rollback, entries
from assets.traffic.moves import released, served_before
from assets.traffic.standing import Proposal, standing
from assets.traffic.steps import Grounds, release
from resources.keys import Keys
from resources.ledger import Ledger
from tests.support.entries import confirmed

DAY = date(2013, 4, 1)


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(path=str(tmp_path / "ledger.db"), signer=Keys(path=str(tmp_path / "keys")))


def proposal(name: str, **evidence: str) -> Proposal:
    return Proposal(
        "flights", name * 64, f"candidate {name}", DAY, evidence or {"performance": "1"}
    )


A, B, C = proposal("a"), proposal("b"), proposal("c")


def serve(ledger: Ledger, what: Proposal) -> None:
    """Approve by policy, release and confirm."""
    approve_by_policy(ledger, what, "all gates passed")
    release(ledger, what, 0, Grounds())
    confirmed(ledger, "flights")


def test_policy_alone_approves_where_no_person_is_needed(ledger: Ledger) -> None:
    assert not standing(entries(ledger), A).approved(0)
    first = approve_by_policy(ledger, A, "all gates passed")
    assert approve_by_policy(ledger, A, "all gates passed") == first
    held = standing(entries(ledger), A)
    assert held.approved(0)
    assert not held.approved(1)
    assert held.explain(1) == "0 of 1 approvals (none)"


def test_each_person_counts_once(ledger: Ledger) -> None:
    approve(ledger, A, "ada@example.org", "looks right")
    approve(ledger, A, "ada@example.org", "looks right again")
    assert not standing(entries(ledger), A).approved(2)
    approve(ledger, A, "bo@example.org", "agreed")
    assert standing(entries(ledger), A).approved(2)
    assert len(entries(ledger)) == 2


def test_an_approval_holds_for_one_bundle_and_its_evidence_alone(ledger: Ledger) -> None:
    approve(ledger, A, "ada@example.org", "looks right")
    assert not standing(entries(ledger), B).approved(1)
    assert not standing(entries(ledger), proposal("a", performance="2")).approved(1)
    other = Proposal("trains", A.bundle, A.candidate, DAY, A.evidence)
    assert not standing(entries(ledger), other).approved(1)


def test_a_rejection_voids_approvals_and_only_people_overrule_it(ledger: Ledger) -> None:
    approve_by_policy(ledger, A, "all gates passed")
    reject(ledger, A, "ada@example.org", "the data of March is wrong")
    assert not standing(entries(ledger), A).approved(0)
    with pytest.raises(PermissionError, match=r"refused by ada@example.org \(entry 2\)"):
        approve_by_policy(ledger, A, "all gates passed")
    with pytest.raises(PermissionError, match="0 of 1 approvals"):
        release(ledger, A, 0, Grounds())
    approve(ledger, A, "bo@example.org", "the data is right after all")
    assert standing(entries(ledger), A).approved(0)
    assert release(ledger, A, 0, Grounds()).kind == "release"


def test_releasing_twice_makes_one_entry(ledger: Ledger) -> None:
    approve_by_policy(ledger, A, "all gates passed")
    assert release(ledger, A, 0, Grounds()) == release(ledger, A, 0, Grounds())
    assert [entry.kind for entry in entries(ledger)] == ["approval", "release"]


def test_an_unapproved_bundle_is_not_released(ledger: Ledger) -> None:
    with pytest.raises(PermissionError, match="0 of 2 approvals"):
        release(ledger, A, 2, Grounds())
    assert entries(ledger) == []


def test_rolling_back_goes_to_what_served_before_step_by_step(ledger: Ledger) -> None:
    for what in (A, B, C):
        serve(ledger, what)
    entry = rollback(ledger, "flights", "ada@example.org", "C is slow")
    assert isinstance(entry, Rollback)
    assert (entry.bundle, entry.left) == (B.bundle, C.bundle)
    assert released(entries(ledger)) == B.bundle
    assert rollback(ledger, "flights", "ada@example.org", "B as well").bundle == A.bundle
    with pytest.raises(LookupError, match="served nothing before"):
        rollback(ledger, "flights", "ada@example.org", "and A")
    assert (
        rollback(ledger, "flights", "ada@example.org", "C was right", to=C.bundle).bundle
        == C.bundle
    )
    assert served_before(entries(ledger)) == A.bundle


def test_what_never_served_is_no_place_to_roll_back_to(ledger: Ledger) -> None:
    serve(ledger, A)
    approve_by_policy(ledger, B, "all gates passed")
    release(ledger, B, 0, Grounds())
    serve(ledger, C)
    assert served_before(entries(ledger)) == A.bundle
    with pytest.raises(ValueError, match="never served"):
        rollback(ledger, "flights", "ada@example.org", "try B", to=B.bundle)
    with pytest.raises(ValueError, match="is released now"):
        rollback(ledger, "flights", "ada@example.org", "try C", to=C.bundle)
    with pytest.raises(LookupError, match="released nothing"):
        rollback(ledger, "trains", "ada@example.org", "why not")


def test_what_was_rolled_back_from_returns_only_by_a_person(ledger: Ledger) -> None:
    serve(ledger, A)
    serve(ledger, B)
    rollback(ledger, "flights", "ada@example.org", "B is wrong")
    with pytest.raises(PermissionError, match="0 of 1 approvals"):
        release(ledger, B, 0, Grounds())
    with pytest.raises(PermissionError, match="a person must approve it"):
        approve_by_policy(ledger, B, "all gates passed")
    assert "roll-back from it by ada@example.org" in standing(entries(ledger), B).explain(0)
    again = Proposal("flights", "f" * 64, B.candidate, DAY, {"performance": "validated again"})
    with pytest.raises(PermissionError, match="a person must approve it"):
        approve_by_policy(ledger, again, "all gates passed")
    approve(ledger, B, "bo@example.org", "it was the weather feed")
    assert release(ledger, B, 0, Grounds()).bundle == B.bundle


def test_the_released_bundle_cannot_be_rejected(ledger: Ledger) -> None:
    serve(ledger, A)
    with pytest.raises(ValueError, match="roll back instead"):
        reject(ledger, A, "ada@example.org", "no")


@pytest.mark.parametrize(
    ("actor", "reason"), [("policy", "x"), (" ", "x"), ("ada@example.org", " ")]
)
def test_decisions_need_a_person_and_a_reason(ledger: Ledger, actor: str, reason: str) -> None:
    with pytest.raises(ValueError, match=r"actor=|reason="):
        approve(ledger, A, actor, reason)
    with pytest.raises(ValueError, match=r"actor=|reason="):
        request_retraining(ledger, "flights", actor, reason, DAY)
    assert entries(ledger) == []
