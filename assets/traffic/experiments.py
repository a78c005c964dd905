"""Experiments: several bundles on live traffic, compared with the champion by intervals that hold at every look, until a rule says stop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, Literal

from assets.reporting.report import Measure, Verdict
from assets.traffic import decisions
from assets.traffic.evidence import Divided
from assets.traffic.judging import arm_effects, bounded, split_measures
from assets.traffic.rollouts import newest_move, under_way
from assets.traffic.sequential import SPLIT_ALPHA, confidence_sequence

if TYPE_CHECKING:
    from declare.release import Experiment
    from resources.ledger import Entry, Json, Ledger

CHAMPION, CANDIDATE = "champion", "candidate"
EFFECT = "worse_by"
Finding = Literal["better", "worse", "alike", "open"]


@dataclass(frozen=True)
class Running:
    """An experiment that has traffic: `arms` are (name, bundle), champion first."""

    entry: int
    name: str
    arms: tuple[tuple[str, str], ...]
    since: date

    @property
    def bundles(self) -> list[str]:
        return [bundle for _, bundle in self.arms]


def running(entries: Sequence[Entry]) -> Running | None:
    """The experiment that has traffic now. Any later move ends it: what was found until then holds all the same."""
    move = newest_move(entries)
    return (
        _of(move)
        if move is not None and move.kind == "experiment" and move.payload.get("stage") == "running"
        else None
    )


def started(entries: Sequence[Entry], name: str) -> Running | None:
    """The newest start of an experiment, whether it still runs or not."""
    found = [
        e
        for e in entries
        if e.kind == "experiment"
        and e.payload.get("stage") == "running"
        and e.payload.get("name") == name
    ]
    return _of(found[-1]) if found else None


def start(
    ledger: Ledger,
    pipeline: str,
    experiment: Experiment,
    candidate: str | None,
    actor: str,
    reason: str,
    day: date,
) -> Entry:
    """Give an experiment its traffic from data day `day` on; starting what runs makes no entry.

    `candidate` is the bundle that the arm "candidate" stands for. Raises ValueError for an arm that nobody approved, LookupError where nothing
    serves, PermissionError while a bundle is being rolled out: one change of the traffic at a time.
    """
    entries = ledger.entries(pipeline)
    champion = decisions.released(entries)
    if champion is None:
        raise LookupError(
            f"pipeline {pipeline!r} has released nothing yet; an experiment compares with what serves"
        )
    named = {CHAMPION: champion, **({CANDIDATE: candidate} if candidate else {})}
    ordered = [CHAMPION, *(arm for arm in experiment.arms if arm != CHAMPION)]
    arms = [(arm, named.get(arm, arm), experiment.arms[arm]) for arm in ordered]
    for arm, bundle, _ in arms[1:]:
        if not approved(entries, bundle):
            raise ValueError(
                f"arm {arm!r} of experiment {experiment.name!r} is bundle {bundle[:64]!r}, which nobody approved, or somebody refused since"
            )
    if len({bundle for _, bundle, _ in arms}) < len(arms):
        raise ValueError(
            f"experiment {experiment.name!r} names a bundle twice: {', '.join(f'{arm} is {bundle[:12]}' for arm, bundle, _ in arms)}"
        )

    def already(now: Sequence[Entry]) -> Entry | None:
        current = running(now)
        if current is not None and current.name == experiment.name:
            return newest_move(now)
        if (rollout := under_way(now)) is not None:
            raise PermissionError(
                f"bundle {rollout.bundle[:12]} is {rollout.told}; an experiment may start when that has ended"
            )
        if decisions.released(now) != champion:
            raise ValueError(
                f"bundle {decisions.released(now)} is released now, not {champion}; try again"
            )
        return None

    payload: dict[str, Json] = {
        "name": experiment.name,
        "stage": "running",
        "names": [arm for arm, _, _ in arms],
        "arms": [[bundle, share] for _, bundle, share in arms],
        "key": experiment.split_by or "",
        "salt": experiment.name,
        "reason": reason,
    }
    return ledger.append(
        pipeline,
        "experiment",
        bundle=champion,
        day=day,
        actor=actor,
        payload=payload,
        unless=already,
    )


def stop(
    ledger: Ledger,
    pipeline: str,
    current: Running,
    actor: str,
    reason: str,
    day: date,
    payload: Mapping[str, Json] | None = None,
) -> Entry:
    """Give all traffic back to the champion. Raises ValueError where the experiment does not run any more."""
    champion = current.bundles[0]

    def still(now: Sequence[Entry]) -> Entry | None:
        found = running(now)
        if found is None or found.entry != current.entry:
            raise ValueError(
                f"experiment {current.name!r} of entry {current.entry} does not run any more"
            )
        return None

    body: dict[str, Json] = {
        "name": current.name,
        "stage": "stopped",
        "arms": [[champion, 1.0]],
        "reason": reason,
        **(payload or {}),
    }
    return ledger.append(
        pipeline, "experiment", bundle=champion, day=day, actor=actor, payload=body, unless=still
    )


def approved(entries: Sequence[Entry], bundle: str) -> bool:
    """Whether a bundle was approved and nobody has refused its model since."""
    found = False
    candidate: object = None
    for entry in entries:
        if entry.kind == "approval" and entry.bundle == bundle:
            found, candidate = True, entry.payload.get("candidate")
        elif (
            found
            and entry.kind in ("rejection", "rollback")
            and candidate in (entry.payload.get("from_candidate"), _rejected(entry))
        ):
            found = False
    return found


def measures(experiment: Experiment, current: Running, split: Divided) -> tuple[Measure, ...]:
    """Requests, outputs and losses of each arm, and how much worse each one is than the champion. Each of k comparisons takes alpha / k."""
    found = list(split_measures(split))
    others = len(current.arms) - 1
    for index, (name, _) in enumerate(current.arms):
        own = split.of(split.arm == index)
        found.append(Measure(name="requests", value=float(len(own)), n=len(split), group=name))
        found.append(
            Measure(
                name="mean_prediction",
                value=float(own.output.mean()) if len(own) else None,
                n=len(own),
                group=name,
            )
        )
        if index:
            observed = arm_effects(split, index, experiment.metric)
            found.append(
                bounded(
                    EFFECT,
                    confidence_sequence(observed.values, experiment.alpha / others, 2_000),
                    name,
                )
            )
    return tuple(found)


def verdicts(
    experiment: Experiment, current: Running, found: Sequence[Measure]
) -> tuple[Verdict, ...]:
    """Whether the split is as declared, and for each arm whether it is no worse than the champion by the minimum effect (None while open)."""
    split = next((measure for measure in found if measure.name == "split_evidence"), None)
    limit = 1 / SPLIT_ALPHA
    made = [
        Verdict(
            rule="split_as_declared",
            passed=None if split is None or split.value is None else split.value < limit,
            value=split.value if split else None,
            limit=limit,
            n=split.n if split else 0,
            reason="no request was divided"
            if split is None
            else f"another split is {split.value:.3g} times as likely for {split.n} callers",
        )
    ]
    for name, _ in current.arms[1:]:
        effect = next(
            measure for measure in found if measure.name == EFFECT and measure.group == name
        )
        said = finding(effect, experiment)
        interval = (
            "no labels have matured"
            if effect.value is None
            else f"{effect.value:+.4f} ({effect.low:+.4f} to {effect.high:+.4f}, n={effect.n})"
        )
        made.append(
            Verdict(
                rule=f"{name[:12]}_is_no_worse",
                passed={"better": True, "alike": True, "worse": False, "open": None}[said],
                value=effect.value,
                limit=experiment.minimum_effect,
                n=effect.n,
                reason=f"{experiment.metric} worse by {interval} than the champion's: {said}, at a minimum effect of {experiment.minimum_effect:g}",
            )
        )
    return tuple(made)


def finding(effect: Measure, experiment: Experiment, minimum: int = 100) -> Finding:
    """What the interval of an arm says, once there are some dozens of observations: too small a difference to matter, or its sign."""
    least = experiment.minimum_effect
    if effect.low is None or effect.high is None or effect.n < minimum:
        return "open"
    if -least < effect.low and effect.high < least:
        return "alike"
    return "worse" if effect.low > 0 else "better" if effect.high < 0 else "open"


def stops(
    experiment: Experiment,
    current: Running,
    judged: Sequence[Verdict],
    found: Sequence[Measure],
    day: date,
) -> str | None:
    """Why the experiment ends with this day; None while it goes on."""
    if judged[0].passed is False:
        return (
            f"the split is not as declared, so nothing it says can be relied on: {judged[0].reason}"
        )
    effects = {
        measure.group: finding(measure, experiment) for measure in found if measure.name == EFFECT
    }
    if "open" not in effects.values():
        return "every arm is decided: " + ", ".join(
            f"{name} is {said}" for name, said in effects.items()
        )
    if (day - current.since).days + 1 >= experiment.days:
        return f"its {experiment.days} days are over: " + ", ".join(
            f"{name} is {said}" for name, said in effects.items()
        )
    return None


def _of(entry: Entry) -> Running:
    names, arms = entry.payload.get("names"), entry.payload.get("arms")
    assert isinstance(names, list)
    assert isinstance(arms, list)
    bundles = [str(arm[0]) for arm in arms if isinstance(arm, list)]
    return Running(
        entry.serial,
        str(entry.payload["name"]),
        tuple(zip(map(str, names), bundles, strict=True)),
        entry.day,
    )


def _rejected(entry: Entry) -> object:
    return entry.payload.get("candidate") if entry.kind == "rejection" else None
