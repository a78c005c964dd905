"""The prediction log and the service samples: what is written is read, whatever was cut off."""

from __future__ import annotations

import fcntl
import math
import os
import threading
import time
import zlib
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import zstandard
from hypothesis import given, settings, strategies as st

from bundle.features.columns import column
from bundle.records import reader, segments, service
from bundle.records.batches import Batch
from bundle.records.record import Record, Stored
from bundle.records.writer import Writer

DAY = date(2024, 1, 10)


def record(number: int, day: date = DAY, **changes: object) -> Record:
    moment = datetime(day.year, day.month, day.day, 12, tzinfo=UTC)
    found = {
        "day": day.isoformat(), "id": f"{number:06d}", "at": moment, "event_time": moment, "pipeline": "toy", "bundle": "b" * 64, "arm": "champion",
        "entity": f"e{number}", "request": {"x": 1.5, "t": moment, "text": "a\nb\rc\u2028é"}, "row": [1.0, float("nan"), 3.5], "output": 0.25,
        "online_as_of": None, "latency_us": 10,
    }  # fmt: skip
    return Record(**{**found, **changes})  # type: ignore[arg-type]


COLUMNS: dict[str, tuple[Any, list[Any]]] = {
    "e": ("string", ["e1", None, "e\n00000000 {}\n", "é"]), "t": ("datetime", [datetime(2024, 1, 10, 12, n, 0, n, tzinfo=UTC) for n in range(4)]),
    "x": ("float", [1.5, None, -0.0, 1e300]), "i": ("integer", [1, 2**62, -5, 0]), "n": ("integer", [None, None, 7, 300]),
    "b": ("boolean", [True, False, None, True]), "u": ("datetime", [None, datetime(1900, 1, 1, tzinfo=UTC), None, datetime(2199, 12, 31, 5, 6, 7, tzinfo=UTC)]),
    "secret": ("string", ["hidden"] * 4),
}  # fmt: skip


def batch(first: int, days: tuple[int, ...] = (0, 0, 1, 0)) -> Batch:
    """Four predictions, about events on days after `DAY`."""
    # The last feature is a column of the request, the first is not although it might be.
    matrix = np.array(
        [[1.0, math.nan, 1.0], [0.1, 2.0, 2.0**62], [math.nan, math.nan, -5.0], [4.0, 5.0, 0.0]],
        dtype=np.float32,
    )
    return Batch(
        prefix="p", numbers=np.arange(first, first + 4), at=datetime(2024, 1, 10, 12, tzinfo=UTC), pipeline="toy", bundle="b" * 64, arm="champion", caller="a1b2c3d4e5f6",
        entity="e", event_time="t", days=np.array(days) + (DAY - date(1970, 1, 1)).days,
        columns={name: column(kind, values) for name, (kind, values) in COLUMNS.items()}, request=[name for name in COLUMNS if name != "secret"],
        matrix=matrix, withheld=[False, True, False], same={0: "x", 2: "i"}, outputs=np.array([0.25, 0.5, 0.0, 1.0]), online_as_of=None, latency_us=10,
        ood={1: ("a",), 3: ("a", "b")},
    )  # fmt: skip


def one_by_one(found: Batch) -> list[Stored]:
    """The same predictions, as they come back when each is logged as a record."""
    rows = [
        [None if index == 1 else value for index, value in enumerate(row)]
        for row in found.matrix.tolist()
    ]
    requests = [{name: COLUMNS[name][1][place] for name in found.request} for place in range(4)]
    records = [
        Record(
            day=(date(1970, 1, 1) + timedelta(days=int(found.days[place]))).isoformat(), id=f"p{int(found.numbers[place]):012x}", at=found.at,
            event_time=requests[place]["t"], pipeline="toy", bundle="b" * 64, arm="champion", caller="a1b2c3d4e5f6", entity=requests[place]["e"], request=requests[place],
            row=rows[place], output=float(found.outputs[place]), online_as_of=None, latency_us=10, ood=found.ood.get(place, ()),
        )
        for place in range(4)
    ]  # fmt: skip
    return [msgspec.json.decode(msgspec.json.encode(each), type=Stored) for each in records]


class Killed(BaseException):
    """The end of a process, as far as one can have it within a test."""


