"""Whether a rollout takes its next step, waits or goes back: a pure function of the day's evidence and the declared policy."""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from assets.reporting.report import Measure, Verdict
from assets.tabular.tasks.metrics import row_metric
from assets.traffic.evidence import Divided, Evidence, Paired
from assets.traffic.rollouts import Rollout
from assets.traffic.sequential import (
    SPLIT_ALPHA,
    Bounds,
    centred,
    confidence_sequence,
    effects,
    split_evidence,
)
from declare.release import ReleasePolicy

Floats = NDArray[np.float64]
Action = Literal["advance", "hold", "roll_back"]

REQUESTS, BAKE, VALID, ERRORS, LATENCY, SHIFT, SPLIT, QUALITY = (
    "enough_requests", "baked", "every_output_is_a_probability", "errors_no_worse", "latency_no_worse", "predictions_alike", "split_as_declared",
    "quality_no_worse",
)  # fmt: skip
RULES = (REQUESTS, BAKE, VALID, ERRORS, LATENCY, SHIFT, SPLIT, QUALITY)
WAITS = frozenset({REQUESTS, BAKE})
"""Rules that time heals: they pass or are not judged yet, which holds the step where it is. Every other one sends the candidate back."""

CHAMPION, CANDIDATE = "champion", "candidate"
LATENCY_SLACK_MS = 0.2
BINS = 10
NORMAL_999 = 3.0902  # the 0.999 quantile of the standard normal distribution


def measures(rollout: Rollout, evidence: Evidence) -> tuple[Measure, ...]:
    """Every number that the judgement reads, each with its n; `group` is the arm."""
    paired, step = evidence.paired, evidence.step
    shadow = rollout.steps[-1].stage == "shadow"
    champion, candidate = _outputs(paired, step, shadow)
    found = [
        Measure(name="scored_in_shadow", value=float(len(paired)), n=len(paired)),
        Measure(
            name="requests",
            value=float(len(champion)),
            n=len(champion) + len(candidate),
            group=CHAMPION,
        ),
        Measure(
            name="requests",
            value=float(len(candidate)),
            n=len(champion) + len(candidate),
            group=CANDIDATE,
        ),
        Measure(name="days", value=float((evidence.day - rollout.steps[-1].day).days + 1), n=1),
        Measure(name="confirmed", value=float(evidence.confirmed), n=1),
    ]
    tried = _tried(evidence, shadow)
    found += [
        Measure(
            name="invalid_outputs", value=float(evidence.failures.invalid), n=tried, group=CANDIDATE
        ),
        Measure(
            name="error_share",
            value=evidence.failures.raised / tried if tried else None,
            n=tried,
            group=CANDIDATE,
        ),
    ]
    for name, values in zip((CHAMPION, CANDIDATE), _latencies(paired, step, shadow), strict=True):
        found.append(
            Measure(
                name="latency_ms_median",
                value=float(np.median(values)) if len(values) else None,
                n=len(values),
                group=name,
            )
        )
    for name, values in ((CHAMPION, champion), (CANDIDATE, candidate)):
        found.append(
            Measure(
                name="mean_prediction",
                value=float(values.mean()) if len(values) else None,
                n=len(values),
                group=name,
            )
        )
        # What the log loss would be if the outputs were calibrated: all that can be said without labels (Guo et al. 2017 show how far
        # calibration may be off, hence an estimate).
        found.append(
            Measure(name="estimated_log_loss", value=_entropy(values), n=len(values), group=name)
        )
    found.append(
        Measure(
            name="prediction_shift",
            value=_psi(champion, candidate),
            n=len(champion) + len(candidate),
        )
    )
    found.append(
        Measure(
            name="shift_by_chance",
            value=_psi_by_chance(len(champion), len(candidate)),
            n=len(champion) + len(candidate),
        )
    )
    return (*found, *split_measures(step))


