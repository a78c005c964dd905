"""A request on its way through the endpoint, over HTTP or gRPC."""

from __future__ import annotations

import time

from serving.callers.access import ANYONE
from serving.contract.refusal import Refusal


class Call:
    """One request on its way.

    Moments are of the monotonic clock. `arm` and `rows` are known once the request is answered.
    """

    __slots__ = ("arm", "caller", "end", "pipeline", "rows", "start", "traceparent")

    def __init__(self, start: float) -> None:
        self.start, self.end = start, 0.0
        self.caller = ANYONE
        self.traceparent = b""
        self.pipeline = self.arm = ""
        self.rows = 0

    @property
    def admitted(self) -> bool:
        return self.end > 0

    def limit(self, seconds: float | None) -> None:
        """Let the answer take no longer than this; None sets no limit of its own."""
        if seconds is not None:
            self.end = min(self.end, self.start + seconds)

    def in_time(self) -> None:
        """Raises Refusal when the answer would come too late to be of use."""
        if time.monotonic() > self.end:
            raise Refusal(
                504,
                "deadline",
                "The request's time was over before it could be predicted; "
                "nothing was predicted or logged.",
            )
