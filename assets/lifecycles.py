"""The lifecycle of each kind of pipeline: one tuple of stages. Every other list is read from it.

The stages stand in the order in which they import each other: none imports a later one. Traffic
comes before release because a release is a move of the traffic. In the graph its daily judgement
comes after the predictions.
"""

from __future__ import annotations

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

TABULAR: tuple[Stage[Pipeline], ...] = (
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


def stages(pipeline: Pipeline) -> tuple[Stage[Pipeline], ...]:
    """The stages of a pipeline, in order."""
    return TABULAR


def kind_of(pipeline: Pipeline) -> Kind:
    """A pipeline, as the shared stages see it."""
    return TabularKind(pipeline)


def asset_names(pipeline: Pipeline, *cadences: Cadence) -> tuple[str, ...]:
    """Names of the pipeline's assets of these cadences, in the order of its stages."""
    return tuple(
        name
        for stage in stages(pipeline)
        for cadence in cadences
        for name in stage.assets(pipeline).get(cadence, ())
    )
