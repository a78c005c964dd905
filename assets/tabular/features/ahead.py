"""Work done ahead: the next results are computed while the last one is used."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

# Polars releases the interpreter's lock, but few of its operations use two cores all the time: two
# at once do.
WORKERS = 2


def ahead(
    function: Callable[[Item], Result], items: Iterable[Item], workers: int = WORKERS
) -> Iterator[Result]:
    """Results in the order of the items, at most `workers` of them under way or waiting.

    The first error ends it.
    """
    waiting = iter(items)
    first = list(islice(waiting, 2))
    if len(first) < 2:
        # One result needs no thread.
        yield from map(function, first)
        return
    with ThreadPoolExecutor(workers, thread_name_prefix="features") as pool:
        pending: deque[Future[Result]] = deque(pool.submit(function, item) for item in first)
        try:
            while pending:
                result = pending.popleft().result()
                pending.extend(
                    pool.submit(function, item) for item in islice(waiting, workers - len(pending))
                )
                yield result
        finally:
            for future in pending:
                future.cancel()
