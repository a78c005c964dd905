"""The rollout as a state machine: computed from ledger entries alone, and each step taken once."""

from __future__ import annotations

from datetime import date, timedelta
from pathlib import Path

import pytest

from assets.traffic import decisions, rollouts, steps
from assets.traffic.decisions import approve, approve_by_policy
from assets.traffic.entries import LedgerEntry, Release, Rollback, RolloutStep, entries
from assets.traffic.moves import released
from assets.traffic.standing import POLICY, Proposal
from assets.traffic.steps import Grounds
from declare.release import ReleasePolicy
from resources.keys import Keys
from resources.ledger import Ledger
from tests.support.entries import confirmed

DAY = date(2013, 4, 1)
NAME = "flights"
POLICY_OF = ReleasePolicy(canary=(0.1, 0.5), cooldown_days=3)


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(path=str(tmp_path / "ledger.db"), signer=Keys(path=str(tmp_path / "keys")))


def proposal(name: str, day: int = 0) -> Proposal:
    return Proposal(
        NAME, name * 64, f"candidate {name}", DAY + timedelta(days=day), {"performance": name}
    )


def begin(
    ledger: Ledger, name: str, day: int = 0, policy: ReleasePolicy = POLICY_OF
) -> LedgerEntry:
    proposed = proposal(name, day)
    approve_by_policy(ledger, proposed, "all gates passed")
    return steps.start(ledger, proposed, 0, policy, Grounds(gates=("one",)))


def standing(ledger: Ledger) -> list[tuple[str, str]]:
    return [
        (rollout.bundle[0], rollout.outcome) for rollout in rollouts.rollouts(entries(ledger, NAME))
    ]


def open_(ledger: Ledger) -> rollouts.Rollout:
    found = rollouts.under_way(entries(ledger, NAME))
    assert found is not None
    return found


def first_champion(ledger: Ledger) -> None:
    assert begin(ledger, "a").kind == "release", "nothing serves: there is nothing to be careful of"
    confirmed(ledger, NAME)


def test_shadow_then_growing_shares_then_everything_then_superseded(ledger: Ledger) -> None:
    first_champion(ledger)
    began = begin(ledger, "b", 1)
    assert isinstance(began, RolloutStep)
    assert began.arms == (("a" * 64, 1.0),)
    assert began.shadows == ("b" * 64,)
    taken = [
        steps.advance(ledger, open_(ledger), POLICY_OF, DAY + timedelta(days=day))
        for day in (2, 3, 4)
    ]
    assert [type(entry) for entry in taken] == [RolloutStep, RolloutStep, Release]
    assert [entry.arms for entry in taken if isinstance(entry, RolloutStep)] == [
        (("a" * 64, 0.9), ("b" * 64, 0.1)),
        (("a" * 64, 0.5), ("b" * 64, 0.5)),
    ]
    assert released(entries(ledger, NAME)) == "b" * 64
    assert standing(ledger) == [("a", "superseded"), ("b", "full")]
    made = rollouts.rollouts(entries(ledger, NAME))[1].steps
    assert [(step.stage, step.share, step.day.day) for step in made] == [
        ("shadow", 0, 2),
        ("canary", 0.1, 3),
        ("canary", 0.5, 4),
        ("full", 1, 5),
    ]


def test_a_step_is_taken_once(ledger: Ledger) -> None:
    first_champion(ledger)
    began = begin(ledger, "b", 1)
    assert begin(ledger, "b", 1) == began, "the start too"
    rollout = open_(ledger)
    steps.advance(ledger, rollout, POLICY_OF, DAY)
    for again in (
        lambda: steps.advance(ledger, rollout, POLICY_OF, DAY),
        lambda: steps.abort(ledger, rollout, POLICY, "slow", DAY),
    ):
        with pytest.raises(ValueError, match="any more; judge it again"):
            again()
    assert open_(ledger).steps[-1].share == 0.1


