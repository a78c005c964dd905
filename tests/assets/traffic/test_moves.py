"""What moves and confirmations say: what served when, and which bundles stay installed."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest

from assets.traffic import decisions
from assets.traffic.entries import entries
from assets.traffic.moves import STEPS_BACK, confirmed_at, kept, served_before
from assets.traffic.standing import Proposal
from bundle.desired import Actual, ArmState
from resources.keys import Keys
from resources.ledger import Ledger
from tests.support.entries import confirmed, released

DAY = date(2024, 1, 10)


def digest(number: int) -> str:
    return f"{number:064x}"


def test_what_served_at_a_moment_is_what_the_endpoint_confirmed(tmp_path: Path) -> None:
    ledger = Ledger(path=str(tmp_path / "ledger.db"), signer=Keys(path=str(tmp_path / "keys")))
    confirmations = []
    for number in (1, 2):
        released(ledger, "toy", digest(number), DAY)
        confirmations.append(confirmed(ledger, "toy"))
    first, second = confirmations
    known = entries(ledger, "toy")
    just_before = timedelta(microseconds=1)
    assert confirmed_at(known, first.moment - just_before) is None
    assert confirmed_at(known, second.moment - just_before) == first
    assert confirmed_at(known, datetime.now(UTC)) == second
    with pytest.raises(ValueError, match="has no offset"):
        confirmed_at(known, datetime(2013, 1, 1))  # noqa: DTZ001


def test_what_serves_and_what_a_roll_back_goes_to_stays(tmp_path: Path) -> None:
    ledger = Ledger(path=str(tmp_path / "ledger.db"), signer=Keys(path=str(tmp_path / "keys")))
    for number in range(12):
        released(ledger, "toy", digest(number), DAY, str(number))
        confirmed(ledger, "toy")
    proposed = Proposal("toy", digest(99), "99", DAY, {})
    decisions.approve_by_policy(ledger, proposed, "all gates passed")
    serving = Actual(
        pipeline="toy",
        ready=True,
        arms=(ArmState("champion", digest(11), 0.9), ArmState("challenger", digest(2), 0.1)),
    )
    newest = {digest(number) for number in range(11 - STEPS_BACK, 12)}
    assert kept(entries(ledger, "toy"), serving) == newest | {digest(2)}
    # Whatever the order of roll-backs, the next one needs nothing but the endpoint.
    for _ in range(STEPS_BACK + 3):
        decisions.rollback(ledger, "toy", "ada@example.org", "it is worse")
        confirmed(ledger, "toy")
        target = served_before(entries(ledger, "toy"))
        assert target in kept(entries(ledger, "toy"), serving)