def until(condition: Callable[[], bool], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_records_come_back_as_written_and_days_are_kept_apart(tmp_path: Path) -> None:
    writer = Writer(tmp_path, segment_bytes=3000)
    for number in range(60):
        writer.append([record(number, DAY + timedelta(days=number // 20))])
    writer.append([record(100), record(101)])
    writer.close()
    reading = reader.read(tmp_path, DAY)
    assert [found.id for found in reading.records] == [
        *(f"{n:06d}" for n in range(20)),
        "000100",
        "000101",
    ]
    assert reading.damage == []
    first = reading.records[0]
    assert first.row == (1.0, None, 3.5)
    assert first.request == {"x": 1.5, "t": "2024-01-10T12:00:00Z", "text": "a\nb\rc\u2028é"}
    everything = reader.read(tmp_path, DAY, DAY + timedelta(days=2))
    assert len(everything.records) == 62
    assert reading.segments < everything.segments == len(segments.segments(tmp_path))
    assert reader.days(tmp_path) == {
        DAY: 22,
        DAY + timedelta(days=1): 20,
        DAY + timedelta(days=2): 20,
    }
    assert reader.read(tmp_path / "nowhere", DAY).records == []


def test_a_batch_comes_back_as_the_same_records_that_lines_give(tmp_path: Path) -> None:
    writer = Writer(tmp_path, segment_bytes=6_000)
    writer.append([record(0)])
    for first in range(0, 40, 8):
        writer.append_batches([batch(first), batch(first + 4, (2, 2, 2, 2))])
    writer.append([record(1)])
    expected = [
        each
        for first in range(0, 40, 8)
        for each in (*one_by_one(batch(first)), *one_by_one(batch(first + 4, (2, 2, 2, 2))))
    ]
    for closed in (False, True):
        if closed:
            writer.close()
        reading = reader.read(tmp_path, DAY, DAY + timedelta(days=2))
        assert reading.records[1:-1] == expected
        assert reading.damage == []
        assert [found.id for found in reader.read(tmp_path, DAY + timedelta(days=1)).records] == [
            f"p{n:012x}" for n in range(2, 40, 8)
        ]
        assert reader.days(tmp_path) == {
            DAY: 17,
            DAY + timedelta(days=1): 5,
            DAY + timedelta(days=2): 20,
        }
    assert len(segments.segments(tmp_path)) > 1
    assert sum(len(reader.contents(path).records) for path in segments.segments(tmp_path)) == 42
    assert b"hidden" not in b"".join(segments.lines(path) for path in segments.segments(tmp_path))


@settings(max_examples=60, deadline=None)
@given(cut=st.integers(0, 9000), altered=st.integers(0, 9000))
def test_a_torn_or_altered_batch_is_lost_alone(
    tmp_path_factory: pytest.TempPathFactory, cut: int, altered: int
) -> None:
    folder = tmp_path_factory.mktemp("log")
    writer = Writer(folder)
    writer.append_batches([batch(0)])
    writer.append([record(1)])
    writer.append_batches([batch(4)])
    [path] = segments.segments(folder)
    content = path.read_bytes()
    path.write_bytes(content[: max(0, len(content) - cut)])
    ends = [content.index(b"%08x" % zlib.crc32(segments.line(record(1))[9:-1])), 0, len(content)]
    ends[1] = ends[0] + len(segments.line(record(1)))
    kept = [[f"p{n:012x}" for n in range(4)], ["000001"], [f"p{n:012x}" for n in range(4, 8)]]
    whole = sum(end <= len(content) - cut for end in ends)
    reading = reader.read(folder, DAY, DAY + timedelta(days=1))
    assert [found.id for found in reading.records] == [each for ids in kept[:whole] for each in ids]
    assert [found.torn for found in reading.damage] == [True] * (
        len(content) - cut > 0 and len(content) - cut not in ends
    )
    # A changed byte costs the entry that it is in, and nothing else is made of it.
    place = altered % len(content)
    path.write_bytes(content[:place] + bytes([content[place] ^ 0x55]) + content[place + 1 :])
    reading = reader.read(folder, DAY, DAY + timedelta(days=1))
    lost = next(number for number, end in enumerate(ends) if place < end)
    found = [each.id for each in reading.records]
    left = [each for number, ids in enumerate(kept) if number != lost for each in ids]
    # The line feed behind a batch says nothing.
    assert found == left or (place + 1 in ends and len(found) == 9)
    writer.close()


def test_a_segment_that_another_process_seals_before_it_is_locked_takes_no_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = Writer(tmp_path)
    lock, early = fcntl.flock, [True, True]

    def flock(file: int, how: int) -> None:
        if how == fcntl.LOCK_EX and early and early.pop():
            # A worker that starts looks for what killed ones left.
            segments.seal_abandoned(tmp_path)
        lock(file, how)

    monkeypatch.setattr(segments.fcntl, "flock", flock)
    writer.append([record(1)])
    writer.close()
    assert not early
    assert [found.id for found in reader.read(tmp_path, DAY).records] == ["000001"]


@settings(max_examples=60, deadline=None)
@given(cut=st.integers(0, 2000))
def test_a_torn_tail_costs_the_last_record_alone(
    tmp_path_factory: pytest.TempPathFactory, cut: int
) -> None:
    folder = tmp_path_factory.mktemp("log")
    content = b"".join(segments.line(record(number)) for number in range(5))
    kept = content[: max(0, len(content) - cut)]
    (folder / "1-x-1.log").write_bytes(kept)
    reading = reader.read(folder, DAY)
    whole = kept.count(b"\n")
    assert [found.id for found in reading.records] == [f"{number:06d}" for number in range(whole)]
    assert [found.torn for found in reading.damage] == (
        [] if kept.endswith(b"\n") or not kept else [True]
    )


def test_altered_lines_are_told_and_the_others_read(tmp_path: Path) -> None:
    lines = [segments.line(record(number)) for number in range(5)]
    lines[2] = lines[2].replace(b'"output":0.25', b'"output":0.99')
    (tmp_path / "1-x-1.log").write_bytes(b"".join(lines))
    reading = reader.read(tmp_path, DAY)
    assert [found.id for found in reading.records] == ["000000", "000001", "000003", "000004"]
    assert [(found.segment, found.torn) for found in reading.damage] == [("1-x-1.log", False)]


def test_segments_of_killed_processes_are_sealed_and_those_being_written_are_not(
    tmp_path: Path,
) -> None:
    (tmp_path / "1-x-1.log").write_bytes(segments.line(record(1)) + b"0000")
    writer = Writer(tmp_path)
    writer.append([record(2)])
    until(lambda: (tmp_path / "1-x-1.index").exists())
    assert (tmp_path / "1-x-1.log.zst").exists()
    assert not (tmp_path / "1-x-1.log").exists()
    assert segments.seal_abandoned(tmp_path) == 0
    reading = reader.read(tmp_path, DAY)
    assert [found.id for found in reading.records] == ["000001", "000002"]
    assert [found.torn for found in reading.damage] == [True]
    writer.close()
    # An index that does not fit its segment is not believed.
    (tmp_path / "1-x-1.log.zst").write_bytes(
        zstandard.compress(segments.line(record(3, DAY + timedelta(days=5))))
    )
    assert [found.id for found in reader.read(tmp_path, DAY + timedelta(days=5)).records] == [
        "000003"
    ]
    (tmp_path / "1-x-1.log.zst").write_bytes(b"altered")
    reading = reader.read(tmp_path, DAY)
    assert [found.id for found in reading.records] == ["000002"]
    assert [(found.segment, found.torn) for found in reading.damage] == [("1-x-1.log.zst", False)]


@pytest.mark.parametrize("killed_at", range(5))
def test_compressing_may_be_killed_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed_at: int
) -> None:
    (tmp_path / "1-x-1.log").write_bytes(
        b"".join(segments.line(record(number)) for number in range(5))
    )
    steps = iter(range(100))
    for owner, name in ((os, "replace"), (os, "fsync"), (Path, "unlink")):
        real = getattr(owner, name)

        def step(*args: object, real: Callable[..., object] = real, **options: object) -> object:
            if next(steps) >= killed_at:
                raise Killed
            return real(*args, **options)

        monkeypatch.setattr(owner, name, step)
    with pytest.raises(Killed):
        segments.seal_abandoned(tmp_path)
    monkeypatch.undo()
    ids = [f"{number:06d}" for number in range(5)]
    assert [found.id for found in reader.read(tmp_path, DAY).records] == ids
    segments.seal_abandoned(tmp_path)
    assert [found.id for found in reader.read(tmp_path, DAY).records] == ids
    assert {path.name for path in tmp_path.glob("*1-x-1*")} == {"1-x-1.log.zst", "1-x-1.index"}
    assert reader.read(tmp_path, DAY + timedelta(days=1)).segments == 0


def test_old_segments_go_by_age_of_their_predictions(tmp_path: Path) -> None:
    for offset in (0, 1, 5):
        writer = Writer(tmp_path)
        writer.append([record(offset, DAY + timedelta(days=offset)), record(10 + offset, DAY)])
        writer.close()
    writer = Writer(tmp_path)
    writer.append([record(20)])
    old = list(segments.closed_before(tmp_path, DAY + timedelta(days=2)))
    assert [(first, last) for _, first, last in old] == [(DAY, DAY), (DAY, DAY + timedelta(days=1))]
    assert [found.id for found in reader.contents(old[1][0]).records] == ["000001", "000011"]
    for path, _, _ in old:
        segments.remove(path)
    assert {found.id for found in reader.read(tmp_path, DAY, DAY + timedelta(days=9)).records} == {
        "000005",
        "000015",
        "000020",
    }
    assert len(list(tmp_path.glob("*.index"))) == 1
    writer.close()


def test_a_segment_is_closed_when_it_is_old_enough(tmp_path: Path) -> None:
    writer = Writer(tmp_path, segment_seconds=0.05, sync_seconds=0.01)
    writer.append([record(1)])
    until(lambda: len(list(tmp_path.glob("*.index"))) == 1)
    writer.append([record(2)])
    writer.close()
    assert [found.id for found in reader.read(tmp_path, DAY).records] == ["000001", "000002"]
    assert len(segments.segments(tmp_path)) == 2


def test_a_commit_is_told_after_the_flush_and_shared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed: list[int] = []
    real = os.fdatasync

    def slow(descriptor: int) -> None:
        size = os.fstat(descriptor).st_size
        time.sleep(0.02)
        real(descriptor)
        flushed.append(size)

    monkeypatch.setattr(os, "fdatasync", slow)
    writer = Writer(tmp_path, sync_seconds=0)
    assert writer.commits_each
    told: list[tuple[int, int]] = []
    size = 0
    for number in range(50):
        writer.append([record(number)])
        size += len(segments.line(record(number)))
        writer.commit(
            lambda error, size=size: told.append(
                (size, max(flushed)) if error is None else (size, -1)
            )
        )  # type: ignore[misc]
        time.sleep(0.002)
    until(lambda: len(told) == 50)
    assert all(on_disk >= size for size, on_disk in told)
    assert len(flushed) < 30
    monkeypatch.setattr(os, "fdatasync", _fails)
    writer.append([record(99)])
    writer.commit(lambda error: told.append((0, -1 if error else 0)))
    until(lambda: told[-1] == (0, -1))
    assert "Input/output error" in str(writer.sync_error)
    monkeypatch.undo()
    writer.append([record(100)])
    until(lambda: writer.sync_error is None)
    writer.close()


def test_what_could_not_be_written_wholly_is_taken_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = Writer(tmp_path)
    writer.append([record(1)])
    whole = os.write

    def half(descriptor: int, content: bytes) -> int:
        if len(content) < 100:
            raise OSError(28, "No space left on device")
        return whole(descriptor, content[: len(content) - 50])

    monkeypatch.setattr(os, "write", half)
    for attempt in range(3):
        with pytest.raises(OSError, match="No space"):
            writer.append([record(10 + attempt)])
    monkeypatch.setattr(os, "ftruncate", _fails)
    with pytest.raises(OSError, match="No space"):
        writer.append([record(20)])
    monkeypatch.undo()
    writer.append([record(2)])
    writer.close()
    reading = reader.read(tmp_path, DAY)
    assert [found.id for found in reading.records] == ["000001", "000002"]
    assert len(reading.damage) == 1


def _fails(*_: object) -> None:
    raise OSError(5, "Input/output error")


def test_many_threads_write_whole_lines(tmp_path: Path) -> None:
    writer = Writer(tmp_path, segment_bytes=20_000)
    threads = [
        threading.Thread(
            target=lambda base=base: [writer.append([record(base + n)]) for n in range(200)]
        )
        for base in range(0, 1600, 200)
    ]  # type: ignore[misc]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    writer.close()
    reading = reader.read(tmp_path, DAY)
    assert sorted(found.id for found in reading.records) == [f"{n:06d}" for n in range(1600)]
    assert reading.damage == []


def test_samples_add_up(tmp_path: Path) -> None:
    moment = datetime(2024, 1, 10, 23, 59, 50, tzinfo=UTC)
    for number in range(4):
        latency = {str(service.bucket(0.001)): 98, str(service.bucket(0.5)): 2}
        traffic = service.Traffic(
            {"200": 100, "422": 3, "503": 1},
            100,
            latency,
            0.5 + number,
            "b" * 64,
            number,
            "2024-01-10",
        )
        service.append(
            tmp_path,
            service.Sample(
                moment + timedelta(seconds=10 * number),
                10.0,
                f"w{number % 2}",
                1,
                0.5,
                10,
                {"toy": traffic},
            ),
        )
    with open(next(tmp_path.glob("*.jsonl")), "ab") as file:
        file.write(b'{"at": "2024-')
    samples = service.read(tmp_path, moment, moment + timedelta(minutes=1))
    assert len(samples) == 3
    total = service.combined(samples, "toy")
    assert (
        total.requests,
        total.errors("4"),
        total.errors("5"),
        total.serial,
        total.latency_max,
    ) == (312, 9, 3, 3, 3.5)
    assert service.percentile(total.latency, 0.5) == pytest.approx(0.001, rel=0.15)
    assert service.percentile(total.latency, 0.999) == pytest.approx(0.5, rel=0.15)
    assert service.percentile({}, 0.5) is None
    assert service.combined(samples, "other").requests == 0
