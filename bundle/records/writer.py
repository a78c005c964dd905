"""Writing the log: every answered prediction, on disk before its answer.

What is guaranteed. A prediction's line is handed to the kernel (`write`) before the answer goes
out, so a killed process, SIGKILL included, loses none that it acknowledged. A power cut or a crash
of the kernel can take what was not flushed to the disk yet: the last `sync_seconds` (0.2 by
default). With `sync_seconds` 0 an answer waits until its line is flushed; requests that arrive
meanwhile share the next flush (group commit), and a power cut takes nothing that was acknowledged.

After a flush has failed, the kernel may have dropped what it could not write, and a second flush
would succeed without it. A segment whose flush failed is therefore never flushed again: it is
retired, what waited for the flush is told the error, and the next records go to a new segment.

Segments rotate at a size and at an age. They are compressed beside the writers
(`bundle.records.segments`), and go only when `remove` is called.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from bundle.files import sync_folder
from bundle.records.batches import Batch
from bundle.records.record import Record, Trial
from bundle.records.segments import PACKED_SUFFIX, SUFFIX, line, pack, remove, seal_abandoned, stem

SEGMENT_BYTES = 8 << 20
SEGMENT_SECONDS = 3600.0
SYNC_SECONDS = 0.2
RESERVE_BYTES = 32 << 20

Done = Callable[[OSError | None], None]
"""Called from a thread of the log: what was appended is on the disk, or what went wrong."""


@dataclass
class _Segment:
    """A segment of this process, locked until it is compressed.

    `dirty`: something was written since the last flush. `failed`: a flush failed, none may follow.
    """

    path: Path
    descriptor: int
    opened: float = field(default_factory=time.monotonic)
    size: int = 0
    days: Counter[str] = field(default_factory=Counter)
    dirty: bool = False
    failed: bool = False


class Writer:
    """Appends records to segments in `folder`; one writer for each process, any number of threads.

    A segment is locked (flock) while it is written, so that others can tell it from one that a
    killed process left. `full` says that less than `reserve_bytes` of the disk are free: callers
    refuse work before they do it, and what is left goes to those who free room. `sync_error` says
    why the disk could not be flushed last, `failures` counts how often that was.
    """

    def __init__(
        self,
        folder: Path,
        *,
        segment_bytes: int = SEGMENT_BYTES,
        segment_seconds: float = SEGMENT_SECONDS,
        sync_seconds: float = SYNC_SECONDS,
        reserve_bytes: int = RESERVE_BYTES,
    ) -> None:
        self.folder = folder
        self.sync_error: str | None = None
        self.failures = 0
        self._segment_bytes, self._segment_seconds = segment_bytes, segment_seconds
        self._sync_seconds, self._reserve_bytes = sync_seconds, reserve_bytes

        self._lock = threading.Lock()
        self._open: _Segment | None = None
        self._closed: list[_Segment] = []
        self._made = False
        self._waiting: list[Done] = []
        self._name = uuid.uuid4().hex[:12]
        self._number = 0

        folder.mkdir(parents=True, exist_ok=True)
        self.full = self._is_full()
        self._wake, self._stopping = threading.Event(), False
        self._packer = ThreadPoolExecutor(
            1, thread_name_prefix="prediction log", initializer=_step_back
        )
        self._packer.submit(self._seal_abandoned)
        self._thread = threading.Thread(
            target=self._keep_syncing, name="prediction log", daemon=True
        )
        self._thread.start()

    @property
    def commits_each(self) -> bool:
        """Whether an answer must wait for `commit`."""
        return self._sync_seconds == 0

    def append(self, records: Sequence[Record | Trial]) -> None:
        """Write records. When this returns, they survive a kill of this process.

        Raises OSError (disk full, say) when not all of them could be written; then none of them is
        in the log, and the next call simply tries again.
        """
        one = len(records) == 1
        content = line(records[0]) if one else b"".join([line(record) for record in records])
        days: dict[str, int] = {}
        for record in records:
            days[record.day] = days.get(record.day, 0) + 1
        self._write(content, days)

    def append_batches(self, batches: Sequence[Batch]) -> None:
        """`append` for batches."""
        contents: list[bytes] = []
        days: Counter[str] = Counter()
        for batch in batches:
            head, columns = batch.packed()
            contents += [line(head), columns, b"\n"]
            days.update(head.days)
        self._write(b"".join(contents), days)

    def _write(self, content: bytes, days: Mapping[str, int]) -> None:
        with self._lock:
            segment = self._open
            if segment is None or segment.size >= self._segment_bytes:
                segment = self._rotate()

            try:
                written = os.write(segment.descriptor, content)
                while written < len(content):
                    written += os.write(segment.descriptor, content[written:])
            except OSError:
                self._take_back(segment)
                raise

            segment.size += len(content)
            segment.dirty = True
            for day, count in days.items():
                segment.days[day] += count

    def commit(self, done: Done, since: int | None = None) -> None:
        """Flush now, and call `done` when all that was appended before is on the disk.

        `since` is `failures` as it was before the records were appended (None: as it is now). Where
        a flush failed after that, the records may be in the segment that it failed for, and `done`
        gets an error.
        """
        with self._lock:
            failed = since is not None and since != self.failures
            if not failed:
                self._waiting.append(done)
        if failed:
            done(OSError(f"a flush of {self.folder} failed: {self.sync_error}"))
        else:
            self._wake.set()

    def _take_back(self, segment: _Segment) -> None:
        """Remove the beginning of records that did not fit."""
        try:
            os.ftruncate(segment.descriptor, segment.size)
        except OSError:
            # What remains is read as torn where it ends a segment, and nowhere else.
            self._retire()

    def _rotate(self) -> _Segment:
        self.folder.mkdir(parents=True, exist_ok=True)
        segment = self._new_segment()
        self._retire()
        self._open, self._made = segment, True
        return segment

    def _new_segment(self) -> _Segment:
        """A new segment, locked.

        Until it is locked, another process may take it for one that was left, and seal it: then it
        is the turn of another.
        """
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC
        while True:
            self._number += 1
            # Names sort by time of creation; the process's own part keeps workers apart.
            moment = datetime.now().astimezone().timestamp()
            name = f"{moment:017.6f}-{self._name}-{self._number:05d}{SUFFIX}"
            path = self.folder / name

            descriptor = os.open(path, flags, 0o640)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if os.fstat(descriptor).st_nlink:
                return _Segment(path, descriptor)

            os.close(descriptor)
            remove(path.with_name(stem(path) + PACKED_SUFFIX))

    def _retire(self) -> None:
        """Leave the open segment to the log's threads, which flush and compress it."""
        if self._open is not None:
            self._closed.append(self._open)
            self._open = None
            self._wake.set()

    def _flush(self, last: bool = False) -> None:
        with self._lock:
            opened = self._open
            if opened and (last or time.monotonic() - opened.opened >= self._segment_seconds):
                self._retire()
            waiting, self._waiting = self._waiting, []
            closed, self._closed = self._closed, []
            present = [*closed, self._open] if self._open else closed
            unflushed = [each for each in present if each.dirty and not each.failed]
            for segment in unflushed:
                segment.dirty = False
            made, self._made = self._made, False

        # Without the lock: writers go on while the disk works.
        error = _synced(unflushed)
        if made:
            error = _synced_folder(self.folder, present) or error
        if error is not None:
            waiting += self._give_up(error)
        elif unflushed:
            self.sync_error = None

        for done in waiting:
            done(error)
        for segment in closed:
            self._packer.submit(self._pack, segment)

    def _give_up(self, error: OSError) -> list[Done]:
        """After a failed flush: no more goes to a segment that it failed for.

        Returns what came to wait meanwhile: it may wait for that segment, too.
        """
        with self._lock:
            self.failures += 1
            self.sync_error = f"{error.filename}: {error.strerror}"
            if self._open is not None and self._open.failed:
                self._retire()
            waiting, self._waiting = self._waiting, []
        return waiting

    def _keep_syncing(self) -> None:
        while not self._stopping:
            self._wake.wait(self._sync_seconds or SYNC_SECONDS)
            self._wake.clear()
            self._flush()
            self.full = self._is_full()
        self._flush(last=True)

    def _is_full(self) -> bool:
        try:
            disk = os.statvfs(self.folder)
        except OSError:
            return False  # writing will say what is wrong
        # Some file systems do not tell their size.
        return disk.f_blocks > 0 and disk.f_bavail * disk.f_frsize < self._reserve_bytes

    def _pack(self, segment: _Segment) -> None:
        try:
            pack(segment.path, segment.days)
        except OSError as error:
            # The segment stays as it is; whoever opens the log next tries again.
            self.sync_error = f"{segment.path.name} cannot be compressed: {error.strerror}"
        finally:
            os.close(segment.descriptor)

    def _seal_abandoned(self) -> None:
        try:
            seal_abandoned(self.folder)
        except OSError as error:
            self.sync_error = f"older segments cannot be compressed: {error.strerror}"

    def close(self) -> None:
        """Flush and compress the open segment."""
        self._stopping = True
        self._wake.set()
        self._thread.join()
        self._packer.shutdown()


def _synced(segments: Sequence[_Segment]) -> OSError | None:
    """Flush segments; those whose lines may not be on the disk are marked. What went wrong."""
    error: OSError | None = None
    for segment in segments:
        try:
            os.fdatasync(segment.descriptor)
        except OSError as failed:
            segment.failed = True
            error = OSError(failed.errno, failed.strerror, segment.path.name)
    return error


def _synced_folder(folder: Path, segments: Sequence[_Segment]) -> OSError | None:
    """Flush the names of segments; where that fails, all are marked. What went wrong."""
    try:
        sync_folder(folder)
    except OSError as failed:
        for segment in segments:
            segment.failed = True
        return OSError(failed.errno, failed.strerror, folder.name)
    return None


def _step_back() -> None:
    """Give way to the requests, whose core compressing would take for milliseconds.

    On Linux niceness is a thread's own.
    """
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 19)
