"""Experiments: ledger entries start and stop them; their rule errs no more often than declared."""

from __future__ import annotations

from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from assets.lifecycles import kind_of
from assets.traffic import decisions, experiments, steps
from assets.traffic.entries import entries
from assets.traffic.experiments import Running
from assets.traffic.judging import comparison
from assets.traffic.judging.comparison import EFFECT
from assets.traffic.judging.evidence import Divided
from assets.traffic.moves import desired_state, newest_move
from assets.traffic.standing import Proposal
from assets.traffic.steps import Grounds
from bundle.desired import Desired
from declare.release import Experiment, ReleasePolicy
from resources.keys import Keys
from resources.ledger import Ledger
from tests.support.tiny import tiny

DAY = date(2013, 4, 1)
NAME = "flights"
KIND = kind_of(tiny)
THREE = Experiment(
    name="shallow_or_deep",
    arms={"champion": 0.5, "candidate": 0.3, "c" * 64: 0.2},
    minimum_effect=0.02,
)
RUNNING = Running(
    1, THREE.name, (("champion", "a" * 64), ("candidate", "b" * 64), ("c" * 64, "c" * 64)), DAY
)


def day_of(
    number: int, rows: int, *, worse: tuple[float, float, float] = (0.0, 0.0, 0.0), seed: int = 0
) -> Divided:
    """A day's answers of three arms; `worse` is how far each arm's outputs are off the truth."""
    random = np.random.default_rng([seed, number])
    shares = np.array([0.5, 0.3, 0.2])
    arm = random.choice(3, size=rows, p=shares)
    truth = random.beta(2, 5, rows)
    output = np.clip(
        truth + random.normal(0, 0.05, rows) + np.array(worse)[arm] * random.choice([-1, 1], rows),
        0.01,
        0.99,
    )
    y = (random.random(rows) < truth).astype(float)
    return Divided(
        arm.astype(np.int64),
        np.tile(shares, (rows, 1)),
        output,
        y,
        np.ones(rows),
        np.arange(rows) + number * rows,
        np.full(rows, number),
    )


def until(days: list[Divided]) -> Divided:
    return Divided(
        *(
            np.concatenate([getattr(day, name) for day in days])
            for name in ("arm", "shares", "output", "y", "ms", "key", "day")
        )
    )


def looks(
    worse: tuple[float, float, float], seed: int, count: int = 20, rows: int = 150
) -> tuple[str | None, int, dict[str, str]]:
    """Look every day until the rule says stop: why, after how many days, and what was found."""
    days: list[Divided] = []
    found: dict[str, str] = {}
    for number in range(count):
        days.append(day_of(number, rows, worse=worse, seed=seed))
        measures = comparison.measures(KIND, THREE, RUNNING, until(days))
        judged = comparison.verdicts(THREE, RUNNING, measures)
        found = {str(m.group): comparison.finding(m, THREE) for m in measures if m.name == EFFECT}
        why = comparison.stops(THREE, RUNNING, judged, measures, DAY + timedelta(days=number))
        if why is not None:
            return why, number + 1, found
    return None, count, found


def test_alike_arms_are_called_different_no_more_often_than_declared() -> None:
    """An A/A/A experiment that is looked at daily and may stop at any look."""
    alarms = sum(
        bool({"better", "worse"} & set(looks((0.0, 0.0, 0.0), seed)[2].values()))
        for seed in range(120)
    )
    assert alarms <= THREE.alpha * 120


def test_an_arm_that_is_worse_is_found_and_the_experiment_stops() -> None:
    ended = [looks((0.0, 0.3, 0.0), seed, count=40, rows=400) for seed in range(5)]
    assert all(found["candidate"] == "worse" for _, _, found in ended)
    assert all(found["c" * 64] in ("alike", "open") for _, _, found in ended)


