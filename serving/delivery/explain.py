"""Explanations: how much each feature of a row moved its answer. Not predictions: they are not
logged, and have no id."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from serving.contract.contract import Row
from serving.contract.refusal import Refusal
from serving.delivery.view import Arm, View

# TreeSHAP costs milliseconds a row, so one request may not have many.
ROW_LIMIT = 100
# Sums of float32 in another order; larger than this, they are not the contributions of this margin.
TOLERANCE = 1e-3


def explain(view: View, rows: Sequence[Row]) -> list[dict[str, Any]]:
    """An explanation of each row, by the bundle that would answer it.

    `base_value` and all `contributions` add up to `margin`, in `unit`: the log odds before
    calibration, or for a forest the probability before it; `probability` is what a prediction would
    say. Contributions come largest first, each with the feature's value as the model sees it (texts
    of categories, null for missing). Raises Refusal for too many rows.
    """
    if len(rows) > ROW_LIMIT:
        raise Refusal(
            413,
            "rows",
            f"The request has more than {ROW_LIMIT} rows, the most to be explained at once; "
            "send several.",
            "instances",
        )
    arms = [view.arms[view.desired.arm(str(row[view.key]))] for row in rows]
    found: dict[int, dict[str, Any]] = {}
    for arm in view.arms:
        places = [place for place, chosen in enumerate(arms) if chosen is arm]
        if places:
            found |= zip(
                places, _explained(view, arm, [rows[place] for place in places]), strict=True
            )
    return [found[place] for place in range(len(rows))]


def _explained(view: View, arm: Arm, rows: Sequence[Row]) -> list[dict[str, Any]]:
    import numpy as np

    bundle = arm.bundle
    program, model = bundle.program, bundle.model
    values = [bundle.row(row, view.online) for row in rows]
    parts, sums = model.contributions(np.array(values, dtype=np.float32), program.categorical)
    error = float(np.abs(parts.sum(axis=1) - sums).max())
    if not error <= TOLERANCE:
        raise ArithmeticError(
            f"bundle {bundle.digest}: contributions differ by {error:.2g} from the margin they "
            f"explain; the limit is {TOLERANCE:g}"
        )
    probabilities = model.probability(sums)
    words = [program.vocabularies.get(name) for name in program.names]
    explanations = []
    for row, part, margin, probability in zip(
        values, parts.tolist(), sums.tolist(), probabilities.tolist(), strict=True
    ):
        features = [
            {"feature": name, "value": _shown(value, vocabulary), "contribution": amount}
            for name, value, vocabulary, amount in zip(
                program.names, row, words, part[:-1], strict=True
            )
        ]
        features.sort(key=lambda feature: -abs(feature["contribution"]))
        explanations.append(
            {
                "bundle": bundle.digest,
                "arm": arm.name,
                "probability": probability,
                "margin": margin,
                "unit": model.unit,
                "base_value": part[-1],
                "contributions": features,
                "ood": bundle.outside(row),
                "online_as_of": view.online_as_of,
            }
        )
    return explanations


def _shown(value: float, vocabulary: Sequence[str] | None) -> float | str | None:
    """A model's value for people: the text of a category, null for what is missing or was never
    seen in training."""
    if math.isnan(value):
        return None
    if vocabulary is None:
        return value
    return vocabulary[int(value) - 1] if value >= 1 else None
