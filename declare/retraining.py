"""When a pipeline retrains."""

from __future__ import annotations

from pydantic import Field

from declare.base import Declared


class RetrainingPolicy(Declared):
    """When to retrain. `assets.retraining.decide` is the only place that reads the policy.

    Performance: the live log loss over the monitor's window is worse than the champion's test log
    loss by `performance_margin`, even at the lower end of its interval, on at least `minimum_rows`
    matured rows. Drift: the drift monitor fails on `drift_persistence` days of the last
    `drift_window`, on at least `minimum_rows` rows together. Calendar: `every_days` after the last
    training. None switches a cause off. An open fault of the data vetoes all three: the numbers
    that speak for them may be the fault's own.

    Never more often than every `cooldown_days`, except for the first model and when a person asks.
    Each retrain in a row that released nothing doubles the cooldown, at most `attempts` - 1 times:
    the same data rarely passes a gate that it failed.
    """

    every_days: int | None = Field(default=30, ge=1)
    performance_margin: float | None = Field(default=0.08, gt=0)
    drift_persistence: int | None = Field(default=3, ge=1)
    drift_window: int = Field(default=5, ge=1)
    minimum_rows: int = Field(default=2_000, ge=1)
    cooldown_days: int = Field(default=7, ge=0)
    attempts: int = Field(default=3, ge=1)
