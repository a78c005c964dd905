"""Which way a feature may move the prediction, other things equal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bundle.features.expression import Column, Feature, Rolling
from declare.models import Directed

if TYPE_CHECKING:
    from declare.tabular import Tabular


def direction(pipeline: Tabular, feature: Feature) -> int:
    """1 where a feature may only raise the prediction, -1 where it may only lower it, else 0."""
    model = pipeline.model
    if not isinstance(model, Directed):
        return 0
    if feature.name in model.increasing:
        return 1
    if feature.name in model.decreasing:
        return -1
    match feature.expression:
        case Rolling(function="rate", value=Column(name=name)) if (
            name == pipeline.label.name and model.label_rates_increase
        ):
            return 1
        case _:
            return 0
