"""Whether a rollout takes its next step, waits or goes back.

Pure functions of a day's measures and the declared policy. The measures are made in `measures`.
"""

from __future__ import annotations

from typing import Literal

from assets.reporting.report import Measure, Verdict
from assets.traffic.judging.measures import CANDIDATE, CHAMPION, WORSE_BY
from assets.traffic.judging.sequential import SPLIT_ALPHA
from assets.traffic.rollouts import Rollout
from declare.release import ReleasePolicy

Action = Literal["advance", "hold", "roll_back"]
Numbers = dict[tuple[str, str | None], Measure]

REQUESTS, BAKE = "enough_requests", "baked"
VALID, ERRORS = "every_output_is_a_probability", "errors_no_worse"
LATENCY, SHIFT = "latency_no_worse", "predictions_alike"
SPLIT, QUALITY = "split_as_declared", "quality_no_worse"
RULES = (REQUESTS, BAKE, VALID, ERRORS, LATENCY, SHIFT, SPLIT, QUALITY)
WAITS = frozenset({REQUESTS, BAKE})
"""Rules that time heals: they pass or are not judged yet, which holds the step where it is. Every
other rule sends the candidate back when it fails."""

LATENCY_SLACK_MS = 0.2
TIMED_REQUESTS = 20
"""Fewer timed requests of an arm say nothing about its median."""


def verdicts(
    rollout: Rollout, measures: tuple[Measure, ...], policy: ReleasePolicy
) -> tuple[Verdict, ...]:
    """One verdict for each of `RULES`, from measures alone."""
    at = {(measure.name, measure.group): measure for measure in measures}
    return (
        _enough_requests(at, rollout.in_shadow, policy),
        _baked(at, policy),
        _outputs_are_valid(at),
        _errors_no_worse(at, policy),
        _latency_no_worse(at, policy),
        _predictions_alike(at, policy),
        split_verdict(at.get(("split_evidence", None)), "the traffic is not divided"),
        _quality_no_worse(at, policy),
    )


def action(judged: tuple[Verdict, ...]) -> tuple[Action, str]:
    """What follows from the verdicts, and why in a sentence.

    A failing rule sends the candidate back, whatever is still missing.
    """
    failed = [verdict for verdict in judged if verdict.passed is False]
    if failed:
        return "roll_back", "; ".join(f"{verdict.rule}: {verdict.reason}" for verdict in failed)

    waiting = [verdict for verdict in judged if verdict.rule in WAITS and verdict.passed is None]
    if waiting:
        return "hold", "; ".join(verdict.reason for verdict in waiting)

    return "advance", "; ".join(verdict.reason for verdict in judged if verdict.rule == QUALITY)


def split_verdict(evidence: Measure | None, without: str) -> Verdict:
    """Whether callers were divided as declared; `without` is the reason where none were."""
    limit = 1 / SPLIT_ALPHA
    if evidence is None or evidence.value is None:
        return _unjudged(SPLIT, without, limit=limit)
    reason = (
        f"another split than the declared one is {evidence.value:.3g} times as likely for "
        f"{evidence.n} callers, fewer than {limit:g} times are allowed"
    )
    return Verdict(
        rule=SPLIT,
        passed=evidence.value < limit,
        value=evidence.value,
        limit=limit,
        n=evidence.n,
        reason=reason,
    )


def _unjudged(rule: str, reason: str, *, limit: float | None = None, n: int = 0) -> Verdict:
    return Verdict(rule=rule, passed=None, value=None, limit=limit, n=n, reason=reason)


def _enough_requests(at: Numbers, shadow: bool, policy: ReleasePolicy) -> Verdict:
    limit = policy.shadow_requests if shadow else policy.minimum_requests
    n = int(at["requests", CANDIDATE].value or 0)
    what = "scored beside the champion's" if shadow else "answered by the candidate"
    confirmed = bool(at["confirmed", None].value)
    reason = f"{n} requests {what}, {limit} are asked for"

    return Verdict(
        rule=REQUESTS,
        passed=True if confirmed and n >= limit else None,
        value=float(n) if confirmed else 0.0,
        limit=limit,
        n=n if confirmed else 0,
        reason=reason if confirmed else "no endpoint has confirmed the step yet",
    )


def _baked(at: Numbers, policy: ReleasePolicy) -> Verdict:
    days = int(at["days", None].value or 0)
    limit = policy.bake_days
    return Verdict(
        rule=BAKE,
        passed=True if days >= limit else None,
        value=float(days),
        limit=limit,
        n=days,
        reason=f"in this step for {days} of at least {limit} days",
    )


