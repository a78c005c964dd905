"""What a demo found out about itself: the facts, their JSON, and the promises that they keep."""

from __future__ import annotations

from typing import TypedDict

LONG = 60
"""Days of replay after which a retrained model must have been rolled out: the calendar asks for one
every 30 days, and a refused one makes the next wait for twice the cooldown."""


class Quality(TypedDict):
    log_loss: float
    roc_auc: float


class Comparison(TypedDict):
    rows: int
    live: Quality
    never_retrained: Quality


class Retrain(TypedDict):
    as_of: str | None
    cause: str | None
    candidate: str | None
    champion_before: str | None
    released: bool


class Arm(TypedDict):
    """Who answered what: a share of 0 is a bundle that was scored beside the answers."""

    bundle: str
    share: float


class Served(TypedDict):
    # The document's key is `from`, which Python reserves.
    day: str
    bundle: str
    arms: list[Arm]


class RolloutStep(TypedDict):
    stage: str
    share: float
    day: str


class Rollout(TypedDict):
    """A bundle's way to the traffic; `outcome` is where it stands at the end."""

    bundle: str
    steps: list[RolloutStep]
    outcome: str
    reason: str


class Facts(TypedDict):
    """What a demo found out about itself. `document` shapes it and `problems` judges it."""

    seconds: float
    days: int
    wanted_days: int
    requests: int
    failed_requests: int
    failed_runs: list[str]
    retrains: list[Retrain]
    served: list[Served]
    rollouts: list[Rollout]
    answering: str | None
    comparison: Comparison | None
    ledger_entries: int
    ledger_verified: bool


def document(facts: Facts) -> dict[str, object]:
    """The demo's JSON."""
    compared = facts["comparison"]
    return {
        "seconds": round(facts["seconds"], 1),
        "days": facts["days"],
        "requests": facts["requests"],
        "failed_requests": facts["failed_requests"],
        "retrains": facts["retrains"],
        "served": [
            {"from": period["day"], "bundle": period["bundle"], "arms": period["arms"]}
            for period in facts["served"]
        ],
        "rollouts": [
            {
                "bundle": rollout["bundle"],
                "steps": [
                    {"stage": step["stage"], "share": step["share"], "from": step["day"]}
                    for step in rollout["steps"]
                ],
                "outcome": rollout["outcome"],
                **({"reason": rollout["reason"]} if rollout["reason"] else {}),
            }
            for rollout in facts["rollouts"]
        ],
        "rows": compared["rows"] if compared else 0,
        "live": compared["live"] if compared else None,
        "never_retrained": compared["never_retrained"] if compared else None,
        "ledger": {"entries": facts["ledger_entries"], "verified": facts["ledger_verified"]},
    }


def stepwise(rollout: Rollout) -> bool:
    """Whether a bundle went through shadow and growing canary steps to all traffic.

    Each step is on a later day than the one before.
    """
    steps = rollout["steps"]
    stages, days, shares = ([step[name] for step in steps] for name in ("stage", "day", "share"))
    middle = stages[1:-1]
    return (
        len(steps) > 2
        and (stages[0], stages[-1]) == ("shadow", "full")
        and set(middle) == {"canary"}
        and days == sorted(set(days))
        and shares == sorted(set(shares))
    )


def problems(facts: Facts) -> list[str]:
    """Every promise that was not kept, in words. None means that the demo may end with exit code 0.

    A replay of fewer than LONG days promises no retrained model.
    """
    claims = _of_every_demo(facts)
    if facts["wanted_days"] >= LONG:
        claims += _of_a_long_demo(facts)
    return [claim for came_true, claim in claims if not came_true]


def _of_every_demo(facts: Facts) -> list[tuple[bool, str]]:
    served, days, failed = facts["served"], facts["days"], facts["failed_requests"]
    runs = facts["failed_runs"]
    released = [retrain for retrain in facts["retrains"] if retrain["released"]]
    full = [each["bundle"] for each in facts["rollouts"] if each["outcome"] == "full"]
    skipped = [each["bundle"][:12] for each in _in_full(facts)[1:] if not stepwise(each)]
    return [
        (days == facts["wanted_days"], f"{days} of {facts['wanted_days']} days were replayed"),
        (facts["requests"] > 0, "no request was sent"),
        (failed == 0, f"{failed} of {facts['requests']} requests failed"),
        (not runs, f"{len(runs)} runs failed: {'; '.join(runs[:3])}"),
        (bool(served), "nothing was served"),
        (
            bool(released) and released[0]["champion_before"] is None,
            "the first training released no champion",
        ),
        (
            bool(served) and served[-1]["bundle"] == facts["answering"],
            "the endpoint does not serve what the ledger says",
        ),
        (not skipped, f"bundles {', '.join(skipped)} took all traffic without shadow and canary"),
        (
            bool(served) and full == [served[-1]["bundle"]],
            "the bundle that serves is not the one that was rolled out in full",
        ),
        (facts["comparison"] is not None, "no matured rows were found to compare on"),
        (facts["ledger_verified"], "the ledger does not verify"),
    ]


def _of_a_long_demo(facts: Facts) -> list[tuple[bool, str]]:
    released = [retrain for retrain in facts["retrains"] if retrain["released"]]
    return [
        (len(released) > 1, "no retrained model was released"),
        (
            any(stepwise(each) for each in _in_full(facts)),
            "no bundle went through shadow and canary to all traffic",
        ),
    ]


def _in_full(facts: Facts) -> list[Rollout]:
    """Rollouts that reached all traffic, whether or not another bundle has taken over since."""
    return [
        each
        for each in facts["rollouts"]
        if each["outcome"] in ("full", "superseded") and each["steps"][-1]["stage"] == "full"
    ]
