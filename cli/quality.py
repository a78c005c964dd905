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


def compare(label: NDArray[np.float64], live: NDArray[np.float64], never_retrained: NDArray[np.float64]) -> Comparison:
    """Log loss and ROC AUC of two predictions, each of shape (n,), of the same n labels (0 or 1).

    Raises ValueError for shapes that differ, for labels of one class alone, and for values that are no probabilities.
    """
    import numpy as np

    from assets.validation.metrics import log_loss, roc_auc

    if not label.shape == live.shape == never_retrained.shape or label.ndim != 1:
        raise ValueError(f"shapes {label.shape}, {live.shape} and {never_retrained.shape} differ; give the same rows to all")
    if len(np.unique(label)) != 2:
        raise ValueError(f"{len(label)} labels hold {len(np.unique(label))} classes; two are needed to compare on")
    for name, predicted in (("live", live), ("never_retrained", never_retrained)):
        if not np.all((predicted >= 0) & (predicted <= 1)):
            raise ValueError(f"{name} holds values outside 0 to 1, or missing ones; give probabilities")

    def quality(predicted: NDArray[np.float64]) -> Quality:
        return {"log_loss": round(float(log_loss(label, predicted)), 5), "roc_auc": round(float(roc_auc(label, predicted)), 5)}

    return {"rows": len(label), "live": quality(live), "never_retrained": quality(never_retrained)}


class Retrain(TypedDict):
    as_of: str | None
    cause: str | None
    candidate: str | None
    champion_before: str | None
    released: bool


class Served(TypedDict):
    # The key is `from` in the document; `from` is a word of the language.
    day: str
    bundle: str


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
        "served": [{"from": period["day"], "bundle": period["bundle"]} for period in facts["served"]],
        "rows": compared["rows"] if compared else 0,
        "live": compared["live"] if compared else None,
        "never_retrained": compared["never_retrained"] if compared else None,
        "ledger": {"entries": facts["ledger_entries"], "verified": facts["ledger_verified"]},
    }


def problems(facts: Facts) -> list[str]:
    """Every claim that did not come true, in words; none means that the demo may end with exit code 0."""
    retrains, served = facts["retrains"], facts["served"]
    released = [retrain for retrain in retrains if retrain["released"]]
    claims: Sequence[tuple[bool, str]] = (
        (facts["days"] == facts["wanted_days"], f"{facts['days']} of {facts['wanted_days']} days were replayed"),
        (facts["requests"] > 0, "no request was sent"),
        (facts["failed_requests"] == 0, f"{facts['failed_requests']} of {facts['requests']} requests failed"),
        (not facts["failed_runs"], f"{len(facts['failed_runs'])} runs failed: {'; '.join(facts['failed_runs'][:3])}"),
        (bool(served), "nothing was served"),
        (bool(released) and released[0]["champion_before"] is None, "the first training released no champion"),
        (len(released) > 1, "no retrained model was released"),
        (bool(served) and served[-1]["bundle"] == facts["answering"], "the endpoint does not serve what the ledger says"),
        (facts["comparison"] is not None, "no matured rows were found to compare on"),
        (facts["ledger_verified"], "the ledger does not verify"),
    )
    return [claim for came_true, claim in claims if not came_true]
