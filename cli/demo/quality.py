"""The demo's two figures: how good was what was served, and how good had the first champion been, on the same rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypedDict

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Quality(TypedDict):
    log_loss: float
    roc_auc: float


class Comparison(TypedDict):
    rows: int
    live: Quality
    never_retrained: Quality


def compare(
    label: NDArray[np.float64], live: NDArray[np.float64], never_retrained: NDArray[np.float64]
) -> Comparison:
    """Log loss and ROC AUC of two predictions, each of shape (n,), of the same n labels (0 or 1).

    Raises ValueError for shapes that differ, for labels of one class alone, and for values that are no probabilities.
    """
    import numpy as np

    from assets.tabular.validation.metrics import log_loss, roc_auc

    if not label.shape == live.shape == never_retrained.shape or label.ndim != 1:
        raise ValueError(
            f"shapes {label.shape}, {live.shape} and {never_retrained.shape} differ; give the same rows to all"
        )
    if len(np.unique(label)) != 2:
        raise ValueError(
            f"{len(label)} labels hold {len(np.unique(label))} classes; two are needed to compare on"
        )
    for name, predicted in (("live", live), ("never_retrained", never_retrained)):
        if not np.all((predicted >= 0) & (predicted <= 1)):
            raise ValueError(
                f"{name} holds values outside 0 to 1, or missing ones; give probabilities"
            )

    def quality(predicted: NDArray[np.float64]) -> Quality:
        return {
            "log_loss": round(float(log_loss(label, predicted)), 5),
            "roc_auc": round(float(roc_auc(label, predicted)), 5),
        }

    return {"rows": len(label), "live": quality(live), "never_retrained": quality(never_retrained)}


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
    # The key is `from` in the document; `from` is a word of the language.
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
    """What a demo run found out about itself; `document` shapes it and `problems` judges it."""

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
    """Whether a bundle went through shadow and growing canary steps to all traffic, each on a later day."""
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
    """Every claim that did not come true, in words; none means that the demo may end with exit code 0."""
    retrains, served = facts["retrains"], facts["served"]
    released = [retrain for retrain in retrains if retrain["released"]]
    rollouts = facts["rollouts"]
    in_full = [
        rollout
        for rollout in rollouts
        if rollout["outcome"] in ("full", "superseded") and rollout["steps"][-1]["stage"] == "full"
    ]
    skipped = [rollout["bundle"][:12] for rollout in in_full[1:] if not stepwise(rollout)]
    full = [rollout["bundle"] for rollout in rollouts if rollout["outcome"] == "full"]
    claims: Sequence[tuple[bool, str]] = (
        (
            facts["days"] == facts["wanted_days"],
            f"{facts['days']} of {facts['wanted_days']} days were replayed",
        ),
        (facts["requests"] > 0, "no request was sent"),
        (
            facts["failed_requests"] == 0,
            f"{facts['failed_requests']} of {facts['requests']} requests failed",
        ),
        (
            not facts["failed_runs"],
            f"{len(facts['failed_runs'])} runs failed: {'; '.join(facts['failed_runs'][:3])}",
        ),
        (bool(served), "nothing was served"),
        (
            bool(released) and released[0]["champion_before"] is None,
            "the first training released no champion",
        ),
        (len(released) > 1, "no retrained model was released"),
        (
            bool(served) and served[-1]["bundle"] == facts["answering"],
            "the endpoint does not serve what the ledger says",
        ),
        (not skipped, f"bundles {', '.join(skipped)} took all traffic without shadow and canary"),
        (
            any(stepwise(rollout) for rollout in in_full),
            "no bundle went through shadow and canary to all traffic",
        ),
        (
            bool(served) and full == [served[-1]["bundle"]],
            "the bundle that serves is not the one that was rolled out in full",
        ),
        (facts["comparison"] is not None, "no matured rows were found to compare on"),
        (facts["ledger_verified"], "the ledger does not verify"),
    )
    return [claim for came_true, claim in claims if not came_true]
