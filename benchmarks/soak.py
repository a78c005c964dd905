"""A real endpoint under load while everything happens to it: releases, canaries, roll-backs and killed workers.

    python -m benchmarks.soak [--seconds 600] [--seed N] [--workers 2] [--connections 8] [--json]

A ledger, the reconciler, an artifact store and a server with several workers, all as in production; clients at half the measured maximum.
At the end it must hold that

- no request failed but those on connections of a worker at the moment of its SIGKILL;
- every acknowledged prediction is in the log exactly once, with the bundle that answered it, and the log holds no more predictions than
  requests were sent;
- each was answered by a bundle that the ledger allowed at that moment: from the decision on that names it, until the endpoint has
  confirmed a decision that does not;
- the endpoint serves what the ledger says, with all its workers.

The seed is printed first; it decides what happens when. Any violation is printed and makes the exit status 1.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import msgspec
import psutil

from assets.endpoint import reconcile as reconciling
from assets.traffic import decisions, rollouts, steps
from assets.traffic.entries import Confirmation, LedgerEntry, entries as read
from assets.traffic.moves import MOVES, desired_state, released as released_now
from assets.traffic.standing import Proposal
from assets.traffic.steps import Grounds
from bundle.records import reader, segments
from declare.release import ReleasePolicy
from resources.artifacts import Artifacts
from resources.endpoint import LocalEndpoint
from resources.keys import Keys
from resources.ledger import Ledger
from tests.support import endpoint as toy
from tests.support.endpoint import DAY, NAME, TREE, Place, Running

CYCLE_SECONDS = 30.0
BODIES = 400
# A client leaves after so many requests and comes again, so that connections meet all workers.
REQUESTS_OF_A_CONNECTION = 500
PERSON = "soak@example.org"
CANARY = ReleasePolicy(canary=(0.3,))


class Answer(msgspec.Struct):
    id: str
    bundle: str
    arm: str


class Acknowledged(msgspec.Struct, array_like=True):
    """One answered request: what was answered, and the wall times (seconds) between which it was."""

    id: str
    bundle: str
    sent: float
    answered: float


class Failed(msgspec.Struct, array_like=True):
    """One request without an answer, or with another than 200, by the client's port; `status` 0: the connection broke."""

    port: int
    status: int
    at: float
    why: str


@dataclass
class Outcome:
    """What clients saw."""

    acknowledged: list[Acknowledged] = field(default_factory=list)
    failed: list[Failed] = field(default_factory=list)


# -- the client, a process of its own ------------------------------------------------------------------------------------------------


async def client(url: str, rate: float, connections: int, place: Path) -> None:
    """Send requests at `rate` a second (0: as fast as answers come) until standard input ends; every outcome is a line of `place`."""
    host, port = url.removeprefix("http://").split(":")
    requests = []
    for number in range(BODIES):
        body = json.dumps(toy.request(number)).encode()
        head = f"POST /predict/{NAME} HTTP/1.1\r\nhost: {host}:{port}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        requests.append(head.encode() + body)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_reader(sys.stdin.fileno(), stop.set)
    with open(place, "wb") as file:
        await asyncio.gather(
            *(
                _connection(host, int(port), requests, index, rate / connections, stop, file.write)
                for index in range(connections)
            )
        )


async def _connection(
    host: str,
    port: int,
    requests: Sequence[bytes],
    index: int,
    rate: float,
    stop: asyncio.Event,
    write: object,
) -> None:
    assert callable(write)
    encode, decode = msgspec.json.Encoder().encode, msgspec.json.Decoder(Answer).decode
    number, due = index * 37, time.monotonic() + (index / 100)
    while not stop.is_set():
        reader, writer = await asyncio.open_connection(host, port)
        own: int = writer.get_extra_info("sockname")[1]
        for _ in range(REQUESTS_OF_A_CONNECTION):
            if rate:
                # A client that fell behind does not make up for more than a second.
                due = max(due + 1 / rate, time.monotonic() - 1)
                await asyncio.sleep(due - time.monotonic())
            if stop.is_set():
                break
            number += 1
            sent = time.time()
            try:
                writer.write(requests[number % len(requests)])
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
                body = await reader.readexactly(length)
            except (OSError, asyncio.IncompleteReadError) as error:
                write(encode(Failed(own, 0, time.time(), type(error).__name__)) + b"\n")
                break
            if head[9:12] == b"200":
                answer = decode(body)
                write(encode(Acknowledged(answer.id, answer.bundle, sent, time.time())) + b"\n")
            else:
                write(
                    encode(
                        Failed(
                            own, int(head[9:12]), time.time(), body.decode(errors="replace")[:200]
                        )
                    )
                    + b"\n"
                )
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


