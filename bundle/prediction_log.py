"""The prediction log: every answered prediction, on disk before its answer.

A segment is a file of lines, each a CRC-32 (8 hexadecimal digits), a blank, one JSON object and a line feed. Records are
written before the answer goes out, so a killed process loses none that it acknowledged; they are flushed to the disk
within `SYNC_SECONDS`, which bounds what a power cut can take. Segments rotate at a size; a closed one gets a small index
beside it (records by event day), so that a reader of one day opens few of them.
"""

from __future__ import annotations

import fcntl
import os
import threading
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import date, datetime
from pathlib import Path
from zlib import crc32

import msgspec

from bundle.files import write_atomically

SUFFIX, INDEX_SUFFIX = ".log", ".index"
SEGMENT_BYTES = 8 << 20
SYNC_SECONDS = 0.2
Value = bool | int | float | str | None


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """One prediction.

    `day` is the event's local day in the program's time zone (first in the line: readers filter by it unparsed), `at` the
    wall time of the answer, `row` the model's input as used (codes for categories, null for missing), `output` the
    probability, `online_as_of` the day of the online snapshot, `latency_us` the time from decoding to logging, `ood` the features
    that lie out of the range of the training set.
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


class Index(msgspec.Struct, frozen=True):
    """What a closed segment holds: its size, and its records by event day."""

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


_encode: Callable[[Record], bytes] = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Stored).decode


def line(record: Record) -> bytes:
    """A record as it lies in a segment. A NaN of the row becomes null."""
    content = _encode(record)
    return b"%08x %b\n" % (crc32(content), content)


class Writer:
    """Appends records to segments in `folder`; one writer for each process, any number of threads.

    A segment is locked (flock) while it is written, so that others can tell it from one that a killed process left.
    """

    def __init__(self, folder: Path, *, segment_bytes: int = SEGMENT_BYTES, sync_seconds: float = SYNC_SECONDS) -> None:
        self.folder = folder
        self.sync_error: str | None = None
        self._segment_bytes = segment_bytes
        self._lock = threading.Lock()
        self._descriptor = -1
        self._path = folder
        self._size = 0
        self._days: Counter[str] = Counter()
        self._torn = self._dirty = False
        self._name = uuid.uuid4().hex[:12]
        self._number = 0
        self._stop = threading.Event()
        folder.mkdir(parents=True, exist_ok=True)
        seal_abandoned(folder)
        self._thread = threading.Thread(target=self._keep_syncing, args=(sync_seconds,), name="prediction log", daemon=True)
        self._thread.start()

    def append(self, records: Sequence[Record]) -> None:
        """Write records. When this returns, they survive a kill of this process.

        Raises OSError (disk full, say) when not all of them could be written; then none of them is in the log, and the
        next call simply tries again.
        """
        content = line(records[0]) if len(records) == 1 else b"".join([line(record) for record in records])
        with self._lock:
            if self._descriptor < 0 or self._size >= self._segment_bytes:
                self._rotate()
            if self._torn:
                content = b"\n" + content
            try:
                written = os.write(self._descriptor, content)
                while written < len(content):
                    written += os.write(self._descriptor, content[written:])
            except OSError:
                self._take_back()
                raise
            self._size += len(content)
            self._torn = False
            self._dirty = True
            for record in records:
                self._days[record.day] += 1

    def _take_back(self) -> None:
        """Remove the beginning of records that did not fit."""
        try:
            os.ftruncate(self._descriptor, self._size)
        except OSError:
            # What remains is a line that readers see as torn; the next one starts on a line of its own.
            self._torn = True
            self._size = os.fstat(self._descriptor).st_size

    def _rotate(self) -> None:
        self._close()
        self.folder.mkdir(parents=True, exist_ok=True)
        self._number += 1
        # Names sort by time of creation; the process's own part keeps workers apart.
        self._path = self.folder / f"{datetime.now().astimezone().timestamp():017.6f}-{self._name}-{self._number:05d}{SUFFIX}"
        descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o640)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        self._descriptor, self._size, self._days, self._torn = descriptor, 0, Counter(), False

    def _close(self) -> None:
        if self._descriptor < 0:
            return
        descriptor, self._descriptor = self._descriptor, -1
        try:
            os.fdatasync(descriptor)
            if not self._torn:
                _write_index(self._path, Index(self._size, dict(self._days)))
        except OSError as error:
            self.sync_error = f"{self._path.name}: {error.strerror}"
        finally:
            os.close(descriptor)
        self._dirty = False

    def sync(self) -> None:
        """Flush what was written to the disk. Raises OSError."""
        with self._lock:
            if not self._dirty:
                return
            self._dirty = False
            descriptor = os.dup(self._descriptor)
        # Without the lock: writers go on while the disk works.
        try:
            os.fdatasync(descriptor)
        finally:
            os.close(descriptor)

    def _keep_syncing(self, seconds: float) -> None:
        while not self._stop.wait(seconds):
            try:
                self.sync()
                self.sync_error = None
            except OSError as error:
                self.sync_error = f"{self._path.name}: {error.strerror}"

    def close(self) -> None:
        """Flush and index the open segment."""
        self._stop.set()
        self._thread.join()
        with self._lock:
            self._close()


def read(folder: Path | str, first: date, last: date | None = None) -> Reading:
    """Predictions whose event day lies in [first, last] (`last` None: that one day).

    Closed segments without such a day are not opened. A folder that does not exist holds no predictions. Torn ends are
    normal after a kill; `damage` lists them, and lines that were altered.
    """
    days = (first.isoformat(), (last or first).isoformat())
    records: list[Stored] = []
    damage: list[Damage] = []
    opened = 0
    for path in segments(Path(folder)):
        index = _index(path)
        if index is not None and not any(days[0] <= day <= days[1] for day in index.days):
            continue
        opened += 1
        for found in _lines(path, days):
            if isinstance(found, Damage):
                damage.append(found)
            else:
                records.append(found)
    return Reading(records, damage, opened)


def days(folder: Path | str) -> dict[date, int]:
    """Number of predictions by event day."""
    counts: Counter[str] = Counter()
    for path in segments(Path(folder)):
        index = _index(path)
        counts.update(index.days if index is not None else _count(path).days)
    return {date.fromisoformat(day): count for day, count in sorted(counts.items())}


def segments(folder: Path) -> list[Path]:
    """Segments, oldest first."""
    return sorted(folder.glob(f"*{SUFFIX}")) if folder.is_dir() else []


def seal_abandoned(folder: Path) -> int:
    """Index the segments that killed processes left open; returns their number."""
    sealed = 0
    for path in segments(folder):
        if _index(path) is not None:
            continue
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.fdatasync(descriptor)
            _write_index(path, _count(path))
            sealed += 1
        except BlockingIOError:
            continue  # another process is writing it
        finally:
            os.close(descriptor)
    return sealed


def _write_index(path: Path, index: Index) -> None:
    write_atomically(path.with_suffix(INDEX_SUFFIX), msgspec.json.encode(index, order="sorted"), durable=False)


def _index(path: Path) -> Index | None:
    """The index of a closed segment; None where there is none, or where it does not fit the segment any more."""
    try:
        index = msgspec.json.decode(path.with_suffix(INDEX_SUFFIX).read_bytes(), type=Index)
    except (FileNotFoundError, msgspec.DecodeError):
        return None
    return index if index.bytes == path.stat().st_size else None


def _count(path: Path) -> Index:
    counts = Counter(found.day for found in _lines(path, ("", "~")) if isinstance(found, Stored))
    return Index(path.stat().st_size, dict(counts))


_DAY = slice(17, 27)  # of `00000000 {"day":"2013-01-01",...`


def _lines(path: Path, days: tuple[str, str]) -> Iterator[Stored | Damage]:
    content = path.read_bytes()
    first, last = days[0].encode(), days[1].encode()
    offset = 0
    for text in content.splitlines(keepends=True):
        start, offset = offset, offset + len(text)
        if text == b"\n":
            continue
        body = text[9:-1]
        if text[-1:] != b"\n" or text[:9] != b"%08x " % crc32(body):
            yield Damage(path.name, start, torn=offset == len(content))
        elif first <= text[_DAY] <= last:
            yield _decode(body)
