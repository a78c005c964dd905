"""What a day's evidence means for a rollout: one test a rule, on evidence with known faults."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime

import numpy as np
import pytest

from assets.lifecycles import kind_of
from assets.traffic.judging import measures, verdicts as judging
from assets.traffic.judging.evidence import Divided, Evidence, Failures, Paired
from assets.traffic.rollouts import Rollout, Step
from declare.release import ReleasePolicy
from tests.support.tiny import tiny

DAY = date(2013, 4, 2)
POLICY = ReleasePolicy()
KIND = kind_of(tiny)
MOMENT = datetime(2013, 4, 1, tzinfo=UTC)


def rollout(stage: str, share: float) -> Rollout:
    step = Step(7, stage, share, DAY, MOMENT)  # type: ignore[arg-type]
    return Rollout("flights", "b" * 64, "c", "a" * 64, (step,), stage)  # type: ignore[arg-type]


def paired(
    n: int = 900,
    *,
    worse: float = 0.0,
    shift: float = 0.0,
    slower: float = 1.0,
    labelled: bool = True,
    seed: int = 1,
) -> Paired:
    random = np.random.default_rng(seed)
    truth = random.beta(2, 5, n)
    champion = np.clip(truth + random.normal(0, 0.05, n), 0.01, 0.99)
    candidate = np.clip(
        truth + random.normal(0, 0.05, n) + shift + worse * np.sign(random.normal(size=n)),
        0.01,
        0.99,
    )
    y = (random.random(n) < truth).astype(float) if labelled else np.full(n, np.nan)
    us = random.normal(100, 10, n)
    return Paired(
        champion,
        candidate,
        y,
        us,
        us * slower,
        np.full(n, DAY.toordinal() - 719163, dtype=np.int64),
    )


def divided(
    n: int = 900,
    share: float = 0.5,
    *,
    real: float | None = None,
    slower: float = 1.0,
    loss: float = 0.0,
    seed: int = 2,
) -> Divided:
    random = np.random.default_rng(seed)
    arm = (random.random(n) < (real or share)).astype(np.int64)
    truth = random.beta(2, 5, n)
    y = (random.random(n) < truth).astype(float)
    output = np.where(
        arm == 1, np.clip(truth + loss * np.sign(random.normal(size=n)), 0.01, 0.99), truth
    )
    ms = np.where(arm == 1, slower, 1.0) * random.normal(1, 0.1, n)
    return Divided(
        arm,
        np.tile([1 - share, share], (n, 1)),
        output,
        y,
        ms,
        np.arange(n),
        np.full(n, DAY.toordinal() - 719163, dtype=np.int64),
    )


NOTHING = divided(0)
SHADOW = Evidence(DAY, paired(), NOTHING, NOTHING, Failures(), confirmed=True)
CANARY = Evidence(DAY, paired(), divided(), divided(), Failures(), confirmed=True)


def decide(
    evidence: Evidence, stage: str = "shadow", share: float = 0.0, policy: ReleasePolicy = POLICY
) -> tuple[str, dict[str, bool | None]]:
    on_its_way = rollout(stage, share)
    verdicts = judging.verdicts(
        on_its_way,
        (*measures.measures(KIND, on_its_way, evidence), *measures.quality(KIND, evidence, policy)),
        policy,
    )
    assert tuple(verdict.rule for verdict in verdicts) == judging.RULES
    return judging.action(verdicts)[0], {verdict.rule: verdict.passed for verdict in verdicts}


def test_good_evidence_takes_the_next_step() -> None:
    assert decide(SHADOW)[0] == "advance"
    action, passed = decide(CANARY, "canary", 0.5)
    assert action == "advance"
    assert all(passed.values()), passed


@pytest.mark.parametrize(
    ("evidence", "stage", "rule"),
    [
        (replace(SHADOW, paired=paired(50)), "shadow", judging.REQUESTS),
        (replace(SHADOW, confirmed=False), "shadow", judging.REQUESTS),
        (replace(CANARY, step=divided(60)), "canary", judging.REQUESTS),
        (replace(SHADOW, day=date(2013, 4, 1)), "shadow", judging.BAKE),
    ],
)
def test_too_little_waits(evidence: Evidence, stage: str, rule: str) -> None:
    action, passed = decide(evidence, stage, 0.5)
    assert (action, passed[rule]) == ("hold", None)


@pytest.mark.parametrize(
    ("evidence", "stage", "rule"),
    [
        (replace(SHADOW, failures=Failures(invalid=1)), "shadow", judging.VALID),
        (replace(CANARY, failures=Failures(raised=60)), "canary", judging.ERRORS),
        (replace(SHADOW, paired=paired(slower=10.0)), "shadow", judging.LATENCY),
        (replace(CANARY, step=divided(slower=10.0)), "canary", judging.LATENCY),
        (replace(SHADOW, paired=paired(shift=0.4)), "shadow", judging.SHIFT),
        (replace(CANARY, step=divided(real=0.7)), "canary", judging.SPLIT),
        (replace(SHADOW, paired=paired(worse=0.25)), "shadow", judging.QUALITY),
        (replace(CANARY, split=divided(4_000, loss=0.3)), "canary", judging.QUALITY),
    ],
)
def test_each_rule_sends_the_candidate_back(evidence: Evidence, stage: str, rule: str) -> None:
    action, passed = decide(evidence, stage, 0.5)
    assert (action, passed[rule]) == ("roll_back", False)


def test_without_labels_the_step_rests_on_its_bake_time_and_says_so() -> None:
    evidence = replace(SHADOW, paired=paired(labelled=False))
    policy = ReleasePolicy(bake_days=1)
    on_its_way = rollout("shadow", 0.0)
    verdicts = judging.verdicts(
        on_its_way,
        (*measures.measures(KIND, on_its_way, evidence), *measures.quality(KIND, evidence, policy)),
        policy,
    )
    quality = verdicts[-1]
    assert (quality.passed, judging.action(verdicts)[0]) == (None, "advance")
    assert "NOT judged on labels: 0 have matured" in quality.reason
    assert "bake time of 1 days" in quality.reason
    assert "estimate of the log loss" in quality.reason


def test_predictions_alike_allows_for_chance_in_small_samples() -> None:
    """Two samples of one distribution, the smaller one of 50, with no shift allowed at all.

    Hardly any of 200 pairs is called different.
    """
    policy = ReleasePolicy(prediction_shift=1e-9)
    different = [
        decide(replace(CANARY, step=divided(500, 0.1, seed=seed)), "canary", 0.1, policy)[1][
            judging.SHIFT
        ]
        for seed in range(200)
    ]
    assert different.count(False) <= 4