@contextlib.contextmanager
def load(server: Running, rate: float, connections: int, place: Path) -> Iterator[Outcome]:
    """Clients while the body runs; the outcome is complete afterwards."""
    command = [
        sys.executable,
        "-m",
        "benchmarks.soak",
        "--client",
        server.url,
        str(rate),
        str(connections),
        str(place),
    ]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, cwd=TREE, env={**os.environ, "PYTHONPATH": str(TREE)}
    )
    outcome = Outcome()
    try:
        yield outcome
        assert process.stdin is not None
        process.stdin.close()
        if process.wait(60) != 0:
            raise RuntimeError(f"the client ended with status {process.returncode}")
    finally:
        process.kill()
        process.wait()
    decode_answer, decode_failure = (
        msgspec.json.Decoder(Acknowledged).decode,
        msgspec.json.Decoder(Failed).decode,
    )
    with open(place, "rb") as file:
        for line in file:
            # Ids are texts and ports are numbers: the first character after the bracket tells them apart.
            if line[1:2] == b'"':
                outcome.acknowledged.append(decode_answer(line))
            else:
                outcome.failed.append(decode_failure(line))


# -- the platform ---------------------------------------------------------------------------------------------------------------------


@dataclass
class Kill:
    """One killed worker: the moment just before, and the client's ports of its connections."""

    at: float
    pid: int
    ports: frozenset[int]


class Platform:
    """Ledger, keys, artifacts and an endpoint with toy bundles, as the graph has them."""

    def __init__(self, folder: Path, bundles: int) -> None:
        self.keys = Keys(path=str(folder / "keys"))
        self.ledger = Ledger(path=str(folder / "ledger" / "ledger.db"), signer=self.keys)
        self.artifacts = Artifacts(uri=str(folder / "artifacts"))
        public = self.keys.public_path
        self.place = Place(folder / "endpoint", self.keys.private_path.read_bytes(), public)
        self.place.root.mkdir(parents=True)
        self.place.publish()
        self.bundles = [
            self.artifacts.put("bundles", toy.files(self.place.private_key, seed=seed))
            for seed in range(bundles)
        ]
        self.kills: list[Kill] = []

    @property
    def endpoint(self) -> LocalEndpoint:
        return self.place.endpoint

    def propose(self, bundle: str) -> Proposal:
        """A bundle approved by a person, who may overrule that it was rolled back before."""
        candidate = f"{self.bundles.index(bundle):064x}"
        proposal = Proposal(NAME, bundle, candidate, DAY, {})
        decisions.approve(self.ledger, proposal, PERSON, "the soak test releases it")
        return proposal

    def release(self, bundle: str) -> None:
        steps.release(self.ledger, self.propose(bundle), 0, Grounds())

    def begin_canary(self, bundle: str) -> None:
        """Shadow first, then a share of the traffic."""
        proposal = self.propose(bundle)
        steps.start(self.ledger, proposal, 0, CANARY, Grounds())
        self.reconcile()
        rollout = rollouts.under_way(read(self.ledger, NAME))
        assert rollout is not None
        steps.advance(self.ledger, rollout, CANARY, DAY)

    def roll_back(self) -> None:
        decisions.rollback(self.ledger, NAME, PERSON, "the soak test goes back")

    def reconcile(self) -> None:
        reconciling.reconcile(NAME, self.ledger, self.endpoint, self.artifacts, self.keys)

    def kill_worker(self, server: Running, chosen: random.Random) -> None:
        """SIGKILL one worker. It is stopped first, so that its connections are known exactly."""
        workers = psutil.Process(server.process.pid).children()
        if not workers:
            return  # the supervisor is just replacing them
        worker = chosen.choice(sorted(workers, key=lambda process: process.pid))
        with contextlib.suppress(psutil.NoSuchProcess):
            worker.suspend()
            while worker.status() != psutil.STATUS_STOPPED:
                time.sleep(0.001)
            ports = frozenset(
                found.raddr.port for found in worker.net_connections("tcp") if found.raddr
            )
            self.kills.append(Kill(time.time(), worker.pid, ports))
            worker.send_signal(signal.SIGKILL)


# -- what must hold -------------------------------------------------------------------------------------------------------------------


class Allowed(msgspec.Struct, frozen=True):
    """A decision, in wall seconds: its bundles may answer from `decided` on until `replaced`, when the endpoint had confirmed the next."""

    bundles: frozenset[str]
    decided: float
    replaced: float


