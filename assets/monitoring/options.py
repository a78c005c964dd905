"""What a pipeline declares about monitoring."""

from __future__ import annotations

from pydantic import Field

from assets.declared import Declared


class Monitors(Declared):
    """Limits of the daily monitors. A statistic below `minimum_rows` rows is reported but never judged.

    `drift_share` is the share of features that must drift for the data-drift check to fail. `psi` follows the usual
    reading of the population stability index (0.1 moderate, 0.25 major shift). `report_weekday` is the ISO day on which
    Evidently's full report is rendered; it is rendered on an alarm and on request as well.
    """

    minimum_rows: int = Field(default=200, ge=1)
    psi: float = Field(default=0.25, gt=0)
    jensen_shannon: float = Field(default=0.2, gt=0)
    drift_share: float = Field(default=0.3, gt=0, le=1)
    prediction_psi: float = Field(default=0.25, gt=0)
    log_loss_margin: float = Field(default=0.05, gt=0)
    performance_days: int = Field(default=7, ge=1)
    latency_p99_ms: float = Field(default=50.0, gt=0)
    error_rate: float = Field(default=0.01, ge=0, le=1)
    report_weekday: int = Field(default=1, ge=1, le=7)
