"""The prediction log: every answered prediction, on disk before its answer.

A segment is a file of lines, each a CRC-32 (8 hexadecimal digits), a blank, one JSON object and a line feed. The object is one
prediction, or the head of a batch of them (`bundle.records.batches`), whose columns follow: as many bytes as the head says, and a
line feed. Readers get the same records of either.

What is guaranteed. A prediction's line is handed to the kernel (`write`) before the answer goes out, so a killed process, SIGKILL
included, loses none that it acknowledged. A power cut or a crash of the kernel can take what was not flushed to the disk yet: the
last `sync_seconds` (0.2 by default). With `sync_seconds` 0 an answer waits until its line is flushed; requests that arrive
meanwhile share the next flush (group commit), and a power cut takes nothing that was acknowledged.

Segments rotate at a size and at an age. A closed one is compressed (Zstandard) and gets a small index beside it (records by event
day), so that a reader of one day opens few of them; both are done beside the writers, and finished after a kill by whoever
opens the log next. Segments go only when `remove` is told so, see `assets.tabular.monitoring.predictions.prune`.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import date, datetime
from pathlib import Path
from typing import NamedTuple
from zlib import crc32

import msgspec
import zstandard

from bundle.files import sync_folder, write_atomically
from bundle.records.batches import Batch, Head, unpacked

SUFFIX, PACKED_SUFFIX, INDEX_SUFFIX = ".log", ".log.zst", ".index"
SEGMENT_BYTES = 8 << 20
SEGMENT_SECONDS = 3600.0
SYNC_SECONDS = 0.2
RESERVE_BYTES = 32 << 20
# Level 1 makes a segment of flights ten times smaller in 25 ms beside the requests; level 6 gains a third for six times as much.
LEVEL = 1
Value = bool | int | float | str | None
Done = Callable[[OSError | None], None]
"""Called once what was appended is flushed to the disk, or with what went wrong; from a thread of the log."""


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """One prediction.

    `day` is the event's local day in the program's time zone (first in the line: readers filter by it unparsed), `at` the
    wall time of the answer, `row` the model's input as used (codes for categories, null for missing), `output` the
    probability, `online_as_of` the day of the online snapshot, `latency_us` the time from decoding to logging, `ood` the features
    that lie out of the range of the training set. Columns that the pipeline keeps out of its log are not in `request`, and the
    features that read them are null in `row`.
    """

    day: str
    id: str
    at: datetime
    event_time: datetime
    pipeline: str
    bundle: str
    arm: str
    entity: Value
    request: Mapping[str, Value | datetime]
    row: Sequence[float | None]
    output: float
    online_as_of: str | None
    latency_us: int
    ood: tuple[str, ...] = ()


class Stored(Record, frozen=True, kw_only=True):
    """A record as read back: datetimes of the request are ISO 8601 text."""

    request: dict[str, Value]
    row: tuple[float | None, ...]


NO_PROBABILITY = "no probability"
"""The failure of a trial whose output is none; other failures are names of exceptions."""


class Trial(msgspec.Struct, frozen=True, kw_only=True):
    """What a bundle on trial made of a request that the champion answered, under the id of that answer.

    `arm` is "shadow", or the name of the challenger that failed to answer. `output` is null where the bundle gave no
    probability, and `failure` says why. `latency_us` is the time of its computation alone, `champion_us` that of the
    champion's for the same row at the same place (null where it was not timed).
    """

    day: str
    id: str
    at: datetime
    event_time: datetime
    pipeline: str
    bundle: str
    arm: str
    entity: Value
    output: float | None
    latency_us: int
    champion: str
    champion_output: float
    champion_us: int | None = None
    failure: str | None = None


class Index(msgspec.Struct, frozen=True):
    """What a closed segment holds: the size of its file, and its records by event day."""

    bytes: int
    days: dict[str, int]


class Damage(msgspec.Struct, frozen=True):
    """A line that is not what was written (its checksum differs). `torn`: the unfinished end of a file, which no answer had
    been given for; anything else was altered later and counts as lost."""

    segment: str
    offset: int
    torn: bool


class Reading(msgspec.Struct, frozen=True):
    """Records of the days asked for, in the order in which they were written, and what could not be read."""

    records: list[Stored]
    damage: list[Damage]
    segments: int


_encode: Callable[[Record | Trial | Head], bytes] = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Stored).decode
_decode_trial = msgspec.json.Decoder(Trial).decode
_decode_head = msgspec.json.Decoder(Head).decode


def line(record: Record | Trial | Head) -> bytes:
    """A record as it lies in a segment. A NaN of the row becomes null."""
    content = _encode(record)
    return b"%08x %b\n" % (crc32(content), content)


class _Closed(NamedTuple):
    """A segment that no more is written to, still open and locked."""

    path: Path
    descriptor: int
    days: Counter[str]


class Writer:
    """Appends records to segments in `folder`; one writer for each process, any number of threads.

    A segment is locked (flock) while it is written, so that others can tell it from one that a killed process left. `full`
    says that less than `reserve_bytes` of the disk are free: callers refuse work before they do it, and what is left goes to
    those who free room. `sync_error` says why the disk could not be flushed.
    """

    def __init__(
        self, folder: Path, *, segment_bytes: int = SEGMENT_BYTES, segment_seconds: float = SEGMENT_SECONDS,
        sync_seconds: float = SYNC_SECONDS, reserve_bytes: int = RESERVE_BYTES,
    ) -> None:  # fmt: skip
        self.folder = folder
        self.sync_error: str | None = None
        self._segment_bytes, self._segment_seconds = segment_bytes, segment_seconds
        self._sync_seconds, self._reserve_bytes = sync_seconds, reserve_bytes
        self._lock = threading.Lock()
        self._descriptor = -1
        self._path = folder
        self._size = 0
        self._opened = 0.0
        self._days: Counter[str] = Counter()
        self._dirty = self._made = False
        self._closed: list[_Closed] = []
        self._waiting: list[Done] = []
        self._name = uuid.uuid4().hex[:12]
        self._number = 0
        self._wake, self._stopping = threading.Event(), False
        folder.mkdir(parents=True, exist_ok=True)
        self.full = self._is_full()
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

        Raises OSError (disk full, say) when not all of them could be written; then none of them is in the log, and the
        next call simply tries again.
        """
        content = (
            line(records[0])
            if len(records) == 1
            else b"".join([line(record) for record in records])
        )
        self._write(content, records, {})

    def append_batches(self, batches: Sequence[Batch]) -> None:
        """`append` for batches."""
        contents: list[bytes] = []
        days: Counter[str] = Counter()
        for batch in batches:
            head, columns = batch.packed()
            contents += [line(head), columns, b"\n"]
            days.update(head.days)
        self._write(b"".join(contents), (), days)

    def _write(
        self, content: bytes, records: Sequence[Record | Trial], days: Mapping[str, int]
    ) -> None:
        with self._lock:
            if self._descriptor < 0 or self._size >= self._segment_bytes:
                self._rotate()
            try:
                written = os.write(self._descriptor, content)
                while written < len(content):
                    written += os.write(self._descriptor, content[written:])
            except OSError:
                self._take_back()
                raise
            self._size += len(content)
            self._dirty = True
            for record in records:
                self._days[record.day] += 1
            for day, count in days.items():
                self._days[day] += count

    def commit(self, done: Done) -> None:
        """Flush now, and call `done` when all that was appended before is on the disk."""
        with self._lock:
            self._waiting.append(done)
        self._wake.set()

    def _take_back(self) -> None:
        """Remove the beginning of records that did not fit."""
        try:
            os.ftruncate(self._descriptor, self._size)
        except OSError:
            # What remains is read as torn where it ends a segment, and nowhere else.
            self._retire()

    def _rotate(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        path, descriptor = self._opened_segment()
        self._retire()
        self._path, self._descriptor, self._size, self._days = path, descriptor, 0, Counter()
        self._made, self._opened = True, time.monotonic()

    def _opened_segment(self) -> tuple[Path, int]:
        """A new segment, locked. Until it is, another process may take it for one that was left, and seal it: then it is another's turn."""
        while True:
            self._number += 1
            # Names sort by time of creation; the process's own part keeps workers apart.
            path = (
                self.folder
                / f"{datetime.now().astimezone().timestamp():017.6f}-{self._name}-{self._number:05d}{SUFFIX}"
            )
            descriptor = os.open(
                path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o640
            )
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if os.fstat(descriptor).st_nlink:
                return path, descriptor
            os.close(descriptor)
            remove(path.with_name(_stem(path) + PACKED_SUFFIX))

    def _retire(self) -> None:
        """Leave the open segment to the log's threads: flushing and compressing it must not hold up a request."""
        if self._descriptor >= 0:
            self._closed.append(_Closed(self._path, self._descriptor, self._days))
            self._descriptor, self._dirty = -1, False
            self._wake.set()

    def _flush(self, last: bool = False) -> None:
        with self._lock:
            if last or time.monotonic() - self._opened >= self._segment_seconds:
                self._retire()
            waiting, self._waiting = self._waiting, []
            closed, self._closed = self._closed, []
            descriptor = os.dup(self._descriptor) if self._dirty else -1
            made, self._made, self._dirty = self._made, False, False
        # Without the lock: writers go on while the disk works.
        error: OSError | None = None
        try:
            for segment in closed:
                os.fdatasync(segment.descriptor)
            if descriptor >= 0:
                os.fdatasync(descriptor)
            if made:
                sync_folder(self.folder)
            self.sync_error = None
        except OSError as failed:
            error = failed
            self.sync_error = f"{self._path.name}: {failed.strerror}"
            with self._lock:
                self._made, self._dirty = made or self._made, self._descriptor >= 0
        finally:
            if descriptor >= 0:
                os.close(descriptor)
        for done in waiting:
            done(error)
        for segment in closed:
            self._packer.submit(self._pack, segment)

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

    def _pack(self, segment: _Closed) -> None:
        try:
            _pack(segment.path, segment.days)
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


def _step_back() -> None:
    """Give way to the requests, whose core compressing would take for milliseconds (Linux: niceness is a thread's own)."""
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 19)


