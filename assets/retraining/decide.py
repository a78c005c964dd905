"""Whether to retrain: one pure function of the evidence and the policy.

The daily asset and the backtest over history call the same `decide`. Everything it reads is in
`Evidence`, and the decision carries its evidence, so that anyone can repeat it.
"""

from __future__ import annotations

from datetime import date, timedelta
from typing import Literal, Protocol

from pydantic import BaseModel, ConfigDict, model_validator

from assets.names import RETRAINING_DECISION, asset_path
from declare.retraining import RetrainingPolicy
from resources import files

Cause = Literal["request", "first_model", "new_features", "performance", "drift", "calendar"]
# When several hold, the first one names the decision: people before rules, what is certain before
# what is estimated.
CAUSES: tuple[Cause, ...] = (
    "request",
    "first_model",
    "new_features",
    "performance",
    "drift",
    "calendar",
)
# An open fault of the data vetoes these: the numbers that speak for them may be the fault's own.
VETOED: tuple[Cause, ...] = ("performance", "drift", "calendar")
PAST_COOLDOWN: tuple[Cause, ...] = ("request", "first_model")


class Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Champion(Record):
    """The model that serves.

    Its bundle, the data day it was trained as of, its log loss on its own test split (`test_rows`
    rows), and the digest of its declared features.
    """

    bundle: str
    as_of: date
    test_log_loss: float | None
    test_rows: int
    features: str


class LivePerformance(Record):
    """Log loss of the champion's predictions, with its 95 % interval.

    Computed on matured labels over the monitor's window.
    """

    log_loss: float | None
    low: float | None
    high: float | None
    n: int


class DriftDay(Record):
    """The drift monitor's verdict of one day: None where it could not be judged."""

    day: date
    drifted: bool | None
    share: float | None
    n: int


class Request(Record):
    by: str
    reason: str
    day: date


class Evidence(Record):
    """All that a decision rests on, as it was known for data day `day`.

    `features` is the digest of the declared features. `drift` are the days of the policy's window,
    oldest first. `data_faults` names faults of the data that are open on the day. `last_retrain` is
    the day of the last decision to retrain. `unreleased` counts the retrains in a row, up to then,
    that changed nothing served.
    """

    pipeline: str
    day: date
    features: str
    champion: Champion | None
    performance: LivePerformance | None = None
    drift: tuple[DriftDay, ...] = ()
    data_faults: tuple[str, ...] = ()
    last_retrain: date | None = None
    unreleased: int = 0
    request: Request | None = None

    @model_validator(mode="after")
    def _knows_no_future(self) -> Evidence:
        days = [seen.day for seen in self.drift]
        if self.last_retrain:
            days.append(self.last_retrain)
        if self.request:
            days.append(self.request.day)

        for later in sorted(known for known in days if known > self.day):
            raise ValueError(
                f"evidence for {self.day} speaks of {later}; a decision reads only what its day "
                "knew"
            )
        return self


class Consideration(Record):
    """One cause, weighed: `holds` is None where there was too little to judge it by."""

    cause: Cause
    holds: bool | None
    reason: str


class Decision(Record):
    """Retrain or not, and why. `cause` is the first cause that holds, None when the model stays."""

    pipeline: str
    day: date
    retrain: bool
    cause: Cause | None
    reason: str
    considered: tuple[Consideration, ...]
    evidence: Evidence


