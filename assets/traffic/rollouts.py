"""The rollout as a state machine: what a pipeline's ledger entries say of every bundle on its way to all traffic, and the entries that
take a step. Nothing but entries is read or written; who judges the evidence is `judge`.

    approved ── shadow ── canary 10 % ── canary 50 % ── full ── superseded
                  └──────────┴─────────────┴───────────── rolled back

A step is one entry of kind "rollout", the last one of kind "release", the way back one of kind "rollback". Each is appended under the
ledger's write lock only if the step before it is still the newest: repeated, or after a kill, nothing happens twice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING, Literal, NamedTuple

from assets.traffic import decisions
from assets.traffic.decisions import POLICY, Proposal, standing

if TYPE_CHECKING:
    from declare.release import ReleasePolicy
    from resources.ledger import Entry, Json, Kind, Ledger

Stage = Literal["shadow", "canary", "full"]
Outcome = Literal["shadow", "canary", "full", "superseded", "rolled_back"]
MOVES: tuple[Kind, ...] = ("release", "rollback", "rollout", "experiment")
"""Kinds of entries that say what is to be served; the newest one holds."""


class Step(NamedTuple):
    """One step that a bundle took: from data day `day` on it had the stage and answered `share` of the traffic."""

    entry: int
    stage: Stage
    share: float
    day: date
    moment: datetime


@dataclass(frozen=True)
class Rollout:
    """One bundle on its way. `champion` is what served before it, None where nothing did; `outcome` is where it stands now."""

    pipeline: str
    bundle: str
    candidate: str
    champion: str | None
    steps: tuple[Step, ...]
    outcome: Outcome
    reason: str = ""
    ended: date | None = None
    automatic: bool = False

    @property
    def under_way(self) -> bool:
        return self.outcome in ("shadow", "canary")

    @property
    def told(self) -> str:
        """Where it stands, for people: "canary 10 % since 2013-06-25"."""
        last = self.steps[-1]
        where = {
            "shadow": "in the shadow of the champion",
            "canary": f"canary {last.share:.0%}",
        }.get(self.outcome)
        if where is not None:
            return f"{where} since {last.day}"
        return f"{self.outcome.replace('_', ' ')}{f' on {self.ended}' if self.ended else ''}{f': {self.reason}' if self.reason else ''}"


def rollouts(entries: Sequence[Entry]) -> tuple[Rollout, ...]:
    """Every rollout of a pipeline, oldest first; at most the newest one is under way, and at most one serves in full."""
    found: list[Rollout] = []
    served: str | None = None

    def close(outcome: Outcome, reason: str, day: date, automatic: bool = False) -> None:
        if found and found[-1].under_way:
            found[-1] = replace(
                found[-1], outcome=outcome, reason=reason, ended=day, automatic=automatic
            )

    def supersede(day: date, reason: str) -> None:
        for place, each in enumerate(found):
            if each.outcome == "full":
                found[place] = replace(each, outcome="superseded", reason=reason, ended=day)

    for entry in entries:
        bundle = entry.bundle or ""
        if entry.kind == "rollout":
            step = _step(entry)
            if found and found[-1].under_way and found[-1].bundle == bundle:
                found[-1] = replace(found[-1], steps=(*found[-1].steps, step), outcome="canary")
                continue
            close("superseded", f"the newer bundle {bundle[:12]} took its place", entry.day)
            champion = entry.payload.get("champion")
            opened = Rollout(
                entry.pipeline,
                bundle,
                _text(entry, "candidate"),
                str(champion) if champion else None,
                (step,),
                "shadow",
            )
            found.append(opened)
        elif entry.kind == "release":
            supersede(entry.day, f"bundle {bundle[:12]} was released")
            full = Step(entry.serial, "full", 1.0, entry.day, entry.moment)
            if found and found[-1].under_way and found[-1].bundle == bundle:
                found[-1] = replace(found[-1], steps=(*found[-1].steps, full), outcome="full")
            else:
                close("superseded", f"bundle {bundle[:12]} was released", entry.day)
                found.append(
                    Rollout(
                        entry.pipeline, bundle, _text(entry, "candidate"), served, (full,), "full"
                    )
                )
        elif entry.kind == "rollback":
            reason, automatic = _text(entry, "reason"), entry.actor == POLICY
            close("rolled_back", reason, entry.day, automatic)
            for place, each in enumerate(found):
                if each.outcome == "full" and each.bundle != bundle:
                    found[place] = replace(
                        each,
                        outcome="rolled_back",
                        reason=reason,
                        ended=entry.day,
                        automatic=automatic,
                    )
            back = next(
                (place for place in reversed(range(len(found))) if found[place].bundle == bundle),
                None,
            )
            if back is not None:
                found[back] = replace(found[back], outcome="full", reason="", ended=None)
        if entry.kind in ("release", "rollback"):
            served = bundle
    return tuple(found)


def under_way(entries: Sequence[Entry]) -> Rollout | None:
    """The rollout that has not ended yet."""
    found = rollouts(entries)
    return found[-1] if found and found[-1].under_way else None


def newest_move(entries: Sequence[Entry]) -> Entry | None:
    """The entry that says what is to be served now."""
    return next((entry for entry in reversed(entries) if entry.kind in MOVES), None)


def unconfirmed(entries: Sequence[Entry]) -> Entry | None:
    """The newest move where no endpoint has confirmed yet that it serves so."""
    moved = newest_move(entries)
    return None if moved is None or confirmation(entries, moved.serial) is not None else moved


def confirmation(entries: Sequence[Entry], serial: int) -> Entry | None:
    """The traffic entry that confirms a move."""
    return next(
        (
            entry
            for entry in entries
            if entry.kind == "traffic" and entry.payload.get("decision") == serial
        ),
        None,
    )


def next_share(policy: ReleasePolicy, step: Step) -> float:
    """The share of the traffic of the step after this one; 1 for everything."""
    if policy.strategy != "progressive":
        return 1.0
    return next((share for share in policy.canary if share > step.share), 1.0)


def resting_until(entries: Sequence[Entry], policy: ReleasePolicy) -> date | None:
    """The day until which no rollout begins, because one went back by itself; None where none did."""
    ends = [
        each.ended
        for each in rollouts(entries)
        if each.outcome == "rolled_back" and each.automatic and each.ended
    ]
    return (
        max(ends) + timedelta(days=policy.cooldown_days) if ends and policy.cooldown_days else None
    )


def start(
    ledger: Ledger,
    proposal: Proposal,
    approvals: int,
    policy: ReleasePolicy,
    payload: Mapping[str, Json],
    today: date | None = None,
) -> Entry:
    """The entry with which an approved bundle begins to take over: its shadow, or the release itself where nothing serves yet or
    the strategy is all at once. A bundle that is on its way or released already makes no entry.

    `today` is the data day on which that begins, where it is later than the bundle's own. Raises PermissionError where approvals do not suffice, or within the cool-down after a rollout that went back by itself.
    """
    entries = ledger.entries(proposal.pipeline)
    day = max(proposal.day, today or proposal.day)
    champion = decisions.released(entries)
    if champion is None or policy.strategy == "all_at_once":
        return decisions.release(ledger, proposal, approvals, payload)

    def already(now: Sequence[Entry]) -> Entry | None:
        newest = newest_move(now)
        open_ = under_way(now)
        if newest is not None and (
            champion == proposal.bundle or (open_ is not None and open_.bundle == proposal.bundle)
        ):
            return newest
        held = standing(now, proposal)
        if not held.approved(approvals):
            raise PermissionError(
                f"bundle {proposal.bundle} is not approved: {held.explain(approvals)}"
            )
        rests = resting_until(now, policy)
        if rests is not None and day < rests and not held.people:
            raise PermissionError(
                f"bundle {proposal.bundle} has to wait on {day}: a rollout went back by itself, and the cool-down lasts until {rests}; "
                "a person may approve it sooner"
            )
        _same_champion(now, champion)
        return None

    body = _payload("shadow", 0.0, champion, proposal.bundle, policy)
    about: dict[str, Json] = {
        "candidate": proposal.candidate,
        "evidence": dict(proposal.evidence),
        **payload,
    }
    return ledger.append(
        proposal.pipeline,
        "rollout",
        bundle=proposal.bundle,
        day=day,
        actor=POLICY,
        payload={**body, **about},
        unless=already,
    )


def advance(
    ledger: Ledger, rollout: Rollout, policy: ReleasePolicy, day: date, payload: Mapping[str, Json]
) -> Entry:
    """The entry of the next step, which holds from data day `day` on. Raises ValueError where the rollout has moved on or ended."""
    entries = ledger.entries(rollout.pipeline)
    began = next(entry for entry in entries if entry.serial == rollout.steps[0].entry)
    share = next_share(policy, rollout.steps[-1])

    def still(now: Sequence[Entry]) -> Entry | None:
        _same_step(now, rollout)
        return None

    about: dict[str, Json] = {
        "candidate": rollout.candidate,
        "evidence": began.payload["evidence"],
        "rollout": began.serial,
        **payload,
    }
    if share == 1.0:
        return ledger.append(
            rollout.pipeline,
            "release",
            bundle=rollout.bundle,
            day=day,
            actor=POLICY,
            payload=about,
            unless=still,
        )
    assert rollout.champion is not None
    body = _payload("canary", share, rollout.champion, rollout.bundle, policy)
    return ledger.append(
        rollout.pipeline,
        "rollout",
        bundle=rollout.bundle,
        day=day,
        actor=POLICY,
        payload={**body, **about},
        unless=still,
    )


def abort(
    ledger: Ledger,
    rollout: Rollout,
    actor: str,
    reason: str,
    day: date,
    payload: Mapping[str, Json] | None = None,
) -> Entry:
    """The entry that gives all traffic back to what served before. Raises ValueError where the rollout has moved on or ended."""
    entries = ledger.entries(rollout.pipeline)

    def still(now: Sequence[Entry]) -> Entry | None:
        _same_step(now, rollout)
        return None

    about: dict[str, Json] = {
        "from": rollout.bundle,
        "from_candidate": rollout.candidate,
        "candidate": decisions.candidate_of(entries, rollout.champion or ""),
        "reason": reason,
        "rollout": rollout.steps[0].entry,
        **(payload or {}),
    }
    return ledger.append(
        rollout.pipeline,
        "rollback",
        bundle=rollout.champion,
        day=day,
        actor=actor,
        payload=about,
        unless=still,
    )


def withdraw(ledger: Ledger, release: Entry, reason: str) -> Entry | None:
    """The entry that takes a release back which no endpoint can serve; None where nothing served before. Raises ValueError where the
    release is not the newest move any more."""
    entries = ledger.entries(release.pipeline)
    target = decisions.before(entries)
    if target is None:
        return None

    def still(now: Sequence[Entry]) -> Entry | None:
        newest = newest_move(now)
        if newest is None or newest.serial != release.serial:
            raise ValueError(
                f"entry {release.serial} is not the newest move of {release.pipeline!r} any more; reconcile again"
            )
        return None

    about: dict[str, Json] = {
        "from": release.bundle,
        "from_candidate": release.payload.get("candidate"),
        "candidate": decisions.candidate_of(entries, target),
        "reason": reason,
    }
    return ledger.append(
        release.pipeline,
        "rollback",
        bundle=target,
        day=release.day,
        actor=POLICY,
        payload=about,
        unless=still,
    )


def went_back_before(entries: Sequence[Entry], bundle: str) -> bool:
    """Whether a bundle has gone back by itself already; it does so once, after that people decide."""
    return any(
        entry.kind == "rollback" and entry.actor == POLICY and entry.payload.get("from") == bundle
        for entry in entries
    )


def _payload(
    stage: Stage, share: float, champion: str, bundle: str, policy: ReleasePolicy
) -> dict[str, Json]:
    """What an endpoint has to serve in a step, whole: it follows from the entry alone, whatever is declared later."""
    shadow = stage == "shadow"
    return {
        "stage": stage,
        "share": share,
        "champion": champion,
        "arms": [[champion, 1.0]] if shadow else [[champion, 1 - share], [bundle, share]],
        "shadows": [bundle] if shadow else [],
        "key": policy.split_by or "",
        "salt": bundle[:16],
    }


def _step(entry: Entry) -> Step:
    stage: Stage = "shadow" if entry.payload.get("stage") == "shadow" else "canary"
    share = entry.payload.get("share")
    return Step(
        entry.serial,
        stage,
        float(share) if isinstance(share, (int, float)) else 0.0,
        entry.day,
        entry.moment,
    )


def _same_champion(now: Sequence[Entry], champion: str) -> None:
    if decisions.released(now) != champion:
        raise ValueError(
            f"bundle {decisions.released(now)} is released now, not {champion}; try again"
        )


def _same_step(now: Sequence[Entry], rollout: Rollout) -> None:
    newest = newest_move(now)
    if newest is None or newest.serial != rollout.steps[-1].entry:
        raise ValueError(
            f"the rollout of bundle {rollout.bundle} is not at entry {rollout.steps[-1].entry} of the ledger any more; judge it again"
        )


def _text(entry: Entry, name: str) -> str:
    return str(entry.payload.get(name) or "")
