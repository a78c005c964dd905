"""Explanations: how much each feature of a row moved its answer. Not predictions: they are not
logged, and have no id."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from serving.contract.contract import Row
from serving.contract.refusal import Refusal
from serving.delivery.view import Arm, View

# TreeSHAP costs milliseconds a row, so one request may not have many.
ROW_LIMIT = 100
# Sums of float32 in another order; larger than this, they are not the contributions of this margin.
TOLERANCE = 1e-3


class Contribution(msgspec.Struct, frozen=True):
    """How much one feature moved an answer."""

    feature: str
    value: Annotated[
        float | str | None,
        Meta(description="as the model sees it; null for missing or never seen in training"),
    ]
    contribution: Annotated[
        float, Meta(description="how much this value moved the margin (SHAP value)")
    ]


class Explanation(msgspec.Struct, frozen=True):
    """One row explained: `base_value` and all contributions add up to `margin`."""

    bundle: Annotated[str, Meta(description="digest of the bundle that would answer")]
    arm: Annotated[str, Meta(description="champion or challenger")]
    probability: Annotated[
        float, Meta(description="what a prediction of this row would say", ge=0, le=1)
    ]
    margin: Annotated[
        float,
        Meta(description="base_value and all contributions added up, before calibration"),
    ]
    unit: Annotated[
        Literal["log odds", "probability"],
        Meta(description="of margin, base_value and contributions; probability for a forest"),
    ]
    base_value: Annotated[
        float, Meta(description="margin that the model gives on average over its training rows")
    ]
    contributions: Annotated[
        list[Contribution], Meta(description="every feature, the largest contribution first")
    ]
    ood: Annotated[
        tuple[str, ...],
        Meta(description="features of this row outside the range of the training set"),
    ]
    online_as_of: Annotated[
        str | None,
        Meta(
            description="day of the online features that were used",
            extra_json_schema={"format": "date"},
        ),
    ]


def explain(view: View, rows: Sequence[Row]) -> list[Explanation]:
    """An explanation of each row, by the bundle that would answer it. Raises Refusal."""
    if len(rows) > ROW_LIMIT:
        raise Refusal(
            413,
            "rows",
            f"The request has more than {ROW_LIMIT} rows, the most to be explained at once; "
            "send several.",
            "instances",
        )

    arms = [view.arms[view.desired.arm(str(row[view.key]))] for row in rows]
    explained: dict[int, Explanation] = {}
    for arm in view.arms:
        places = [place for place, chosen in enumerate(arms) if chosen is arm]
        if places:
            found = _explained(view, arm, [rows[place] for place in places])
            explained |= zip(places, found, strict=True)

    return [explained[place] for place in range(len(rows))]


def _explained(view: View, arm: Arm, rows: Sequence[Row]) -> list[Explanation]:
    import numpy as np

    bundle = arm.bundle
    model = bundle.model
    values = [bundle.row(row, view.online) for row in rows]
    matrix = np.array(values, dtype=np.float32)
    parts, sums = model.contributions(matrix, bundle.program.categorical)

    error = float(np.abs(parts.sum(axis=1) - sums).max())
    if not error <= TOLERANCE:
        raise ArithmeticError(
            f"bundle {bundle.digest}: contributions differ by {error:.2g} from the margin they "
            f"explain; the limit is {TOLERANCE:g}"
        )

    probabilities = model.probability(sums)
    return [
        Explanation(
            bundle=bundle.digest,
            arm=arm.name,
            probability=probability,
            margin=margin,
            unit=model.unit,
            base_value=part[-1],
            contributions=_contributions(arm, row, part[:-1]),
            ood=tuple(bundle.outside(row)),
            online_as_of=view.online_as_of,
        )
        for row, part, margin, probability in zip(
            values, parts.tolist(), sums.tolist(), probabilities.tolist(), strict=True
        )
    ]


def _contributions(arm: Arm, row: Sequence[float], amounts: Sequence[float]) -> list[Contribution]:
    """The contributions to one row's margin, the largest first."""
    program = arm.bundle.program
    contributions = [
        Contribution(name, _shown(value, program.vocabularies.get(name)), amount)
        for name, value, amount in zip(program.names, row, amounts, strict=True)
    ]
    return sorted(contributions, key=lambda found: -abs(found.contribution))


def _shown(value: float, vocabulary: Sequence[str] | None) -> float | str | None:
    """A model's value for people: a category's text, null for missing or never seen in training."""
    if math.isnan(value):
        return None
    if vocabulary is None:
        return value
    return vocabulary[int(value) - 1] if value >= 1 else None