def decide(evidence: Evidence, policy: RetrainingPolicy) -> Decision:
    """Weigh all causes. Deterministic; reads nothing but its arguments."""
    weighed_causes = (
        _request(evidence),
        _first_model(evidence),
        _new_features(evidence),
        _performance(evidence, policy),
        _drift(evidence, policy),
        _calendar(evidence, policy),
    )
    considered = tuple(_unless_faulty(weighed, evidence) for weighed in weighed_causes)
    rests_until = cooldown_end(evidence, policy)
    holding = [weighed for weighed in considered if weighed.holds]
    free = [
        weighed
        for weighed in holding
        if rests_until is None or evidence.day >= rests_until or weighed.cause in PAST_COOLDOWN
    ]
    chosen = free[0] if free else None
    if chosen:
        others = ", ".join(weighed.cause.replace("_", " ") for weighed in free[1:])
        reason = f"Retrain: {chosen.reason}" + (f" Also: {others}." if others else "")
    elif holding:
        cooldown = _cooldown_words(evidence, policy)
        reason = (
            f"Keep the champion: the cooldown lasts until {rests_until} ({cooldown}). "
            f"{holding[0].reason}"
        )
    else:
        unknown = [weighed.cause for weighed in considered if weighed.holds is None]
        reason = "Keep the champion: no cause holds" + (
            f"; not judged: {', '.join(unknown)}." if unknown else "."
        )
    return Decision(
        pipeline=evidence.pipeline,
        day=evidence.day,
        retrain=chosen is not None,
        cause=chosen.cause if chosen else None,
        reason=reason,
        considered=considered,
        evidence=evidence,
    )


def _unless_faulty(weighed: Consideration, evidence: Evidence) -> Consideration:
    """The cause, or its veto: a model trained on broken data is no better than the old one."""
    if not weighed.holds or weighed.cause not in VETOED or not evidence.data_faults:
        return weighed
    faults = "; ".join(evidence.data_faults)
    reason = f"{weighed.reason} But a data fault is open: {faults}."
    return Consideration(cause=weighed.cause, holds=False, reason=reason)


def cooldown_end(evidence: Evidence, policy: RetrainingPolicy) -> date | None:
    """First day on which the ordinary causes count again, None before the first retrain."""
    if evidence.last_retrain is None:
        return None
    return evidence.last_retrain + timedelta(
        days=policy.cooldown_days * _doublings(evidence, policy)
    )


def _doublings(evidence: Evidence, policy: RetrainingPolicy) -> int:
    return 1 << min(evidence.unreleased, policy.attempts - 1)


def _cooldown_words(evidence: Evidence, policy: RetrainingPolicy) -> str:
    words = f"{policy.cooldown_days} days after {evidence.last_retrain}"
    factor = _doublings(evidence, policy)
    return (
        words
        if factor == 1
        else f"{words}, times {factor} after {evidence.unreleased} retrains that released nothing"
    )


def _request(evidence: Evidence) -> Consideration:
    asked = evidence.request
    if asked is None:
        return Consideration(cause="request", holds=False, reason="Nobody asked.")
    return Consideration(
        cause="request", holds=True, reason=f"{asked.by} asked on {asked.day}: {asked.reason}."
    )


def _first_model(evidence: Evidence) -> Consideration:
    if evidence.champion is None:
        return Consideration(cause="first_model", holds=True, reason="No model serves yet.")
    return Consideration(
        cause="first_model", holds=False, reason=f"Bundle {evidence.champion.bundle[:12]} serves."
    )


def _new_features(evidence: Evidence) -> Consideration:
    champion = evidence.champion
    if champion is None:
        return Consideration(cause="new_features", holds=False, reason="No model serves yet.")
    if champion.features == evidence.features:
        return Consideration(
            cause="new_features",
            holds=False,
            reason=f"The champion uses the declared features ({evidence.features[:12]}).",
        )
    reason = (
        f"The declared features ({evidence.features[:12]}) are not those of the champion "
        f"({champion.features[:12]})."
    )
    return Consideration(cause="new_features", holds=True, reason=reason)


def _performance(evidence: Evidence, policy: RetrainingPolicy) -> Consideration:
    champion, live = evidence.champion, evidence.performance
    if policy.performance_margin is None:
        return Consideration(
            cause="performance", holds=False, reason="The policy does not retrain for performance."
        )
    if champion is None or champion.test_log_loss is None:
        return Consideration(
            cause="performance",
            holds=None,
            reason="There is no champion with a test log loss to compare with.",
        )
    if live is None or live.log_loss is None or live.low is None or live.n < policy.minimum_rows:
        n = live.n if live else 0
        return Consideration(
            cause="performance",
            holds=None,
            reason=f"{n} matured rows; the policy asks for {policy.minimum_rows}.",
        )
    limit = champion.test_log_loss + policy.performance_margin
    holds = live.low > limit
    numbers = (
        f"live log loss {live.log_loss:.3f} (95 % interval from {live.low:.3f}, n={live.n}) "
        f"against {limit:.3f}, the champion's test log loss {champion.test_log_loss:.3f} "
        f"(n={champion.test_rows}) plus {policy.performance_margin:g}"
    )
    return Consideration(
        cause="performance",
        holds=holds,
        reason=f"{'Worse than allowed' if holds else 'Within the limit'}: {numbers}.",
    )