def quality(evidence: Evidence, policy: ReleasePolicy) -> tuple[Measure, ...]:
    """How much worse the candidate's log loss is than the champion's on matured labels, with intervals that hold at every look:
    on the same requests ("shadow") and between requests answered by either ("canary"). Each takes half of alpha."""
    alpha = policy.alpha / 2
    found = []
    for group, observed in (
        ("shadow", paired_losses(evidence.paired)),
        ("canary", arm_effects(evidence.split, 1, "log_loss")),
    ):
        found.append(
            bounded(
                "log_loss_worse_by",
                confidence_sequence(observed.values, alpha, tuned_for(policy)),
                group,
            )
        )
    for arm, name in ((0, CHAMPION), (1, CANDIDATE)):
        y, p = _labelled(evidence, arm)
        found.append(
            Measure(
                name="log_loss",
                value=float(row_metric("log_loss", y, p).mean()) if len(y) else None,
                n=len(y),
                group=name,
            )
        )
    return tuple(found)


def verdicts(
    rollout: Rollout, found: tuple[Measure, ...], policy: ReleasePolicy
) -> tuple[Verdict, ...]:
    """One verdict for each of `RULES`, from measures alone."""
    at = {(measure.name, measure.group): measure for measure in found}
    shadow = rollout.steps[-1].stage == "shadow"
    return (
        _enough(at, shadow, policy),
        _baked(at, policy),
        _valid(at),
        _errors(at, policy),
        _latency(at, policy),
        _alike(at, policy),
        _split_verdict(at),
        _quality_verdict(at, policy),
    )


def action(judged: tuple[Verdict, ...]) -> tuple[Action, str]:
    """What follows from the verdicts, and why in a sentence. A failing rule sends back, whatever is still missing."""
    failed = [verdict for verdict in judged if verdict.passed is False]
    if failed:
        return "roll_back", "; ".join(f"{verdict.rule}: {verdict.reason}" for verdict in failed)
    waiting = [verdict for verdict in judged if verdict.rule in WAITS and verdict.passed is None]
    if waiting:
        return "hold", "; ".join(verdict.reason for verdict in waiting)
    return "advance", "; ".join(verdict.reason for verdict in judged if verdict.rule == QUALITY)


Numbers = dict[tuple[str, str | None], Measure]