def test_a_wrong_split_stops_it_and_a_long_one_ends() -> None:
    wrong = day_of(0, 2_000)
    wrong = Divided(
        np.where(wrong.arm == 2, 0, wrong.arm),
        *(getattr(wrong, name) for name in ("shares", "output", "y", "ms", "key", "day")),
    )
    measures = comparison.measures(KIND, THREE, RUNNING, wrong)
    judged = comparison.verdicts(THREE, RUNNING, measures)
    assert "not as declared" in str(comparison.stops(THREE, RUNNING, judged, measures, DAY))
    few = comparison.measures(KIND, THREE, RUNNING, day_of(0, 60))
    judged = comparison.verdicts(THREE, RUNNING, few)
    assert comparison.stops(THREE, RUNNING, judged, few, DAY) is None
    assert "28 days are over" in str(
        comparison.stops(THREE, RUNNING, judged, few, DAY + timedelta(days=27))
    )


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    made = Ledger(path=str(tmp_path / "ledger.db"), signer=Keys(path=str(tmp_path / "keys")))
    for name in "abc":
        decisions.approve_by_policy(made, proposal(name), "all gates passed")
    steps.release(made, proposal("a"), 0, Grounds())
    return made


def proposal(name: str) -> Proposal:
    return Proposal(NAME, name * 64, f"candidate {name}", DAY, {"performance": name})


def begin(ledger: Ledger, experiment: Experiment = THREE) -> Running:
    experiments.start(ledger, NAME, experiment, "b" * 64, "ada@example.org", "which depth?", DAY)
    found = experiments.running(entries(ledger, NAME))
    assert found is not None
    return found


def desired(ledger: Ledger) -> Desired:
    move = newest_move(entries(ledger, NAME))
    assert move is not None
    return desired_state(move)


def test_it_divides_the_traffic_by_its_own_hash_and_gives_it_back(ledger: Ledger) -> None:
    current = begin(ledger)
    assert current.arms == RUNNING.arms
    divided = desired(ledger)
    assert divided.arms == (("a" * 64, 0.5), ("b" * 64, 0.3), ("c" * 64, 0.2))
    assert divided.salt == THREE.name
    assert begin(ledger) == current, "started twice, it is one"
    experiments.stop(ledger, NAME, current, "policy", "decided", DAY)
    assert desired(ledger).arms == (("a" * 64, 1.0),)
    with pytest.raises(ValueError, match="does not run any more"):
        experiments.stop(ledger, NAME, current, "policy", "decided", DAY)


def test_only_what_was_approved_takes_part(ledger: Ledger) -> None:
    decisions.reject(ledger, proposal("c"), "bo@example.org", "wrong weather")
    with pytest.raises(ValueError, match="which nobody approved, or somebody refused since"):
        begin(ledger)
    with pytest.raises(ValueError, match="names a bundle twice"):
        begin(ledger, Experiment(name="same", arms={"champion": 0.5, "a" * 64: 0.5}))


def test_one_change_of_the_traffic_at_a_time(ledger: Ledger) -> None:
    current = begin(ledger)
    steps.start(ledger, proposal("b"), 0, ReleasePolicy(), Grounds())
    assert experiments.running(entries(ledger, NAME)) is None, (
        "a rollout ends an experiment; its intervals hold at any end"
    )
    with pytest.raises(PermissionError, match="in the shadow of the champion since"):
        begin(ledger)
    assert experiments.started(entries(ledger, NAME), THREE.name) == current


@pytest.mark.parametrize(
    ("arms", "told"),
    [
        ({"champion": 1.0}, "at least one other"),
        ({"candidate": 0.5, "b": 0.5}, "must name 'champion'"),
        ({"champion": 0.5, "b": 0.4}, "add up to 1"),
    ],
)
def test_mistakes_in_a_declaration_say_what_would_be_right(
    arms: dict[str, float], told: str
) -> None:
    with pytest.raises(ValidationError, match=told):
        Experiment(name="wrong", arms=arms)


def test_a_split_by_what_no_request_has_is_a_mistake() -> None:
    with pytest.raises(ValidationError, match="which source 'jobs' does not have"):
        type(tiny)(**{**dict(tiny), "release": ReleasePolicy(split_by="colour")})