def _drift(evidence: Evidence, policy: RetrainingPolicy) -> Consideration:
    if policy.drift_persistence is None:
        return Consideration(
            cause="drift", holds=False, reason="The policy does not retrain for drift."
        )
    first = evidence.day - timedelta(days=policy.drift_window - 1)
    seen = [day for day in evidence.drift if day.day >= first]
    judged = [day for day in seen if day.drifted is not None]
    drifted = [day for day in judged if day.drifted]
    rows = sum(day.n for day in drifted)
    counted = f"drifted on {len(drifted)} of {len(judged)} judged days since {first} (n={rows})"
    if not judged:
        return Consideration(
            cause="drift", holds=None, reason=f"No day since {first} could be judged."
        )
    if len(drifted) < policy.drift_persistence:
        return Consideration(
            cause="drift",
            holds=False,
            reason=f"Data {counted}; the policy asks for {policy.drift_persistence} days.",
        )
    if rows < policy.minimum_rows:
        return Consideration(
            cause="drift",
            holds=None,
            reason=f"Data {counted}; the policy asks for {policy.minimum_rows} rows.",
        )
    shares = [day.share for day in drifted if day.share is not None]
    widest = f", in up to {max(shares):.0%} of the features" if shares else ""
    return Consideration(cause="drift", holds=True, reason=f"Data {counted}{widest}.")


def _calendar(evidence: Evidence, policy: RetrainingPolicy) -> Consideration:
    if policy.every_days is None:
        return Consideration(
            cause="calendar", holds=False, reason="The policy does not retrain by calendar."
        )
    if evidence.champion is None:
        return Consideration(cause="calendar", holds=False, reason="No model serves yet.")
    trained = max(evidence.champion.as_of, evidence.last_retrain or evidence.champion.as_of)
    age = (evidence.day - trained).days
    reason = (
        f"The last training was {age} days ago ({trained}); the policy asks for one every "
        f"{policy.every_days} days."
    )
    return Consideration(cause="calendar", holds=age >= policy.every_days, reason=reason)


class ReportStore(Protocol):
    """What is needed of the reports resource: where decisions lie."""

    @property
    def uri(self) -> str: ...


def decision_place(reports: ReportStore, pipeline: str, day: date) -> str:
    return (
        f"{reports.uri}/{asset_path(pipeline, RETRAINING_DECISION)}/{day.isoformat()}/decision.json"
    )


def save_decision(reports: ReportStore, decision: Decision) -> str:
    """Store a decision and return its place.

    It becomes the latest unless a later day has been decided. Deciding a day again replaces its
    decision.
    """
    place = decision_place(reports, decision.pipeline, decision.day)
    content = decision.model_dump_json(indent=1).encode()
    files.write_atomically(place, content)
    latest = latest_decision(reports, decision.pipeline)
    if latest is None or latest.day <= decision.day:
        files.write_atomically(_latest_place(reports, decision.pipeline), content)
    return place


def load_decision(reports: ReportStore, pipeline: str, day: date) -> Decision | None:
    """The decision of a day, None where there is none.

    Raises ValueError for one that does not parse.
    """
    try:
        return Decision.model_validate_json(files.read(decision_place(reports, pipeline, day)))
    except FileNotFoundError:
        return None


def latest_decision(reports: ReportStore, pipeline: str) -> Decision | None:
    """The decision of the newest decided day, None before the first one."""
    try:
        return Decision.model_validate_json(files.read(_latest_place(reports, pipeline)))
    except FileNotFoundError:
        return None


def _latest_place(reports: ReportStore, pipeline: str) -> str:
    return f"{reports.uri}/{asset_path(pipeline, RETRAINING_DECISION)}/latest.json"
