"""The monitors as the graph knows them: what each reads and judges. `daily` computes them; nothing that computes is loaded here."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from assets.names import FEATURES, PREDICTIONS, raw_name
from assets.tabular.validation import gates

if TYPE_CHECKING:
    from declare.pipeline import Pipeline

DATA_DRIFT, PREDICTION_DRIFT, PERFORMANCE = (
    "monitoring/data_drift",
    "monitoring/prediction_drift",
    "monitoring/performance",
)
DRIFT_PAGE, WORTH_A_LOOK = "monitoring/drift_page", "worth_a_look"
"""Evidently's page, and the metadata of the drift report that says of which day (ISO) it is to be drawn."""
SKEW, FAIRNESS, SERVICE = "monitoring/skew", "monitoring/fairness", "monitoring/service"


class Monitor(NamedTuple):
    """One monitor: the name of its report, the assets (below the pipeline's name) it reads on the same day, whether it reads the window of
    predictions before the day as well, and the rules that it judges."""

    name: str
    reads: Callable[[Pipeline], tuple[str, ...]]
    windowed: bool
    rules: Callable[[Pipeline], tuple[str, ...]]


def _answers(pipeline: Pipeline) -> tuple[str, ...]:
    return (PREDICTIONS,)


def _labels(pipeline: Pipeline) -> tuple[str, ...]:
    return (PREDICTIONS, raw_name(pipeline.label.source))


MONITORS = (
    Monitor(DATA_DRIFT, _answers, False, lambda pipeline: ("drift_share", "missing_values")),
    Monitor(PREDICTION_DRIFT, _answers, False, lambda pipeline: ("prediction_drift",)),
    Monitor(PERFORMANCE, _labels, True, lambda pipeline: ("live_log_loss",)),
    Monitor(SKEW, lambda pipeline: (PREDICTIONS, FEATURES), False, lambda pipeline: ("skew",)),
    Monitor(
        FAIRNESS, _labels, True, lambda pipeline: gates.required_gates(pipeline)[gates.FAIRNESS]
    ),
    Monitor(SERVICE, _answers, False, lambda pipeline: ("latency_p99", "error_rate")),
)
