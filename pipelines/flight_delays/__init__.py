"""Flight delays, the default pipeline: `pipeline` is its declaration."""

from __future__ import annotations

from pipelines.flight_delays.pipeline import pipeline

__all__ = ["pipeline"]