def allowed(entries: Sequence[LedgerEntry]) -> list[Allowed]:
    """What the ledger allowed, decision by decision. A decision that was never confirmed ends with the next one's confirmation."""
    moves = [entry for entry in entries if isinstance(entry, MOVES)]
    confirmed = {
        entry.decision: entry.moment.timestamp()
        for entry in entries
        if isinstance(entry, Confirmation)
    }
    ends: list[float] = []
    end = float("inf")
    for _, after in reversed([*pairwise(moves)]):
        end = confirmed.get(after.serial, end)
        ends.append(end)
    ends = [*reversed(ends), float("inf")]
    found = []
    for move, end in zip(moves, ends, strict=True):
        bundles = frozenset(bundle for bundle, share in desired_state(move).arms if share > 0)
        found.append(Allowed(bundles, move.moment.timestamp(), end))
    return found


def not_allowed(answers: Sequence[Acknowledged], periods: Sequence[Allowed]) -> list[Acknowledged]:
    """Answers of a bundle that the ledger allowed at no moment between request and answer."""
    starts = [period.decided for period in periods]
    wrong = []
    for answer in answers:
        known = periods[: bisect_right(starts, answer.answered)]
        if not any(
            answer.bundle in period.bundles and answer.sent <= period.replaced
            for period in reversed(known)
        ):
            wrong.append(answer)
    return wrong


def excused(failure: Failed, kills: Sequence[Kill]) -> bool:
    """Whether a connection broke because its worker was killed. A port may be used again later, hence the time."""
    return failure.status == 0 and any(
        failure.port in kill.ports and kill.at <= failure.at <= kill.at + 10 for kill in kills
    )


# -- the run --------------------------------------------------------------------------------------------------------------------------


def plan(chosen: random.Random, seconds: float) -> list[tuple[float, str]]:
    """Moments (seconds from the start) and what happens then: in each cycle two releases, two roll-backs, a canary that goes back
    as well, and kills between and within them."""
    cycles = max(1, round(seconds / CYCLE_SECONDS))
    found = []
    for cycle in range(cycles):
        steps = [
            "kill",
            "release",
            "kill",
            "release and kill",
            "kill",
            "rollback",
            "kill",
            "rollback and kill",
            "canary and kill",
            "kill",
            "rollback",
        ]
        if chosen.random() < 0.5:
            steps[1], steps[3] = steps[3], steps[1]
        for index, step in enumerate(steps):
            share = (index + 0.2 + 0.6 * chosen.random()) / len(steps)
            found.append(((cycle + share) * seconds / cycles, step))
    return found


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    options.add_argument("--seconds", type=float, default=600)
    options.add_argument("--seed", type=int, default=None)
    options.add_argument("--workers", type=int, default=2)
    options.add_argument("--connections", type=int, default=8)
    options.add_argument("--json", action="store_true", help="print nothing but one JSON object")
    options.add_argument("--client", nargs=4, help=argparse.SUPPRESS)
    found = options.parse_args()
    if found.client:
        import uvloop

        url, rate, connections, place = found.client
        uvloop.run(client(url, float(rate), int(connections), Path(place)))
        return
    seed = random.SystemRandom().randrange(1 << 31) if found.seed is None else found.seed
    sys.stderr.write(f"seed {seed}\n")
    with tempfile.TemporaryDirectory() as folder:
        summary = soak(Path(folder), found.seconds, seed, found.workers, found.connections)
    sys.stdout.write((json.dumps(summary) if found.json else json.dumps(summary, indent=1)) + "\n")
    if summary["problems"]:
        sys.exit(1)


