"""Limits of the daily monitors."""

from __future__ import annotations

from pydantic import Field

from declare.base import Declared


class Monitors(Declared):
    """Limits of the daily monitors.

    A statistic of fewer than `minimum_rows` rows is reported, never judged.

    The data-drift check fails when the share `drift_share` of the features drifts. Numbers drift by
    `psi` (usual reading: 0.1 a moderate, 0.25 a major shift), text by `jensen_shannon` (the
    distance, base 2). Each is held against the greater of the declared limit and the limit that the
    reference's own days keep. A rise of a feature's missing values by `null_jump` is a fault of the
    data, not drift. `prediction_psi` bounds the shift of the outputs.

    Live log loss may exceed the champion's test log loss by `log_loss_margin` over the last
    `performance_days` days. `skew_share` is the least share of feature values that the endpoint
    must have computed exactly as the lake did. `latency_p99_ms` and `error_rate` bound the service.
    Declared groups keep the gate's limit live as well (`Gates.max_fairness_gap`).

    Evidently's full report is drawn on the ISO weekday `report_weekday`, when an alarm begins (none
    in the week before), and on request.
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