def read(folder: Path | str, first: date, last: date | None = None) -> Reading:
    """Predictions whose event day lies in [first, last] (`last` None: that one day).

    Closed segments without such a day are not opened. A folder that does not exist holds no predictions. Torn ends are
    normal after a kill; `damage` lists them, and lines that were altered.
    """
    records: list[Stored] = []
    damage: list[Damage] = []
    opened = 0
    for path, days in _of_days(Path(folder), first, last or first):
        opened += 1
        for found in _entries(path, days):
            if isinstance(found, Damage):
                damage.append(found)
            else:
                records += _records(found, days)
    return Reading(records, damage, opened)


def read_trials(
    folders: Sequence[Path | str], first: date, last: date | None = None
) -> list[Trial]:
    """Trials whose event day lies in [first, last], in the order in which they were written. They are evidence and no
    answers: damaged lines are left out."""
    return [
        _decode_trial(found)
        for folder in folders
        for path, days in _of_days(Path(folder), first, last or first)
        for found in _entries(path, days)
        if isinstance(found, bytes)
    ]


def _of_days(folder: Path, first: date, last: date) -> Iterator[tuple[Path, tuple[str, str]]]:
    """Segments that may hold records of [first, last], each with these days as text."""
    days = (first.isoformat(), last.isoformat())
    for path in segments(folder):
        index = _index(path)
        if index is None or any(days[0] <= day <= days[1] for day in index.days):
            yield path, days