def soak(
    folder: Path, seconds: float, seed: int, workers: int, connections: int
) -> dict[str, object]:
    """One run; the summary, whose `problems` are what must not have happened."""
    chosen = random.Random(seed)
    platform = Platform(folder, bundles=5)
    platform.release(platform.bundles[0])
    problems: list[str] = []
    with platform.place.server("--workers", str(workers), ready=False) as server:
        platform.reconcile()
        measuring = max(2.0, min(10.0, seconds / 20))
        with load(server, 0, connections, folder / "maximum") as fastest:
            time.sleep(measuring)
        maximum = len(fastest.acknowledged) / (
            fastest.acknowledged[-1].answered - fastest.acknowledged[0].sent
        )
        start = time.monotonic()
        with load(server, maximum / 2, connections, folder / "half") as half:
            for moment, step in plan(chosen, seconds):
                time.sleep(max(0.0, start + moment - time.monotonic()))
                happen(step, platform, server, chosen)
            time.sleep(max(0.0, start + seconds - time.monotonic()))
        platform.reconcile()
        problems += unconverged(platform, server, workers)
        if (status := server.stop()) != 0:
            problems.append(f"the server ended with status {status}")
    answers = [*fastest.acknowledged, *half.acknowledged]
    failures = [*fastest.failed, *half.failed]
    unexcused = [failure for failure in failures if not excused(failure, platform.kills)]
    problems += [f"a request failed: status {each.status}, {each.why}" for each in unexcused[:10]]
    wrong = not_allowed(answers, allowed(read(platform.ledger, NAME)))
    problems += [
        f"prediction {each.id} was answered by bundle {each.bundle}, which the ledger did not allow then"
        for each in wrong[:10]
    ]
    logged = compare_log(platform.place.predictions, answers, len(failures))
    problems += logged.problems
    latencies = sorted(each.answered - each.sent for each in half.acknowledged)
    entries = platform.ledger.entries(NAME)
    return {
        "seed": seed, "seconds": seconds, "workers": workers, "connections": connections, "maximum_a_second": round(maximum),
        "rate_a_second": round(len(half.acknowledged) / seconds), "requests": len(answers) + len(failures), "acknowledged": len(answers),
        "failed": len(unexcused), "failed_of_killed_workers": len(failures) - len(unexcused), "killed_workers": len(platform.kills),
        "moves": dict(Counter(entry.kind for entry in entries)), "bundles": len({each.bundle for each in answers}),
        "logged": logged.records, "logged_unacknowledged": logged.records - len(answers), "missing": logged.missing, "twice": logged.twice,
        "another_bundle_logged": logged.different, "not_allowed": len(wrong), "segments": logged.segments,
        "p50_ms": _ms(latencies, 0.5), "p99_ms": _ms(latencies, 0.99), "problems": problems,
    }  # fmt: skip


def happen(step: str, platform: Platform, server: Running, chosen: random.Random) -> None:
    """One thing of the plan; a kill that goes with another step comes while the endpoint is following it."""
    during = (
        threading.Timer(chosen.uniform(0.0, 0.4), platform.kill_worker, (server, chosen))
        if step.endswith("kill")
        else None
    )
    if during is not None:
        during.start()
    released = released_now(read(platform.ledger, NAME))
    others = [bundle for bundle in platform.bundles if bundle != released]
    if step.startswith("release"):
        platform.release(chosen.choice(others))
    elif step.startswith("canary"):
        platform.begin_canary(chosen.choice(others))
    elif step.startswith("rollback"):
        platform.roll_back()
    platform.reconcile()
    if during is not None:
        during.join()


def unconverged(platform: Platform, server: Running, workers: int) -> list[str]:
    """What the endpoint does not do that it should, some time after everything is over."""
    released = released_now(read(platform.ledger, NAME))
    end = time.monotonic() + 30
    while True:
        actual = platform.endpoint.actual(NAME)
        alive = len(psutil.Process(server.process.pid).children())
        said = []
        if actual is None or actual.bundles != (released,) or actual.error:
            said.append(f"the ledger says bundle {released}, the endpoint says {actual}")
        if alive != workers:
            said.append(f"{alive} workers are alive instead of {workers}")
        if not said or time.monotonic() > end:
            return said
        time.sleep(0.1)


@dataclass(frozen=True)
class Logged:
    records: int
    missing: int
    twice: int
    different: int
    segments: int
    problems: list[str]


def compare_log(folder: Path, answers: Sequence[Acknowledged], failures: int) -> Logged:
    """The prediction log against what was acknowledged, a segment at a time."""
    bundles = {answer.id: answer.bundle for answer in answers}
    seen: Counter[str] = Counter()
    different, altered, records = 0, 0, 0
    paths = segments.segments(folder)
    for path in paths:
        reading = reader.contents(path)
        altered += sum(not damage.torn for damage in reading.damage)
        records += len(reading.records)
        seen.update(record.id for record in reading.records)
        different += sum(
            bundles.get(record.id, record.bundle) != record.bundle for record in reading.records
        )
    missing = sum(answer.id not in seen for answer in answers)
    twice = sum(count > 1 for count in seen.values())
    unknown = len(seen.keys() - bundles.keys())
    said = {
        f"{missing} acknowledged predictions are not in the log": missing,
        f"{twice} predictions are in the log more than once": twice,
        f"{different} predictions are logged with another bundle than answered": different,
        f"{altered} lines of the log are damaged": altered,
        f"{len(answers) - len(bundles)} ids were given out twice": len(answers) - len(bundles),
        # A request that failed may have been logged; nothing else may.
        f"{unknown} predictions are in the log that nobody was answered, but {failures} requests failed": unknown
        > failures,
    }
    return Logged(
        records,
        missing,
        twice,
        different,
        len(paths),
        [words for words, holds in said.items() if holds],
    )


def _ms(sorted_seconds: Sequence[float], share: float) -> float | None:
    return (
        round(sorted_seconds[int(share * (len(sorted_seconds) - 1))] * 1e3, 3)
        if sorted_seconds
        else None
    )


if __name__ == "__main__":
    main()
