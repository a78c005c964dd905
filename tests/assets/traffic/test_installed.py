"""Which bundles stay installed: whatever a roll-back may need next, and not all of history."""

from __future__ import annotations

from datetime import date
from pathlib import Path

from assets.traffic import decisions
from assets.traffic.installed import STEPS_BACK, kept
from bundle.desired import Actual, ArmState
from resources.keys import Keys
from resources.ledger import Ledger

DAY = date(2024, 1, 10)


def digest(number: int) -> str:
    return f"{number:064x}"


def test_what_serves_and_what_a_roll_back_goes_to_stays(tmp_path: Path) -> None:
    ledger = Ledger(path=str(tmp_path / "ledger.db"), signer=Keys(path=str(tmp_path / "keys")))
    for number in range(12):
        ledger.append(
            "toy",
            "release",
            bundle=digest(number),
            day=DAY,
            actor="policy",
            payload={"candidate": str(number)},
        )
        ledger.append("toy", "traffic", bundle=digest(number), day=DAY, actor="endpoint")
    ledger.append("toy", "approval", bundle=digest(99), day=DAY, actor="policy")
    serving = Actual(
        pipeline="toy",
        ready=True,
        arms=(ArmState("champion", digest(11), 0.9), ArmState("challenger", digest(2), 0.1)),
    )
    newest = {digest(number) for number in range(11 - STEPS_BACK, 12)}
    assert kept(ledger.entries("toy"), serving) == newest | {digest(2)}
    # Whatever the order of roll-backs, the next one needs nothing but the endpoint.
    for _ in range(STEPS_BACK + 3):
        entry = decisions.rollback(ledger, "toy", "ada@example.org", "it is worse")
        ledger.append("toy", "traffic", bundle=entry.bundle, day=DAY, actor="endpoint")
        target = decisions.before(ledger.entries("toy"))
        assert target in kept(ledger.entries("toy"), serving)
