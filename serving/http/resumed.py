"""Going on, in a task, with a coroutine that was begun without one."""

from __future__ import annotations

import asyncio
import types
from collections.abc import Coroutine, Generator
from functools import partial
from typing import Any, TypeVar

from serving.turn import Turn

T = TypeVar("T")


@types.coroutine
def resumed(coroutine: Coroutine[Any, Any, T], awaited: Any) -> Generator[Any, Any, T]:
    """The rest of a coroutine that waits for `awaited`.

    Passes on what the coroutine waits for, and what it is sent.
    """
    try:
        while True:
            try:
                if isinstance(awaited, Turn):
                    turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
                    awaited.then = partial(_done, turn)
                    yield from turn
                    sent = None
                else:
                    sent = yield awaited
            # Whatever is thrown in belongs to the coroutine.
            except BaseException as error:  # noqa: BLE001
                awaited = coroutine.throw(error)
            else:
                awaited = coroutine.send(sent)
    except StopIteration as returned:
        found: T = returned.value
        return found


def _done(turn: asyncio.Future[None]) -> None:
    if not turn.done():
        turn.set_result(None)
