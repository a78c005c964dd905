"""After an I/O error of a flush: what was acknowledged stays, the rest is not acknowledged."""

from __future__ import annotations

import os
import stat
import threading
from collections import Counter
from pathlib import Path

import pytest

from bundle.records import reader, segments
from bundle.records.writer import Writer
from tests.bundle.records.test_bundle_logs import DAY, record


class Disk:
    """The system calls that flush. They fail for the files that `broken` names by inode."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.broken: set[int] = set()
        self.calls: Counter[int] = Counter()
        for name in ("fdatasync", "fsync"):
            monkeypatch.setattr(os, name, self._failing(getattr(os, name)))

    def _failing(self, real):
        def flush(descriptor: int) -> None:
            status = os.fstat(descriptor)
            if stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode):
                self.calls[status.st_ino] += 1
            if status.st_ino in self.broken:
                raise OSError(5, "Input/output error")
            real(descriptor)

        return flush


class Told:
    """What a commit is told."""

    def __init__(self) -> None:
        self.error: OSError | None = None
        self._told = threading.Event()

    def __call__(self, error: OSError | None) -> None:
        self.error = error
        self._told.set()

    def wait(self) -> OSError | None:
        assert self._told.wait(20), "nothing was told"
        return self.error


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


def committed(writer: Writer, number: int) -> OSError | None:
    """Log a record and wait for the disk; what went wrong."""
    failures = writer.failures
    writer.append([record(number)])
    told = Told()
    writer.commit(told, failures)
    return told.wait()


def test_a_segment_is_retired_after_its_flush_failed_and_never_flushed_again(
    tmp_path: Path, disk: Disk
) -> None:
    writer = Writer(tmp_path, sync_seconds=0)
    assert committed(writer, 1) is None
    [first] = segments.segments(tmp_path)
    inode = first.stat().st_ino
    # Once it is compressed, its inode must not become another file's.
    held = first.open("rb")

    disk.broken.add(inode)
    error = committed(writer, 2)
    assert error is not None
    assert "Input/output error" in str(error)
    assert first.name in str(writer.sync_error)

    # A second flush of that segment would succeed although the kernel dropped its pages.
    disk.broken.clear()
    flushed = disk.calls[inode]
    assert committed(writer, 3) is None
    assert disk.calls[inode] == flushed
    assert writer.sync_error is None
    assert writer.failures == 1
    writer.close()

    assert disk.calls[inode] == flushed
    held.close()
    ids = {path.name: reader.contents(path).records for path in segments.segments(tmp_path)}
    assert [[found.id for found in records] for records in ids.values()] == [
        ["000001", "000002"],
        ["000003"],
    ]


def test_what_was_appended_before_a_failed_flush_is_not_acknowledged_after_it(
    tmp_path: Path, disk: Disk
) -> None:
    writer = Writer(tmp_path, sync_seconds=0)
    assert committed(writer, 1) is None
    [first] = segments.segments(tmp_path)

    # Two requests log; the flush for the first fails before the second asks for its own.
    failures = writer.failures
    writer.append([record(2)])
    writer.append([record(3)])
    disk.broken.add(first.stat().st_ino)
    early, late = Told(), Told()
    writer.commit(early, failures)
    assert early.wait() is not None

    disk.broken.clear()
    writer.commit(late, failures)
    assert late.wait() is not None
    assert committed(writer, 4) is None
    writer.close()


def test_a_rotated_segment_whose_flush_failed_is_not_flushed_again(
    tmp_path: Path, disk: Disk
) -> None:
    writer = Writer(tmp_path, segment_bytes=1, sync_seconds=0)
    assert committed(writer, 1) is None
    [first] = segments.segments(tmp_path)

    disk.broken.add(tmp_path.stat().st_ino)
    assert committed(writer, 2) is not None
    disk.broken.clear()
    assert committed(writer, 3) is None
    writer.close()

    found = reader.read(tmp_path, DAY)
    assert {"000001", "000003"} <= {each.id for each in found.records}
    assert found.damage == []
    assert first.name.removesuffix(".log") in {
        path.name.split(".log")[0] for path in segments.segments(tmp_path)
    }


def test_answers_that_do_not_wait_for_the_disk_go_to_a_new_segment_after_an_error(
    tmp_path: Path, disk: Disk
) -> None:
    writer = Writer(tmp_path, sync_seconds=0.01)
    writer.append([record(1)])
    [first] = segments.segments(tmp_path)
    disk.broken.add(first.stat().st_ino)
    writer.append([record(2)])
    told = Told()
    writer.commit(told)
    told.wait()

    disk.broken.clear()
    assert committed(writer, 3) is None
    writer.close()

    assert writer.failures == 1
    newest = segments.segments(tmp_path)[-1]
    assert newest.name.split(".log")[0] != first.name.removesuffix(".log")
    assert [found.id for found in reader.contents(newest).records] == ["000003"]
    assert {found.id for found in reader.read(tmp_path, DAY).records} == {
        "000001",
        "000002",
        "000003",
    }