def _outputs_are_valid(at: Numbers) -> Verdict:
    invalid = at["invalid_outputs", CANDIDATE]
    return Verdict(
        rule=VALID,
        passed=None if not invalid.n else not invalid.value,
        value=invalid.value,
        limit=0.0,
        n=invalid.n,
        reason=f"{invalid.value:g} of {invalid.n} outputs are no probability",
    )


def _errors_no_worse(at: Numbers, policy: ReleasePolicy) -> Verdict:
    failed = at["error_share", CANDIDATE]
    limit = policy.error_margin
    if failed.value is None:
        return _unjudged(ERRORS, "no request was computed", limit=limit)

    # A request that the champion cannot compute is answered with an error and tried by nobody
    # else. So the champion's share is zero here.
    reason = (
        f"the candidate failed on {failed.value:.2%} of {failed.n} requests that the champion "
        f"computed, at most {limit:.2%} are allowed"
    )
    return Verdict(
        rule=ERRORS,
        passed=failed.value <= limit,
        value=failed.value,
        limit=limit,
        n=failed.n,
        reason=reason,
    )


def _latency_no_worse(at: Numbers, policy: ReleasePolicy) -> Verdict:
    champion, candidate = at["latency_ms_median", CHAMPION], at["latency_ms_median", CANDIDATE]
    n = min(champion.n, candidate.n)
    if champion.value is None or candidate.value is None or n < TIMED_REQUESTS:
        return _unjudged(LATENCY, f"fewer than {TIMED_REQUESTS} requests of an arm were timed", n=n)

    limit = champion.value * (1 + policy.latency_margin) + LATENCY_SLACK_MS
    reason = (
        f"median {candidate.value:.3f} ms against the champion's {champion.value:.3f} ms, at most "
        f"{limit:.3f} ms are allowed"
    )
    return Verdict(
        rule=LATENCY,
        passed=candidate.value <= limit,
        value=candidate.value,
        limit=limit,
        n=candidate.n,
        reason=reason,
    )


def _predictions_alike(at: Numbers, policy: ReleasePolicy) -> Verdict:
    moved, chance = at["prediction_shift", None], at["shift_by_chance", None]
    if moved.value is None or chance.value is None:
        return _unjudged(SHIFT, "too few predictions of an arm to compare", n=moved.n)

    limit = policy.prediction_shift + chance.value
    reason = (
        f"PSI {moved.value:.3f} between both arms' outputs, at most {limit:.3f} are allowed "
        f"({chance.value:.3f} of it for chance)"
    )
    return Verdict(
        rule=SHIFT,
        passed=moved.value <= limit,
        value=moved.value,
        limit=limit,
        n=moved.n,
        reason=reason,
    )


def _quality_no_worse(at: Numbers, policy: ReleasePolicy) -> Verdict:
    looked = [at[WORSE_BY, group] for group in ("shadow", "canary")]
    judged = [m for m in looked if m.n >= policy.minimum_labels and m.low is not None]
    limit = policy.quality_margin
    if not judged:
        n = max(measure.n for measure in looked)
        return _unjudged(QUALITY, _without_labels(at, policy, n), limit=limit, n=n)

    worst = max(judged, key=_low)
    intervals = "; ".join(
        f"{m.value:+.4f} ({m.low:+.4f} to {m.high:+.4f}, n={m.n}, {m.group})" for m in judged
    )
    reason = (
        f"log loss worse by {intervals} on matured labels; it goes back when a whole interval "
        f"lies above {limit:g}"
    )
    return Verdict(
        rule=QUALITY,
        passed=_low(worst) <= limit,
        value=worst.value,
        limit=limit,
        n=worst.n,
        reason=reason,
    )


def _low(measure: Measure) -> float:
    return float("-inf") if measure.low is None else measure.low


def _without_labels(at: Numbers, policy: ReleasePolicy, n: int) -> str:
    """What a step rests on while too few labels have matured."""
    estimates = [at["estimated_log_loss", arm].value for arm in (CHAMPION, CANDIDATE)]
    known = ", ".join("none" if value is None else f"{value:.3f}" for value in estimates)
    return (
        f"NOT judged on labels: {n} have matured, {policy.minimum_labels} are asked for; the step "
        f"rests on its bake time of {policy.bake_days} days and on an estimate of the log loss "
        f"from the outputs alone, champion and candidate: {known}"
    )
