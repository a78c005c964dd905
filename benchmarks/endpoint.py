"""The endpoint without its peers: its floors, its memory, two workers, and the shipped pipeline.

    python -m benchmarks.endpoint [--seconds 5]

Everything here needs wrk and nothing else that is not installed. `benchmarks.serving` measures the
peers, with the same task and the same ways.

Server and client are pinned to one core each. The floors are an application that reads the body and
answers five bytes, on the endpoint's own HTTP server and on uvicorn as it is; the latter is judged.

Two workers are judged twice. Requests a second tell only where the client has a core of its own, so
this is not judged with fewer than three cores: the client would take away what is measured. CPU
time tells everywhere: where a worker of two needs as much of it for a request as a single one does,
two cores answer twice as many. That ratio is 2 × (CPU of a request with one / with two), with both
workers busy. It leaves out what workers wait for without computing; the other figure has that.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from benchmarks.figures import Figure, conclude
from benchmarks.serving import report, shipped
from benchmarks.serving.__main__ import (
    CACHE,
    CONNECTIONS,
    SERVER_CORE,
    case,
    in_log,
    two_workers,
)
from benchmarks.serving.load import Figures, find
from benchmarks.serving.servers import (
    ENDPOINT,
    FLOOR,
    USUAL_FLOOR,
    Server,
    launch_of,
    started,
)
from benchmarks.serving.task import NAME, ROWS, Task, prepared
from pipelines.flight_delays import pipeline

HELLO_LIMIT, MEMORY_LIMIT_MB = 0.6, 300.0
SINGLE, ROUNDS = 8, 3
"""Connections of the load of single rows, and rounds in which servers take turns."""


def main() -> int:
    """0 when every figure keeps its limit; 2 where nothing can be measured here."""
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("--seconds", type=int, default=5, help="seconds of each load")
    seconds = options.parse_args().seconds
    try:
        find()
    except FileNotFoundError as error:
        print(f"endpoint: {error}", file=sys.stderr)
        return 2
    if (os.cpu_count() or 1) < 2:
        print("endpoint: server and client need a core each; there is one", file=sys.stderr)
        return 2

    task = prepared(CACHE.absolute() / "task")
    singles = in_turn((FLOOR, USUAL_FLOOR, ENDPOINT), task, seconds)
    one = middle(singles[ENDPOINT.name])
    two = two_workers(task, Path(sys.executable), seconds, one.stored())
    memory, faults = batches(ENDPOINT, task, NAME, seconds)
    flights = shipped.prepared(CACHE.absolute() / "shipped")
    flights_memory, flights_faults = batches(shipped.SHIPPED, flights, pipeline.name, seconds)

    hello = ratio(singles[ENDPOINT.name], singles[USUAL_FLOOR.name])
    return conclude(
        [
            Figure("one row / uvicorn's hello", hello, HELLO_LIMIT, "x", at_least=True),
            *report.of_two_workers(two),
            Figure("memory after batches", memory, MEMORY_LIMIT_MB, "MB"),
            Figure("memory after batches, flight_delays", flights_memory, MEMORY_LIMIT_MB, "MB"),
            Figure("failed requests and rows not logged", faults, 0),
            Figure("the same, flight_delays", flights_faults, 0),
        ]
    )


def in_turn(servers: Sequence[Server], task: Task, seconds: int) -> dict[str, list[Figures]]:
    """Single rows to servers that all run, in some rounds of turns.

    What else the machine does then slows all of them.
    """
    found: dict[str, list[Figures]] = {server.name: [] for server in servers}
    with ExitStack() as stack:
        running = []
        for server in servers:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            launch = launch_of(task, Path(sys.executable), folder)
            running.append(stack.enter_context(started(server, launch, {SERVER_CORE})))
        for _ in range(ROUNDS):
            for server, each in zip(servers, running, strict=True):
                found[server.name].append(case(each, server.json, task, 1, seconds, SINGLE))

    for name, figures in found.items():
        each = middle(figures)
        print(
            f"{name}, 1 row: {each.a_second:,.0f} requests a second,"
            f" {each.cpu_us:.1f} µs of CPU a request, p99 {each.p99_ms:.2f} ms",
            flush=True,
        )
    return found


def middle(rounds: Sequence[Figures]) -> Figures:
    """The round with the median rate."""
    return sorted(rounds, key=lambda each: each.a_second)[len(rounds) // 2]


def ratio(ours: Sequence[Figures], theirs: Sequence[Figures]) -> float:
    """The median over the rounds."""
    pairs = zip(ours, theirs, strict=True)
    return statistics.median(one.a_second / other.a_second for one, other in pairs)


def batches(server: Server, task: Task, name: str, seconds: int) -> tuple[float, int]:
    """Single rows, then batches in every encoding: RSS in MB at the end, and faults.

    Before any load, predictions of all encodings were compared with the model's.
    """
    with tempfile.TemporaryDirectory() as folder:
        launch = launch_of(task, Path(sys.executable), Path(folder))
        with started(server, launch, {SERVER_CORE}) as running:
            single = case(running, server.json, task, 1, seconds, SINGLE)
            show(name, "1 row", single)
            failed = single.errors
            for rows in (100, ROWS):
                for each in (server.json, *server.other_json, *server.binary):
                    found = case(running, each, task, rows, seconds, CONNECTIONS[rows])
                    show(name, f"{rows:,} rows, {each.named}", found)
                    failed += found.errors
            memory, _ = running.memory()
        missing = in_log(Path(folder), running.rows, name)["missing"]
    return memory, failed + missing


def show(name: str, case_name: str, found: Figures) -> None:
    print(
        f"{name}, {case_name}: {found.a_second:,.1f} requests a second,"
        f" p50 {found.p50_ms:.2f} ms, p99 {found.p99_ms:.2f} ms, {found.errors} errors",
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(main())
