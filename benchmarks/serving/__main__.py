"""The endpoint beside its peers: the same trees, the same rows, the same client, one core each.

    python -m benchmarks.serving [--seconds 8] [--only evergreen mlserver] [--skip mlflow] [--table]

Each server runs alone, from an environment of its own in .evergreen/bench-serving/ that is made
once, and must predict what the model predicts before it is measured. A server that cannot be
installed or started is reported and left out, and the exit code is 1, as over a limit. Figures are
kept in .evergreen/bench-serving/results.json; `--only` replaces those of some servers, `--table`
prints what is there.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.figures import conclude
from benchmarks.serving import report
from benchmarks.serving.bodies import Body, Encoding
from benchmarks.serving.load import Figures, find, load
from benchmarks.serving.servers import (
    ENDPOINT,
    FLOORS,
    SERVERS,
    Running,
    Server,
    UnavailableError,
    environment,
    launch_of,
    started,
)
from benchmarks.serving.task import NAME, ROWS, Task, prepared
from bundle.files import write_atomically
from bundle.records import reader, segments

CACHE = Path(".evergreen") / "bench-serving"
SERVER_CORE, CLIENT_CORE = 0, 1
# Rows of a request: how many different bodies are sent in turn, and over how many connections.
BODIES, CONNECTIONS = {1: 500, 100: 20, ROWS: 1}, {100: 8, ROWS: 2}
HALF_CONNECTIONS = 64


def main() -> int:
    names = [server.name for server in SERVERS]
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    options.add_argument("--seconds", type=int, default=8, help="seconds of each case")
    options.add_argument(
        "--only",
        nargs="+",
        choices=names,
        default=names,
        metavar="NAME",
        help=f"of {', '.join(names)}",
    )
    options.add_argument(
        "--skip", nargs="+", choices=names, default=[], metavar="NAME", help="leave these out"
    )
    options.add_argument(
        "--install",
        action="store_true",
        help="make the environments and the task, and measure nothing",
    )
    options.add_argument(
        "--table",
        action="store_true",
        help="print the figures of the runs before, and measure nothing",
    )
    found = options.parse_args()
    place = CACHE.absolute() / "results.json"
    results: dict[str, Any] = json.loads(place.read_text()) if place.exists() else {}
    if found.table:
        print(report.tables(results))
        return 0
    try:
        find()
        if (cores := os.cpu_count() or 1) < 2:
            raise RuntimeError(
                "two cores are needed, one for the server and one for the client; "
                f"there are {cores}"
            )
    except (FileNotFoundError, RuntimeError) as error:
        print(f"bench-serving: {error}", file=sys.stderr)
        return 2
    # What is started must be stopped, so a signal unwinds the stack.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    task = prepared(CACHE.absolute() / "task")
    chosen = [
        server for server in SERVERS if server.name in found.only and server.name not in found.skip
    ]
    for server in chosen:
        print(f"{server.name} ...", file=sys.stderr, flush=True)
        try:
            python = environment(server, CACHE.absolute() / "environments")
            if found.install:
                continue
            figures = measured(server, task, python, found.seconds)
        except UnavailableError as error:
            print(f"{server.name}: {error}", file=sys.stderr)
            figures = {"unavailable": str(error)}
        results[server.name] = {
            "says": server.says,
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
            **figures,
        }
        write_atomically(place, json.dumps(ordered(results, names), indent=1).encode())
    if not found.install:
        print(report.tables(ordered(results, names)))
    over = 0 if found.install else conclude(report.figures(ordered(results, names)))
    ours = results.get(ENDPOINT.name, {})
    if ours.get("missing") or any(each["errors"] for each in ours.get("cases", {}).values()):
        print(
            "bench-serving: the endpoint failed requests, or its log lacks what it answered",
            file=sys.stderr,
        )
        return 1
    unmeasured = [each.name for each in chosen if "unavailable" in results.get(each.name, {})]
    if unmeasured:
        print(f"bench-serving: not measured: {', '.join(unmeasured)}", file=sys.stderr)
    return 1 if unmeasured else over


def ordered(results: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    return {name: results[name] for name in names if name in results}


def measured(server: Server, task: Task, python: Path, seconds: int) -> dict[str, Any]:
    """Figures of one server. Raises UnavailableError."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        with started(server, launch_of(task, python, folder), {SERVER_CORE}) as running:
            cases: dict[str, dict[str, float]] = {}
            single = 0.0
            for name, each in all_cases(server, running, task, seconds):
                cases[name] = each.stored()
                if name == "half load":
                    single, _ = running.memory()
            rss, pss = running.memory()
        figures: dict[str, Any] = {
            "start_seconds": round(running.start_seconds, 3),
            "single_rss_mb": round(single, 1),
            "rss_mb": round(rss, 1),
            "pss_mb": round(pss, 1),
            "cases": cases,
        }
        if server is ENDPOINT:
            figures |= in_log(folder, running.rows)
    if server is ENDPOINT:
        figures["two_workers"] = two_workers(task, python, seconds, cases[report.ONE])
    return figures


