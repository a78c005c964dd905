"""Requests a second of the endpoint, one row of JSON, validation, online features and the prediction log on.

    python -m benchmarks.endpoint [--seconds 5] [--connections 8]

Server and client are pinned to one core each. In the same run a bare "hello" (the same server and protocol, an application that
reads the body and answers five bytes) gives the floor. The client is wrk where it is installed, else an asyncio client, whose own
cost then bounds both figures.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import httpx
import psutil

from bundle.records import reader
from tests.support.endpoint import DAY, NAME, TREE, Place, request

SERVER_CORE, CLIENT_CORE = 0, 1
BODIES = 500


@dataclass(frozen=True)
class Figures:
    """`errors` are answers other than 2xx and broken connections; latencies in milliseconds. `cpu_us` is the server's own CPU
    time for one request, which tells what a core of its own would do even where the machine is busy with other work."""

    a_second: float
    p50: float
    p99: float
    errors: int
    answered: int
    cpu_us: float = 0.0


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    options.add_argument("--seconds", type=int, default=5)
    options.add_argument("--connections", type=int, default=8)
    options.add_argument("--trees", type=int, default=200)
    options.add_argument(
        "--json", action="store_true", help="print one JSON object instead of lines"
    )
    found = options.parse_args()
    bodies = [json.dumps(request(number)) for number in range(BODIES)]
    with tempfile.TemporaryDirectory() as folder:
        with hello() as (url, process):
            floor = load(f"{url}/hello", bodies, found.seconds, found.connections, process)
        place = Place.new(Path(folder))
        place.release(rounds=found.trees)
        with place.server(cpu=SERVER_CORE) as server:
            endpoint = load(
                f"{server.url}/predict/{NAME}",
                bodies,
                found.seconds,
                found.connections,
                server.process.pid,
            )
            memory = (
                int(Path(f"/proc/{server.process.pid}/statm").read_text().split()[1])
                * os.sysconf("SC_PAGE_SIZE")
                / 1e6
            )
        logged = len(reader.read(place.predictions, DAY).records)
    # Requests under way at the end are answered and logged, but no client counts them.
    missing = max(0, endpoint.answered - logged)
    result = {
        "endpoint_a_second": round(endpoint.a_second), "hello_a_second": round(floor.a_second), "ratio": round(endpoint.a_second / floor.a_second, 3),
        "cpu_us": round(endpoint.cpu_us), "hello_cpu_us": round(floor.cpu_us), "cpu_ratio": round(floor.cpu_us / endpoint.cpu_us, 3),
        "p50_ms": endpoint.p50, "p99_ms": endpoint.p99, "errors": endpoint.errors, "answered": endpoint.answered, "logged": logged,
        "missing": missing, "memory_mb": round(memory), "trees": found.trees, "client": "wrk" if shutil.which("wrk") else "asyncio",
    }  # fmt: skip
    if found.json:
        sys.stdout.write(json.dumps(result) + "\n")
    else:
        sys.stdout.write(
            f"endpoint: {result['endpoint_a_second']:,} requests/s at {found.connections} connections, one worker on one core "
            f"(p50 {endpoint.p50:.2f} ms, p99 {endpoint.p99:.2f} ms, {endpoint.errors} errors, {memory:.0f} MB)\n"
            f"bare hello on the same server: {result['hello_a_second']:,} requests/s; ratio {result['ratio']:.2f}\n"
            f"CPU time of the server: {endpoint.cpu_us:.0f} µs a request, {floor.cpu_us:.0f} µs for the hello; ratio {floor.cpu_us / endpoint.cpu_us:.2f}\n"
            f"prediction log: {logged} records of {endpoint.answered} counted answers, {missing} missing\n"
        )
    if endpoint.errors or missing:
        sys.exit(1)


@contextmanager
def hello() -> Iterator[tuple[str, int]]:
    """The floor: the endpoint's HTTP server with an application that does nothing; its URL and process."""
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.hello", "0"], stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(TREE)},
        preexec_fn=lambda: os.sched_setaffinity(0, {SERVER_CORE}),
    )  # fmt: skip
    try:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{int(process.stdout.readline())}", process.pid
    finally:
        process.terminate()
        process.wait()


def load(url: str, bodies: Sequence[str], seconds: int, connections: int, pid: int) -> Figures:
    """Send bodies in turn over some connections to the server process `pid`, after one second to warm up."""
    run = _wrk if shutil.which("wrk") else _asyncio
    run(url, bodies, 1, connections)
    server = psutil.Process(pid)
    before = server.cpu_times()
    figures = run(url, bodies, seconds, connections)
    after = server.cpu_times()
    cpu = after.user + after.system - before.user - before.system
    return replace(figures, cpu_us=cpu / max(1, figures.answered) * 1e6)


_LUA = """
local bodies = {%s}
local at, number = 0, 0
wrk.method = "POST"
wrk.headers["content-type"] = "application/json"
request = function()
  at, number = at %% #bodies + 1, number + 1
  wrk.headers["x-request-id"] = string.format("%%032x", number)
  return wrk.format(nil, nil, nil, bodies[at])
end
done = function(summary, latency, requests)
  local e = summary.errors
  io.write(string.format("RESULT %%f %%f %%f %%d %%d\\n", summary.requests / summary.duration * 1e6, latency:percentile(50) / 1e3,
    latency:percentile(99) / 1e3, e.connect + e.read + e.write + e.status + e.timeout, summary.requests))
end
"""


def _wrk(url: str, bodies: Sequence[str], seconds: int, connections: int) -> Figures:
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write(_LUA % ", ".join(f"[==[{body}]==]" for body in bodies))
        script.flush()
        command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "-s", script.name, url]
        output = subprocess.run(
            command,
            capture_output=True,
            text=True,
            check=True,
            preexec_fn=lambda: os.sched_setaffinity(0, {CLIENT_CORE}),
        ).stdout
    line = next(line for line in output.splitlines() if line.startswith("RESULT "))
    a_second, p50, p99, errors, answered = line.split()[1:]
    return Figures(float(a_second), float(p50), float(p99), int(errors), int(answered))


def _asyncio(url: str, bodies: Sequence[str], seconds: int, connections: int) -> Figures:
    """Plain sockets, so that the client costs less than the server."""
    target = httpx.URL(url)
    payloads = [
        f"POST {target.path} HTTP/1.1\r\nhost: {target.host}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n{body}".encode()
        for body in bodies
    ]
    times: list[float] = []
    errors = 0

    async def client(number: int, end: float) -> None:
        nonlocal errors
        reader, writer = await asyncio.open_connection(target.host, target.port)
        place = number
        while (start := time.perf_counter()) < end:
            writer.write(payloads[place % len(payloads)])
            place += connections
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
            await reader.readexactly(length)
            times.append(time.perf_counter() - start)
            errors += not head.startswith(b"HTTP/1.1 200")
        writer.close()

    async def everyone() -> None:
        end = time.perf_counter() + seconds
        await asyncio.gather(*(client(number, end) for number in range(connections)))

    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {CLIENT_CORE})
    try:
        asyncio.run(everyone())
    finally:
        os.sched_setaffinity(0, before)
    times.sort()
    return Figures(
        len(times) / seconds,
        times[len(times) // 2] * 1e3,
        times[int(len(times) * 0.99)] * 1e3,
        errors,
        len(times),
    )


if __name__ == "__main__":
    main()
