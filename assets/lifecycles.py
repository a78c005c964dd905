"""The lifecycle of each kind of pipeline: one tuple of stages. Every other list is read from it.

The stages stand in the order in which they import each other: none imports a later one. Traffic
comes before release because a release is a move of the traffic. In the graph its daily judgement
comes after the predictions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from assets.data import assets as data
from assets.endpoint import assets as endpoint
from assets.kind import Kind
from assets.release import assets as release
from assets.retraining import assets as retraining
from assets.stage import Cadence, Stage
from assets.tabular.features import assets as features
from assets.tabular.kind import TabularKind
from assets.tabular.monitoring import assets as monitoring
from assets.tabular.training import assets as training
from assets.tabular.validation import assets as validation
from assets.traffic import assets as traffic
from declare.pipeline import Pipeline
from declare.tabular import Tabular

TABULAR: tuple[Stage[Tabular], ...] = (
    data.STAGE,
    features.STAGE,
    training.STAGE,
    validation.STAGE,
    traffic.STAGE,
    release.STAGE,
    endpoint.STAGE,
    monitoring.STAGE,
    retraining.STAGE,
)


@dataclass(frozen=True)
class Lifecycle:
    """What a kind of pipeline brings: its stages, in order, and its view for the shared ones."""

    stages: tuple[Stage[Any], ...]
    kind: Callable[[Any], Kind]


LIFECYCLES: dict[type[Pipeline], Lifecycle] = {Tabular: Lifecycle(TABULAR, TabularKind)}


def lifecycle_of(pipeline: Pipeline) -> Lifecycle:
    """The lifecycle of a pipeline. Raises TypeError for a kind that has none."""
    found = LIFECYCLES.get(type(pipeline))
    if found is None:
        kinds = ", ".join(kind.__name__ for kind in LIFECYCLES)
        raise TypeError(
            f"pipeline {pipeline.name!r} is declared as {type(pipeline).__name__}, a kind that has "
            f"no lifecycle; kinds are {kinds}"
        )
    return found


def stages(pipeline: Pipeline) -> tuple[Stage[Any], ...]:
    """The stages of a pipeline, in order."""
    return lifecycle_of(pipeline).stages


def kind_of(pipeline: Pipeline) -> Kind:
    """A pipeline, as the shared stages see it."""
    return lifecycle_of(pipeline).kind(pipeline)


def asset_names(pipeline: Pipeline, *cadences: Cadence) -> tuple[str, ...]:
    """Names of the pipeline's assets of these cadences, in the order of its stages."""
    found: list[str] = []
    for stage in stages(pipeline):
        names = stage.assets(pipeline)
        for cadence in cadences:
            found += names.get(cadence, ())
    return tuple(found)