def all_cases(
    server: Server, running: Running, task: Task, seconds: int
) -> Iterator[tuple[str, Figures]]:
    """Cases of a server by name, as they are measured."""
    most = 0.0
    for connections in (1, 8, 64):
        figures = case(running, server.json, task, 1, seconds, connections)
        most = max(most, figures.a_second)
        yield f"1 row, c={connections}", figures
    yield "half load", half_load(running, server.json, task, seconds, most)
    if server in FLOORS:
        return
    for rows in (100, ROWS):
        yield (
            f"{rows:,} rows JSON",
            case(running, server.json, task, rows, seconds, CONNECTIONS[rows]),
        )
        for encoding in server.other_json:
            yield (
                f"{rows:,} rows JSON: {encoding.named}",
                case(running, encoding, task, rows, seconds, CONNECTIONS[rows]),
            )
        for encoding in server.binary:
            yield (
                f"{rows:,} rows binary: {encoding.named}",
                case(running, encoding, task, rows, seconds, CONNECTIONS[rows]),
            )


def bodies_of(encoding: Encoding, task: Task, rows: int) -> list[Body]:
    """Different requests of so many rows each."""
    return [
        encoding.encode(task, range(first * rows, (first + 1) * rows))
        for first in range(BODIES[rows])
    ]


def case(
    running: Running,
    encoding: Encoding,
    task: Task,
    rows: int,
    seconds: int,
    connections: int,
    pause_ms: float = 0.0,
    core: int | None = CLIENT_CORE,
) -> Figures:
    """One load after a second to warm up, with what the server's processes used.

    The client may use all cores where `core` is None.
    """
    bodies = bodies_of(encoding, task, rows)
    headers = {"content-type": encoding.kind, **running.headers}
    cores = {SERVER_CORE, CLIENT_CORE} if core is None else {core}
    warm = load(running.url + encoding.path, headers, bodies, 1, connections, cores)
    before = running.cpu_seconds()
    figures = load(
        running.url + encoding.path, headers, bodies, seconds, connections, cores, pause_ms
    )
    running.rows += rows * (warm.answered + figures.answered)
    return replace(
        figures, cpu_us=(running.cpu_seconds() - before) / max(1, figures.answered) * 1e6
    )


def half_load(
    running: Running, encoding: Encoding, task: Task, seconds: int, most: float
) -> Figures:
    """Half of the most requests a second, by connections that pause.

    The pause is corrected once by what two seconds of it gave.
    """
    turn_ms = 1e3 * HALF_CONNECTIONS / (most / 2)
    tried = case(running, encoding, task, 1, 2, HALF_CONNECTIONS, turn_ms)
    # A turn of a connection is its pause and what an answer takes.
    return case(
        running,
        encoding,
        task,
        1,
        seconds,
        HALF_CONNECTIONS,
        max(0.1, 2 * turn_ms - 1e3 * HALF_CONNECTIONS / tried.a_second),
    )


def in_log(state: Path, answered: int, pipeline: str = NAME) -> dict[str, int]:
    """How many rows were answered, and how many of these the prediction log lacks.

    It may have more: what was under way when a client stopped.
    """
    logged = sum(
        len(reader.contents(segment).records)
        for segment in segments.segments(state / pipeline / "predictions")
    )
    return {"answered": answered, "missing": max(0, answered - logged)}


def two_workers(task: Task, python: Path, seconds: int, one: dict[str, float]) -> dict[str, Any]:
    """Two workers on two cores against one on one.

    The client has a third core where there is one, and `ratio` is that of the requests a second.
    With two cores the client would take away what is measured; then the ratio is that of what a
    core can do by CPU time, 2 × CPU a request of one / of two.
    """
    apart = (os.cpu_count() or 1) > 2
    with (
        tempfile.TemporaryDirectory() as name,
        started(
            ENDPOINT, launch_of(task, python, Path(name), workers=2), {SERVER_CORE, CLIENT_CORE}
        ) as running,
    ):
        two = case(running, ENDPOINT.json, task, 1, seconds, 8, core=2 if apart else None)
    ratio = two.a_second / one["a_second"] if apart else 2 * one["cpu_us"] / two.cpu_us
    return {
        **two.stored(),
        "ratio": round(ratio, 3),
        "one_cpu_us": one["cpu_us"],
        "client_apart": apart,
    }


if __name__ == "__main__":
    sys.exit(main())