def _enough(at: Numbers, shadow: bool, policy: ReleasePolicy) -> Verdict:
    limit = policy.shadow_requests if shadow else policy.minimum_requests
    n = int(at["requests", CANDIDATE].value or 0)
    what = "scored beside the champion's" if shadow else "answered by the candidate"
    if not at["confirmed", None].value:
        return Verdict(
            rule=REQUESTS,
            passed=None,
            value=0.0,
            limit=limit,
            n=0,
            reason="no endpoint has confirmed the step yet",
        )
    return Verdict(
        rule=REQUESTS,
        passed=True if n >= limit else None,
        value=float(n),
        limit=limit,
        n=n,
        reason=f"{n} requests {what}, {limit} are asked for",
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


def _valid(at: Numbers) -> Verdict:
    found = at["invalid_outputs", CANDIDATE]
    reason = f"{found.value:g} of {found.n} outputs are no probability"
    return Verdict(
        rule=VALID,
        passed=None if not found.n else not found.value,
        value=found.value,
        limit=0.0,
        n=found.n,
        reason=reason,
    )


def _errors(at: Numbers, policy: ReleasePolicy) -> Verdict:
    found = at["error_share", CANDIDATE]
    limit = policy.error_margin
    if found.value is None:
        return Verdict(
            rule=ERRORS, passed=None, value=None, limit=limit, n=0, reason="no request was computed"
        )
    # A request that the champion cannot compute is answered with an error and is on trial nowhere: the champion's share here is zero.
    reason = f"the candidate failed on {found.value:.2%} of {found.n} requests that the champion computed, at most {limit:.2%} are allowed"
    return Verdict(
        rule=ERRORS,
        passed=found.value <= limit,
        value=found.value,
        limit=limit,
        n=found.n,
        reason=reason,
    )


def _latency(at: Numbers, policy: ReleasePolicy) -> Verdict:
    champion, candidate = at["latency_ms_median", CHAMPION], at["latency_ms_median", CANDIDATE]
    if champion.value is None or candidate.value is None or min(champion.n, candidate.n) < 20:
        n = min(champion.n, candidate.n)
        return Verdict(
            rule=LATENCY,
            passed=None,
            value=None,
            limit=None,
            n=n,
            reason="fewer than 20 requests of an arm were timed",
        )
    limit = champion.value * (1 + policy.latency_margin) + LATENCY_SLACK_MS
    reason = f"median {candidate.value:.3f} ms against the champion's {champion.value:.3f} ms, at most {limit:.3f} ms are allowed"
    return Verdict(
        rule=LATENCY,
        passed=candidate.value <= limit,
        value=candidate.value,
        limit=limit,
        n=candidate.n,
        reason=reason,
    )


def _alike(at: Numbers, policy: ReleasePolicy) -> Verdict:
    found, chance = at["prediction_shift", None], at["shift_by_chance", None]
    if found.value is None or chance.value is None:
        return Verdict(
            rule=SHIFT,
            passed=None,
            value=None,
            limit=None,
            n=found.n,
            reason="too few predictions of an arm to compare",
        )
    limit = policy.prediction_shift + chance.value
    reason = f"PSI {found.value:.3f} between both arms' outputs, at most {limit:.3f} are allowed ({chance.value:.3f} of it for chance)"
    return Verdict(
        rule=SHIFT,
        passed=found.value <= limit,
        value=found.value,
        limit=limit,
        n=found.n,
        reason=reason,
    )


def _split_verdict(at: Numbers) -> Verdict:
    found = at.get(("split_evidence", None))
    limit = 1 / SPLIT_ALPHA
    if found is None or found.value is None:
        return Verdict(
            rule=SPLIT,
            passed=None,
            value=None,
            limit=limit,
            n=0,
            reason="the traffic is not divided",
        )
    reason = f"another split than the declared one is {found.value:.3g} times as likely for {found.n} callers, fewer than {limit:g} times are allowed"
    return Verdict(
        rule=SPLIT,
        passed=found.value < limit,
        value=found.value,
        limit=limit,
        n=found.n,
        reason=reason,
    )


def _quality_verdict(at: Numbers, policy: ReleasePolicy) -> Verdict:
    looked = [at["log_loss_worse_by", group] for group in ("shadow", "canary")]
    judged = [
        measure
        for measure in looked
        if measure.n >= policy.minimum_labels and measure.low is not None
    ]
    limit = policy.quality_margin
    if not judged:
        estimates = [at["estimated_log_loss", arm].value for arm in (CHAMPION, CANDIDATE)]
        known = ", ".join("none" if value is None else f"{value:.3f}" for value in estimates)
        n = max(measure.n for measure in looked)
        reason = (
            f"NOT judged on labels: {n} have matured, {policy.minimum_labels} are asked for; the step rests on its bake time of "
            f"{policy.bake_days} days and on an estimate of the log loss from the outputs alone, champion and candidate: {known}"
        )
        return Verdict(rule=QUALITY, passed=None, value=None, limit=limit, n=n, reason=reason)
    worst = max(
        judged, key=lambda measure: measure.low if measure.low is not None else float("-inf")
    )
    told = "; ".join(
        f"{measure.value:+.4f} ({measure.low:+.4f} to {measure.high:+.4f}, n={measure.n}, {measure.group})"
        for measure in judged
    )
    reason = f"log loss worse by {told} on matured labels; it goes back when a whole interval lies above {limit:g}"
    passed = not (worst.low is not None and worst.low > limit)
    return Verdict(
        rule=QUALITY, passed=passed, value=worst.value, limit=limit, n=worst.n, reason=reason
    )


def _outputs(paired: Paired, step: Divided, shadow: bool) -> tuple[Floats, Floats]:
    if shadow:
        both = ~np.isnan(paired.candidate)
        return paired.champion[both], paired.candidate[both]
    return step.output[step.arm == 0], step.output[step.arm == 1]


def _latencies(paired: Paired, step: Divided, shadow: bool) -> tuple[Floats, Floats]:
    """Milliseconds: in the shadow of the computation alone, both in the same thread; afterwards of whole requests."""
    if shadow:
        timed = ~np.isnan(paired.champion_us)
        return paired.champion_us[timed] / 1_000, paired.candidate_us[timed] / 1_000
    return step.ms[step.arm == 0], step.ms[step.arm == 1]


def _tried(evidence: Evidence, shadow: bool) -> int:
    """Requests that the candidate had to compute in the whole rollout."""
    answered = int((evidence.split.arm == 1).sum())
    return len(evidence.paired) + (0 if shadow else answered)


def split_measures(step: Divided) -> tuple[Measure, ...]:
    """How far the split of callers is from the declared one."""
    if not len(step):
        return ()
    callers = {(key, arm) for key, arm in zip(step.key.tolist(), step.arm.tolist(), strict=True)}
    counts = [sum(arm == each for _, arm in callers) for each in range(step.shares.shape[1])]
    return (
        Measure(
            name="split_evidence",
            value=split_evidence(counts, step.shares[0].tolist()),
            n=sum(counts),
        ),
    )


class Observed(NamedTuple):
    """Differences in loss, one a unit (n,), with the data day of each."""

    values: Floats
    days: NDArray[np.int64]


def tuned_for(policy: ReleasePolicy) -> int:
    """The number of labels at which intervals are narrowest: some multiple of the least that is judged."""
    return 4 * policy.minimum_labels


def paired_losses(paired: Paired) -> Observed:
    """How much worse the candidate's log loss is than the champion's on the same requests, where labels have matured."""
    known = ~np.isnan(paired.y) & ~np.isnan(paired.candidate)
    y = paired.y[known]
    worse = row_metric("log_loss", y, paired.candidate[known]) - row_metric(
        "log_loss", y, paired.champion[known]
    )
    return Observed(worse, paired.day[known])


def arm_effects(split: Divided, arm: int, metric: str) -> Observed:
    """Observations (one a caller and day) whose mean is the difference in mean loss of an arm to arm 0, on matured labels."""
    chosen = split.of(~np.isnan(split.y) & ((split.arm == 0) | (split.arm == arm)))
    if not len(chosen):
        return Observed(np.zeros(0), np.zeros(0, np.int64))
    losses = row_metric(metric, chosen.y, chosen.output)
    share = chosen.shares[:, arm] / (chosen.shares[:, 0] + chosen.shares[:, arm])
    # A caller with many requests is one unit: its requests share its arm.
    unit = np.stack([chosen.day, chosen.key, chosen.arm])
    _, first, code = np.unique(unit, axis=1, return_index=True, return_inverse=True)
    code = code.reshape(-1)
    mean = np.bincount(code, weights=losses) / np.bincount(code)
    days = chosen.day[first]
    return Observed(
        effects(mean, chosen.arm[first] == arm, share[first], centred(mean, days)), days
    )


def _labelled(evidence: Evidence, arm: int) -> tuple[Floats, Floats]:
    """Labels and outputs of all rows that an arm computed, shadow and canary."""
    paired, split = evidence.paired, evidence.split
    outputs = paired.candidate if arm else paired.champion
    known = ~np.isnan(paired.y) & ~np.isnan(outputs)
    own = ~np.isnan(split.y) & (split.arm == arm)
    return np.concatenate([paired.y[known], split.y[own]]), np.concatenate(
        [outputs[known], split.output[own]]
    )


def bounded(name: str, bounds: Bounds, group: str) -> Measure:
    """An estimate as a measure."""
    if bounds.n < 2:
        return Measure(name=name, value=None, n=bounds.n, group=group)
    return Measure(
        name=name, value=bounds.mean, low=bounds.low, high=bounds.high, n=bounds.n, group=group
    )


def _entropy(outputs: Floats) -> float | None:
    if not len(outputs):
        return None
    p = np.clip(outputs, 1e-7, 1 - 1e-7)
    return float(-(p * np.log(p) + (1 - p) * np.log(1 - p)).mean())


def _psi(first: Floats, second: Floats) -> float | None:
    from assets.tabular.monitoring.drift.statistics import population_stability_index

    if min(len(first), len(second)) < BINS:
        return None
    edges = np.quantile(first, np.linspace(0, 1, BINS + 1)[1:-1])
    counts = [
        np.bincount(np.searchsorted(edges, values), minlength=BINS).astype(np.int64)
        for values in (first, second)
    ]
    return population_stability_index(*counts)


def _psi_by_chance(n: int, m: int) -> float | None:
    """What the PSI of two samples of one distribution exceeds once in a thousand times: it is distributed as (1/n + 1/m) χ² with
    bins - 1 degrees of freedom (Yurdakul 2018, *Statistical properties of the population stability index*); the quantile of χ² by
    Wilson and Hilferty 1931."""
    if not min(n, m):
        return None
    freedom = BINS - 1
    quantile = freedom * (1 - 2 / (9 * freedom) + NORMAL_999 * (2 / (9 * freedom)) ** 0.5) ** 3
    return float(quantile * (1 / n + 1 / m))