def days(folder: Path | str) -> dict[date, int]:
    """Number of predictions by event day."""
    counts: Counter[str] = Counter()
    for path in segments(Path(folder)):
        index = _index(path)
        counts.update(index.days if index is not None else _count(path))
    return {date.fromisoformat(day): count for day, count in sorted(counts.items())}


def segments(folder: Path) -> list[Path]:
    """Segments, oldest first."""
    found: dict[str, Path] = {}
    # Where a kill came between compressing and removing, both are there and say the same.
    for suffix in (SUFFIX, PACKED_SUFFIX):
        found.update((_stem(path), path) for path in folder.glob(f"*{suffix}"))
    return [path for _, path in sorted(found.items())]


def closed_before(folder: Path, day: date) -> Iterator[tuple[Path, date, date]]:
    """Closed segments whose predictions are all about events before a day: file, first and last day."""
    for path in segments(folder):
        index = _index(path)
        if (
            path.name.endswith(PACKED_SUFFIX)
            and index is not None
            and index.days
            and max(index.days) < day.isoformat()
        ):
            yield path, date.fromisoformat(min(index.days)), date.fromisoformat(max(index.days))


def contents(path: Path) -> Reading:
    """All predictions of one segment."""
    found = list(_entries(path, _ALL))
    records = [
        record for each in found if not isinstance(each, Damage) for record in _records(each, _ALL)
    ]
    return Reading(records, [each for each in found if isinstance(each, Damage)], 1)


def remove(path: Path) -> None:
    """Take a closed segment out of the log, for good."""
    path.unlink(missing_ok=True)
    path.with_name(_stem(path) + INDEX_SUFFIX).unlink(missing_ok=True)


