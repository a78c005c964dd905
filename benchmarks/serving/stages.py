"""Where the time of one prediction goes: `python -m benchmarks.serving.stages`.

Each stage of a request for one row is timed on its own, in this process, with the task's own rows and a real log; the median of several
rounds. What a request costs beyond their sum is HTTP, routing, the key, the metrics and the kernel: the bare hello of
`benchmarks.serving` shows most of it.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter

import msgspec

from benchmarks.serving.__main__ import CACHE
from benchmarks.serving.task import NAME, prepared
from bundle.features.program import EVENT_TIME
from bundle.manifest import load
from bundle.online_file import unseal
from bundle.records.record import Record
from bundle.records.writer import Writer
from serving.contract.contract import Contract
from serving.options import Options

ROUNDS, CALLS = 9, 1_000


def main() -> int:
    task = prepared(CACHE.absolute() / "task")
    desired = next((task.root / "bundles").glob("[0-9a-f]*"))
    bundle = load(desired, task.public_key.read_bytes())
    content = (task.root / NAME / "online.msgpack").read_bytes()
    online = unseal(content, task.public_key.read_bytes(), NAME)
    contract = Contract(bundle.manifest, Options.row_limit, Options.text_limit)
    bodies = [json.dumps(request).encode() for request in task.requests[:CALLS]]
    rows = [contract.decode(body)[0][0] for body in bodies]
    features = [bundle.row(row, online) for row in rows]
    encode = msgspec.json.Encoder().encode

    def record(index: int) -> Record:
        row = rows[index]
        return Record(
            day=task.requests[index][EVENT_TIME][:10], id=f"{index:032x}", at=datetime.now(UTC), event_time=row[EVENT_TIME], pipeline=NAME,
            bundle=bundle.digest, arm="champion", entity=row[bundle.manifest.entity], request=row, row=features[index], output=0.5,
            online_as_of="2024-01-10", latency_us=50, ood=bundle.outside(features[index]),
        )  # fmt: skip

    records = [record(index) for index in range(CALLS)]
    answers = [{"id": each.id, "prediction": each.output, "bundle": each.bundle, "arm": each.arm, "online_as_of": each.online_as_of, "ood": each.ood} for each in records]  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        log = Writer(Path(folder) / "predictions")
        stages: dict[str, Callable[[int], object]] = {
            "decode and check": lambda index: contract.decode(bodies[index]),
            "features and lookups": lambda index: bundle.row(rows[index], online),
            f"trees ({bundle.model.engine.name})": lambda index: bundle.model.predict_row(
                features[index]
            ),
            "record, with bounds": record,
            "log: encode, CRC, write": lambda index: log.append([records[index]]),
            "encode the answer": lambda index: encode(answers[index]),
        }
        found = timed(stages)
        log.close()
    for name, us in found.items():
        print(f"{name:28}{us:8.1f} µs")
    print(f"{'sum':28}{sum(found.values()):8.1f} µs")
    return 0


def timed(
    stages: dict[str, Callable[[int], object]], indices: Sequence[int] = range(CALLS)
) -> dict[str, float]:
    """Microseconds of a call of each stage, the median over rounds that take the stages in turn; this process keeps to one core."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    rounds: dict[str, list[float]] = {name: [] for name in stages}
    for _ in range(ROUNDS):
        for name, call in stages.items():
            start = perf_counter()
            for index in indices:
                call(index)
            rounds[name].append((perf_counter() - start) / len(indices) * 1e6)
    return {name: statistics.median(each) for name, each in rounds.items()}


if __name__ == "__main__":
    sys.exit(main())
