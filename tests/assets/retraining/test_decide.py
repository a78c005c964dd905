"""The retraining decision: properties that hold for every evidence and policy, and the sentences of known cases."""

from __future__ import annotations

from datetime import date, timedelta

import pytest
from hypothesis import given, settings, strategies as st

from assets.retraining.backtest import backtest, retrains
from assets.retraining.decide import (
    PAST_COOLDOWN,
    Champion,
    Decision,
    DriftDay,
    Evidence,
    LivePerformance,
    Request,
    cooldown_end,
    decide,
    latest_decision,
    load_decision,
    save_decision,
)  # fmt: skip
from declare.retraining import RetrainingPolicy

DAY = date(2013, 6, 15)
FEATURES = "f" * 64


def days_before(most: int) -> st.SearchStrategy[date]:
    return st.integers(0, most).map(lambda n: DAY - timedelta(days=n))


losses = st.floats(0.0, 2.0)
champions = st.builds(
    Champion,
    bundle=st.just("b" * 64),
    as_of=days_before(90),
    test_log_loss=st.none() | losses,
    test_rows=st.integers(0, 20_000),
    features=st.sampled_from([FEATURES, "e" * 64]),
)
evidences = st.builds(
    Evidence,
    pipeline=st.just("flights"),
    day=st.just(DAY),
    features=st.just(FEATURES),
    champion=st.none() | champions,
    performance=st.none()
    | st.builds(
        LivePerformance,
        log_loss=losses,
        low=st.none() | losses,
        high=losses,
        n=st.integers(0, 10_000),
    ),
    drift=st.lists(
        st.builds(
            DriftDay,
            day=days_before(9),
            drifted=st.none() | st.booleans(),
            share=st.none() | st.floats(0, 1),
            n=st.integers(0, 2_000),
        ),
        max_size=7,
        unique_by=lambda seen: seen.day,
    ).map(lambda found: tuple(sorted(found, key=lambda seen: seen.day))),
    data_faults=st.just(()) | st.just(("weather is missing",)),
    last_retrain=st.none() | days_before(40),
    unreleased=st.integers(0, 5),
    request=st.none()
    | st.builds(
        Request, by=st.just("ann"), reason=st.just("a new aircraft type"), day=days_before(3)
    ),
)
policies = st.builds(
    RetrainingPolicy,
    every_days=st.none() | st.integers(1, 60),
    performance_margin=st.none() | st.floats(0.01, 0.5),
    drift_persistence=st.none() | st.integers(1, 5),
    drift_window=st.integers(1, 9),
    minimum_rows=st.integers(1, 5_000),
    cooldown_days=st.integers(0, 21),
    attempts=st.integers(1, 4),
)
everything = settings(max_examples=400, deadline=None)


@everything
@given(evidences, policies)
def test_only_a_person_or_the_lack_of_a_model_breaks_the_cooldown(
    evidence: Evidence, policy: RetrainingPolicy
) -> None:
    made = decide(evidence, policy)
    rests_until = cooldown_end(evidence, policy)
    if rests_until is not None and rests_until > DAY and made.retrain:
        assert made.cause in PAST_COOLDOWN


@everything
@given(evidences, policies)
def test_the_decision_repeats_from_its_own_stored_evidence(
    evidence: Evidence, policy: RetrainingPolicy
) -> None:
    made = decide(evidence, policy)
    stored = Decision.model_validate_json(made.model_dump_json())
    assert stored == made
    assert decide(stored.evidence, policy) == made
    assert made.retrain == (made.cause is not None)
    assert made.reason


@everything
@given(evidences, policies, st.floats(0.0, 1.0))
def test_a_worse_model_is_never_kept_where_a_better_one_is_replaced(
    evidence: Evidence, policy: RetrainingPolicy, worse: float
) -> None:
    live = evidence.performance
    if (
        live is None
        or live.low is None
        or live.log_loss is None
        or not decide(evidence, policy).retrain
    ):
        return
    worsened = live.model_copy(update={"low": live.low + worse, "log_loss": live.log_loss + worse})
    assert decide(evidence.model_copy(update={"performance": worsened}), policy).retrain


@everything
@given(evidences, policies)
def test_waiting_longer_never_ends_a_calendar_cause(
    evidence: Evidence, policy: RetrainingPolicy
) -> None:
    quiet = evidence.model_copy(update={"drift": (), "performance": None, "request": None})
    if decide(quiet, policy).retrain:
        assert decide(quiet.model_copy(update={"day": DAY + timedelta(days=1)}), policy).retrain