@pytest.mark.parametrize(
    ("strategy", "kinds"), [("blue_green", ["rollout", "release"]), ("all_at_once", ["release"])]
)
def test_strategies(ledger: Ledger, strategy: str, kinds: list[str]) -> None:
    first_champion(ledger)
    policy = ReleasePolicy(strategy=strategy)
    made = [begin(ledger, "b", 1, policy)]
    while (rollout := rollouts.under_way(entries(ledger, NAME))) is not None:
        made.append(steps.advance(ledger, rollout, policy, DAY))
    assert [entry.kind for entry in made] == kinds
    assert standing(ledger)[-1] == ("b", "full")


def test_going_back_gives_the_traffic_to_what_served_before_and_bars_the_candidate(
    ledger: Ledger,
) -> None:
    first_champion(ledger)
    begin(ledger, "b", 1)
    steps.advance(ledger, open_(ledger), POLICY_OF, DAY + timedelta(days=2))
    went = steps.abort(ledger, open_(ledger), POLICY, "twice as slow", DAY + timedelta(days=3))
    assert isinstance(went, Rollback)
    assert (went.bundle, went.left) == ("a" * 64, "b" * 64)
    assert standing(ledger) == [("a", "full"), ("b", "rolled_back")]
    assert rollouts.rollouts(entries(ledger, NAME))[1].reason == "twice as slow"
    with pytest.raises(PermissionError, match="a person must approve it"):
        begin(ledger, "b", 9)
    # Another one has to wait for the cool-down, unless a person says otherwise.
    with pytest.raises(PermissionError, match="the cool-down lasts until 2013-04-07"):
        begin(ledger, "c", 5)
    assert begin(ledger, "c", 6).kind == "rollout"


def test_a_person_may_send_a_bundle_again_and_it_goes_back_by_itself_no_second_time(
    ledger: Ledger,
) -> None:
    first_champion(ledger)
    begin(ledger, "b", 1)
    steps.abort(ledger, open_(ledger), POLICY, "no luck", DAY + timedelta(days=2))
    approve(ledger, proposal("b", 2), "ada@example.org", "the machine was busy")
    assert steps.start(ledger, proposal("b", 2), 0, POLICY_OF, Grounds()).kind == "rollout"
    assert rollouts.went_back_before(entries(ledger, NAME), "b" * 64)


def test_a_person_rolls_back_what_is_on_its_way(ledger: Ledger) -> None:
    first_champion(ledger)
    begin(ledger, "b", 1)
    with pytest.raises(ValueError, match="being rolled out now"):
        decisions.reject(ledger, proposal("b", 1), "ada@example.org", "no")
    went = decisions.rollback(ledger, NAME, "ada@example.org", "callers complain")
    assert isinstance(went, Rollback)
    assert (went.bundle, went.left) == ("a" * 64, "b" * 64)
    assert standing(ledger) == [("a", "full"), ("b", "rolled_back")]
    assert rollouts.resting_until(entries(ledger, NAME), POLICY_OF) is None, (
        "the cool-down is for what goes back by itself"
    )


def test_a_newer_candidate_takes_the_place_of_one_on_its_way(ledger: Ledger) -> None:
    first_champion(ledger)
    begin(ledger, "b", 1)
    begin(ledger, "c", 2)
    assert standing(ledger) == [("a", "full"), ("b", "superseded"), ("c", "shadow")]
    steps.abort(ledger, open_(ledger), POLICY, "slow", DAY)
    assert standing(ledger)[-1] == ("c", "rolled_back")


def test_a_rollback_of_the_champion_ends_what_is_on_its_way(ledger: Ledger) -> None:
    first_champion(ledger)
    begin(ledger, "b", 1, ReleasePolicy(strategy="all_at_once"))
    confirmed(ledger, NAME)
    begin(ledger, "c", 2)
    decisions.rollback(ledger, NAME, "ada@example.org", "both are wrong", to="a" * 64)
    assert standing(ledger) == [("a", "full"), ("b", "rolled_back"), ("c", "rolled_back")]


def test_a_refused_release_is_withdrawn_to_what_served_before(ledger: Ledger) -> None:
    first_champion(ledger)
    release = begin(ledger, "b", 1, ReleasePolicy(strategy="all_at_once"))
    assert isinstance(release, Release)
    went = steps.withdraw(ledger, release, "it ends the process that loads it")
    assert went is not None
    assert (went.bundle, standing(ledger)) == ("a" * 64, [("a", "full"), ("b", "rolled_back")])
