"""What a pipeline declares about monitoring."""

from __future__ import annotations

from datetime import timedelta

from pydantic import Field

from declare.base import Declared


class LogPolicy(Declared):
    """What is kept of answered predictions in the endpoint's log, which the lake takes up day by day.

    `omit` names request columns that are never written to it, neither to the log nor to the lake; nor are the features that
    read them, whose values would tell them. Monitors then do not compare these features. `retention` is how long a prediction
    stays in the log after its event, in data time; what the lake does not hold stays whatever its age.
    """

    omit: tuple[str, ...] = ()
    retention: timedelta = timedelta(days=183)


class Monitors(Declared):
    """Limits of the daily monitors. A statistic below `minimum_rows` rows is reported but never judged.

    `drift_share` is the share of features that must drift for the data-drift check to fail: numbers drift by `psi` (0.1
    moderate, 0.25 major shift in the usual reading), text by `jensen_shannon` (the distance, base 2), each against the greater
    of the declared limit and the one that the reference's own days keep. `null_jump` is the rise of a feature's share of missing values that
    speaks of a fault of the data rather than of drift. Live log loss may exceed the champion's test log loss by
    `log_loss_margin` over the last `performance_days` days. `skew_share` is the least share of feature values that the
    endpoint must have computed exactly as the lake did. Declared groups keep the gate's limit live as well (`Gates.max_fairness_gap`).
    `report_weekday` is the ISO day on which Evidently's full report is rendered; it is rendered when an alarm begins (none in
    the week before) and on request as well.
    """

    minimum_rows: int = Field(default=200, ge=1)
    psi: float = Field(default=0.25, gt=0)
    jensen_shannon: float = Field(default=0.2, gt=0)
    drift_share: float = Field(default=0.3, gt=0, le=1)
    null_jump: float = Field(default=0.25, gt=0, le=1)
    prediction_psi: float = Field(default=0.25, gt=0)
    log_loss_margin: float = Field(default=0.05, gt=0)
    performance_days: int = Field(default=7, ge=1)
    skew_share: float = Field(default=0.999, gt=0, le=1)
    latency_p99_ms: float = Field(default=50.0, gt=0)
    error_rate: float = Field(default=0.01, ge=0, le=1)
    report_weekday: int = Field(default=1, ge=1, le=7)