def seal_abandoned(folder: Path) -> int:
    """Compress and index the segments that killed processes left; returns their number. Raises OSError (disk full, say) with
    every segment as readable as before."""
    sealed = 0
    for path in segments(folder):
        if (
            _index(path) is not None
            and path.name.endswith(PACKED_SUFFIX)
            and not path.with_suffix("").exists()
        ):
            continue
        # Another process may be faster: then the file is gone.
        with contextlib.suppress(FileNotFoundError), open(path, "rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue  # it is being written
            for left in folder.glob(f".{_stem(path)}*"):
                left.unlink(missing_ok=True)
            _pack(path)
            sealed += 1
    return sealed


def _pack(path: Path, days: Mapping[str, int] | None = None) -> None:
    """Replace a closed segment by its compressed form, and index it by `days` (None: count them). A kill at any point leaves it
    readable, and `seal_abandoned` finishes it. Raises OSError."""
    packed = (
        path if path.name.endswith(PACKED_SUFFIX) else path.with_name(_stem(path) + PACKED_SUFFIX)
    )
    if not packed.exists():
        compressor = zstandard.ZstdCompressor(level=LEVEL, write_checksum=True)
        write_atomically(packed, compressor.compress(path.read_bytes()))
    packed.with_suffix("").unlink(missing_ok=True)
    index = Index(packed.stat().st_size, dict(_count(packed) if days is None else days))
    write_atomically(
        packed.with_name(_stem(packed) + INDEX_SUFFIX),
        msgspec.json.encode(index, order="sorted"),
        durable=False,
    )


def _stem(path: Path) -> str:
    return path.name.removesuffix(PACKED_SUFFIX).removesuffix(SUFFIX)


def _index(path: Path) -> Index | None:
    """The index of a closed segment; None where there is none, or where it does not fit the segment any more."""
    try:
        index = msgspec.json.decode(
            path.with_name(_stem(path) + INDEX_SUFFIX).read_bytes(), type=Index
        )
        return index if index.bytes == path.stat().st_size else None
    except (FileNotFoundError, msgspec.DecodeError):
        return None


def _count(path: Path) -> Counter[str]:
    counts: Counter[str] = Counter()
    for found in _entries(path, _ALL):
        if isinstance(found, bytes):
            counts[found[_BODY_DAY].decode()] += 1
        elif not isinstance(found, Damage):
            counts.update(found[0].days)
    return counts


_ALL = ("", "~")
_DAY, _BODY_DAY = (
    slice(17, 27),
    slice(8, 18),
)  # of `00000000 {"day":"2013-01-01",...`, and of its JSON alone
_BATCH = b'{"days":'
Entry = bytes | tuple[Head, bytes]
"""The JSON of a record, or head and columns of a batch."""


def _records(found: Entry, days: tuple[str, str]) -> list[Stored]:
    if isinstance(found, bytes):
        return [_decode(found)]
    return [record for record in unpacked(*found) if days[0] <= record.day <= days[1]]


def _entries(path: Path, days: tuple[str, str]) -> Iterator[Entry | Damage]:
    """Records of these days, and batches with some."""
    try:
        content = _content(path)
    except FileNotFoundError:
        return  # removed meanwhile, hence compacted before
    except zstandard.ZstdError:
        yield Damage(path.name, 0, torn=False)
        return
    first, last = days[0].encode(), days[1].encode()
    end = 0
    while end < len(content):
        start = end
        end = content.find(b"\n", start) + 1 or len(content)
        text = content[start:end]
        body = text[9:-1]
        if text[-1:] != b"\n" or text[:9] != b"%08x " % crc32(body):
            yield Damage(path.name, start, torn=end == len(content))
        elif body.startswith(_BATCH):
            head = _decode_head(body)
            columns = content[end : end + head.bytes]
            end += head.bytes + 1
            # Only at its end is a segment unfinished: then no more is read, since columns may hold what looks like a line.
            if end > len(content):
                yield Damage(path.name, start, torn=True)
            elif crc32(columns) != head.crc:
                yield Damage(path.name, start, torn=False)
            elif any(days[0] <= day <= days[1] for day in head.days):
                yield head, columns
        elif first <= text[_DAY] <= last:
            yield body


def _content(path: Path) -> bytes:
    """The lines of a segment, whichever form it has by now. Raises FileNotFoundError, and ZstdError for an altered file."""
    if path.name.endswith(SUFFIX):
        try:
            return path.read_bytes()
        except FileNotFoundError:
            path = path.with_name(_stem(path) + PACKED_SUFFIX)
    return zstandard.ZstdDecompressor().decompress(path.read_bytes())
