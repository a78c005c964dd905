"""Segments: the files of a log, and what becomes of them once nobody writes to them.

A segment is a file of lines, each a CRC-32 (8 hexadecimal digits), a blank, one JSON object and a
line feed. The object is one record, or the head of a batch of them (`bundle.records.batches`),
whose columns follow: as many bytes as the head says, and a line feed.

A closed segment is compressed (Zstandard) and gets a small index beside it (records by event day),
so that a reader of one day opens few of them. A kill at any point leaves it readable;
`seal_abandoned` finishes what killed processes left.
"""

from __future__ import annotations

import contextlib
import fcntl
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from datetime import date
from pathlib import Path
from zlib import crc32

import msgspec
import zstandard

from bundle.files import write_atomically
from bundle.records.batches import Head
from bundle.records.record import Record, Trial

SUFFIX, PACKED_SUFFIX, INDEX_SUFFIX = ".log", ".log.zst", ".index"
# Level 1 makes a segment of flights ten times smaller in 25 ms beside the requests; level 6 gains a
# third for six times as much.
LEVEL = 1
ALL_DAYS = ("", "~")

# Of `00000000 {"day":"2013-01-01",...`, and of its JSON alone.
_DAY, _BODY_DAY = slice(17, 27), slice(8, 18)
_BATCH = b'{"days":'

Entry = bytes | tuple[Head, bytes]
"""The JSON of a record, or head and columns of a batch."""


class Index(msgspec.Struct, frozen=True):
    """What a closed segment holds: the size of its file, and its records by event day."""

    bytes: int
    days: dict[str, int]


class Damage(msgspec.Struct, frozen=True):
    """A line that is not what was written: its checksum differs.

    `torn`: the unfinished end of a file, which no answer had been given for. Anything else was
    altered later and counts as lost.
    """

    segment: str
    offset: int
    torn: bool


_encode: Callable[[Record | Trial | Head], bytes] = msgspec.json.Encoder().encode
_decode_head = msgspec.json.Decoder(Head).decode


def line(record: Record | Trial | Head) -> bytes:
    """A record as it lies in a segment. A NaN of the row becomes null."""
    content = _encode(record)
    return b"%08x %b\n" % (crc32(content), content)


def segments(folder: Path) -> list[Path]:
    """Segments, oldest first."""
    by_stem: dict[str, Path] = {}
    # Where a kill came between compressing and removing, both are there and say the same.
    for suffix in (SUFFIX, PACKED_SUFFIX):
        by_stem.update((stem(path), path) for path in folder.glob(f"*{suffix}"))
    return [path for _, path in sorted(by_stem.items())]


def of_days(folder: Path, first: date, last: date) -> Iterator[tuple[Path, tuple[str, str]]]:
    """Segments that may hold records of [first, last], each with these days as text."""
    days = (first.isoformat(), last.isoformat())
    for path in segments(folder):
        index = index_of(path)
        if index is None or any(days[0] <= day <= days[1] for day in index.days):
            yield path, days


def closed_before(folder: Path, day: date) -> Iterator[tuple[Path, date, date]]:
    """Closed segments whose records are all about events before a day: file, first and last day."""
    for path in segments(folder):
        index = index_of(path)
        if index is None or not index.days or not path.name.endswith(PACKED_SUFFIX):
            continue
        first, last = min(index.days), max(index.days)
        if last < day.isoformat():
            yield path, date.fromisoformat(first), date.fromisoformat(last)


def remove(path: Path) -> None:
    """Take a closed segment out of the log, for good."""
    path.unlink(missing_ok=True)
    path.with_name(stem(path) + INDEX_SUFFIX).unlink(missing_ok=True)


def seal_abandoned(folder: Path) -> int:
    """Compress and index the segments that killed processes left; returns their number.

    Raises OSError (disk full, say) with every segment as readable as before.
    """
    sealed = 0
    for path in segments(folder):
        packed = path.name.endswith(PACKED_SUFFIX) and not path.with_suffix("").exists()
        if packed and index_of(path) is not None:
            continue

        # Another process may be faster: then the file is gone.
        with contextlib.suppress(FileNotFoundError), open(path, "rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue  # it is being written
            for left in folder.glob(f".{stem(path)}*"):
                left.unlink(missing_ok=True)
            pack(path)
            sealed += 1
    return sealed


def pack(path: Path, days: Mapping[str, int] | None = None) -> None:
    """Replace a closed segment by its compressed form, and index it by `days` (None: count them).

    A kill at any point leaves it readable, and `seal_abandoned` finishes it. Raises OSError.
    """
    is_packed = path.name.endswith(PACKED_SUFFIX)
    packed = path if is_packed else path.with_name(stem(path) + PACKED_SUFFIX)
    if not packed.exists():
        compressor = zstandard.ZstdCompressor(level=LEVEL, write_checksum=True)
        write_atomically(packed, compressor.compress(path.read_bytes()))
    packed.with_suffix("").unlink(missing_ok=True)

    index = Index(packed.stat().st_size, dict(count_days(packed) if days is None else days))
    place = packed.with_name(stem(packed) + INDEX_SUFFIX)
    write_atomically(place, msgspec.json.encode(index, order="sorted"), durable=False)


def stem(path: Path) -> str:
    return path.name.removesuffix(PACKED_SUFFIX).removesuffix(SUFFIX)


def index_of(path: Path) -> Index | None:
    """The index of a closed segment; None where there is none, or it does not fit any more."""
    place = path.with_name(stem(path) + INDEX_SUFFIX)
    try:
        index = msgspec.json.decode(place.read_bytes(), type=Index)
        return index if index.bytes == path.stat().st_size else None
    except (FileNotFoundError, msgspec.DecodeError):
        return None


def count_days(path: Path) -> Counter[str]:
    """Records of a segment by event day."""
    counts: Counter[str] = Counter()
    for entry in entries(path, ALL_DAYS):
        if isinstance(entry, bytes):
            counts[entry[_BODY_DAY].decode()] += 1
        elif not isinstance(entry, Damage):
            counts.update(entry[0].days)
    return counts


def entries(path: Path, days: tuple[str, str]) -> Iterator[Entry | Damage]:
    """Records of these days, and batches with some."""
    try:
        content = lines(path)
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
            # Only at its end is a segment unfinished. No more is read then, since columns may hold
            # what looks like a line.
            if end > len(content):
                yield Damage(path.name, start, torn=True)
            elif crc32(columns) != head.crc:
                yield Damage(path.name, start, torn=False)
            elif any(days[0] <= day <= days[1] for day in head.days):
                yield head, columns
        elif first <= text[_DAY] <= last:
            yield body


def lines(path: Path) -> bytes:
    """The lines of a segment, whichever form it has by now.

    Raises FileNotFoundError, and ZstdError for an altered file.
    """
    if path.name.endswith(SUFFIX):
        try:
            return path.read_bytes()
        except FileNotFoundError:
            path = path.with_name(stem(path) + PACKED_SUFFIX)
    return zstandard.ZstdDecompressor().decompress(path.read_bytes())