@everything
@given(evidences, policies)
def test_a_data_fault_never_adds_a_retrain(evidence: Evidence, policy: RetrainingPolicy) -> None:
    faulty = decide(evidence.model_copy(update={"data_faults": ("weather is missing",)}), policy)
    if faulty.retrain:
        assert decide(evidence.model_copy(update={"data_faults": ()}), policy).retrain
    assert faulty.cause not in ("performance", "drift", "calendar")
    assert "weather is missing" in faulty.model_dump_json()


@everything
@given(evidences, policies)
def test_drift_needs_persistence_and_rows(evidence: Evidence, policy: RetrainingPolicy) -> None:
    if decide(evidence, policy).cause == "drift":
        assert policy.drift_persistence is not None
        first = DAY - timedelta(days=policy.drift_window - 1)
        drifted = [seen for seen in evidence.drift if seen.drifted and seen.day >= first]
        assert len(drifted) >= policy.drift_persistence
        assert sum(seen.n for seen in drifted) >= policy.minimum_rows
        assert not evidence.data_faults


def champion(**changes: object) -> Champion:
    fields = {
        "bundle": "b" * 64,
        "as_of": date(2013, 6, 1),
        "test_log_loss": 0.45,
        "test_rows": 12_000,
        "features": FEATURES,
    }
    return Champion.model_validate({**fields, **changes})


def evidence(**changes: object) -> Evidence:
    fields = {"pipeline": "flights", "day": DAY, "features": FEATURES, "champion": champion()}
    return Evidence.model_validate({**fields, **changes})


def test_the_reason_is_a_sentence_with_numbers() -> None:
    live = LivePerformance(log_loss=0.58, low=0.56, high=0.6, n=6_200)
    made = decide(evidence(performance=live), RetrainingPolicy())
    assert made.reason == (
        "Retrain: Worse than allowed: live log loss 0.580 (95 % interval from 0.560, n=6200) against 0.530, "
        "the champion's test log loss 0.450 (n=12000) plus 0.08."
    )
    assert (
        decide(evidence(performance=live.model_copy(update={"n": 1_999})), RetrainingPolicy()).cause
        is None
    )


def test_failed_retrains_lengthen_the_cooldown() -> None:
    live = LivePerformance(log_loss=0.7, low=0.69, high=0.71, n=6_200)
    tired = evidence(performance=live, last_retrain=DAY - timedelta(days=10), unreleased=1)
    assert decide(tired, RetrainingPolicy()).retrain is False
    assert (
        "the cooldown lasts until 2013-06-19 (7 days after 2013-06-05, times 2"
        in decide(tired, RetrainingPolicy()).reason
    )
    assert (
        decide(tired.model_copy(update={"unreleased": 0}), RetrainingPolicy()).cause
        == "performance"
    )


def test_evidence_of_the_future_is_refused() -> None:
    with pytest.raises(ValueError, match="evidence for 2013-06-15 speaks of 2013-06-16"):
        evidence(drift=(DriftDay(day=date(2013, 6, 16), drifted=True, share=0.5, n=900),))


def test_the_backtest_makes_the_decisions_that_the_asset_makes() -> None:
    def source(day: date, earlier: tuple[Decision, ...]) -> Evidence:
        last = retrains(earlier)[-1].day if retrains(earlier) else None
        trained = last + timedelta(days=1) if last else date(2013, 5, 1)
        return evidence(day=day, champion=champion(as_of=trained), last_retrain=last)

    days = [date(2013, 5, 1) + timedelta(days=n) for n in range(100)]
    made = backtest(days, source, RetrainingPolicy(every_days=30))
    assert [decision.day for decision in retrains(made)] == [
        date(2013, 5, 31),
        date(2013, 7, 1),
        date(2013, 8, 1),
    ]
    assert all(
        decide(decision.evidence, RetrainingPolicy(every_days=30)) == decision for decision in made
    )
    with pytest.raises(ValueError, match="evidence asked for 2013-05-01 speaks of 2013-06-15"):
        backtest(days[:1], lambda day, earlier: evidence(), RetrainingPolicy())


def test_a_decision_made_again_never_goes_before_a_later_one(tmp_path: object) -> None:
    class Store:
        uri = str(tmp_path)

    assert latest_decision(Store(), "flights") is None
    later, earlier = (
        decide(evidence(), RetrainingPolicy()),
        decide(evidence(day=DAY - timedelta(days=1)), RetrainingPolicy()),
    )
    save_decision(Store(), later)
    save_decision(Store(), earlier)
    assert latest_decision(Store(), "flights") == later
    assert load_decision(Store(), "flights", earlier.day) == earlier
    assert load_decision(Store(), "flights", DAY - timedelta(days=9)) is None
