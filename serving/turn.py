"""What a request waits for within one turn of the event loop.

It belongs to neither side: the HTTP server runs requests, and the service lets several of them wait
for one computation.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any


class Turn:
    """Awaited by a request that no task runs yet. `then` makes the request go on; call it once."""

    __slots__ = ("then",)
    then: Callable[[], None]

    def __await__(self) -> Generator[Any, None, None]:
        yield self
