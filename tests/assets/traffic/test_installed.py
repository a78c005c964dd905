"""Which bundles stay installed: whatever a roll-back may need next, and not all of history."""

from __future__ import annotations

from datetime import date
from pathlib import Path

from assets.traffic import decisions
from assets.traffic.entries import entries
from assets.traffic.moves import STEPS_BACK, kept, served_before
from assets.traffic.standing import Proposal
from bundle.desired import Actual, ArmState
from resources.keys import Keys
from resources.ledger import Ledger
from tests.support.entries import confirmed, released

DAY = date(2024, 1, 10)


def digest(number: int) -> str:
    return f"{number:064x}"


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
