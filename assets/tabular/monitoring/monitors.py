"""The monitors as the graph knows them: what each reads and judges.

`daily` computes them; nothing that computes is loaded here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from assets.names import FEATURES, PREDICTIONS, raw_name
from assets.tabular.validation import gates

if TYPE_CHECKING:
    from declare.tabular import Tabular

DATA_DRIFT = "monitoring/data_drift"
PREDICTION_DRIFT = "monitoring/prediction_drift"
PERFORMANCE = "monitoring/performance"
SKEW = "monitoring/skew"
FAIRNESS = "monitoring/fairness"
SERVICE = "monitoring/service"

EVIDENTLY_PAGE = "evidently.html"
"""Evidently's page of a data-drift report, beside the report's own page."""


class Monitor(NamedTuple):
    """One monitor.

    `name` is that of its report, `reads` gives the assets (below the pipeline's name) that it reads
    on the same day, `rules` the rules that it judges. A `windowed` monitor also reads the window of
    predictions before the day. `kinds` are what the Dagster UI shows.
    """

    name: str
    reads: Callable[[Tabular], tuple[str, ...]]
    windowed: bool
    rules: Callable[[Tabular], tuple[str, ...]]
    kinds: tuple[str, ...] = ("python",)


def _answers(pipeline: Tabular) -> tuple[str, ...]:
    return (PREDICTIONS,)


def _labels(pipeline: Tabular) -> tuple[str, ...]:
    return (PREDICTIONS, raw_name(pipeline.label.source))


MONITORS = (
    Monitor(
        DATA_DRIFT,
        _answers,
        False,
        lambda pipeline: ("drift_share", "missing_values"),
        ("evidently", "python"),
    ),
    Monitor(PREDICTION_DRIFT, _answers, False, lambda pipeline: ("prediction_drift",)),
    Monitor(PERFORMANCE, _labels, True, lambda pipeline: ("live_log_loss",)),
    Monitor(SKEW, lambda pipeline: (PREDICTIONS, FEATURES), False, lambda pipeline: ("skew",)),
    Monitor(
        FAIRNESS, _labels, True, lambda pipeline: gates.required_gates(pipeline)[gates.FAIRNESS]
    ),
    Monitor(SERVICE, _answers, False, lambda pipeline: ("latency_p99", "error_rate")),
)
