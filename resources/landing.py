"""The landing folder: files as they arrive from outside, each with a checksum beside it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import date
from functools import lru_cache
from typing import NamedTuple

import dagster as dg

from resources import files

# Content of sidecars that this process has read, by path and what the listing says of the file: a
# year of them is listed at each tick of a sensor, and hardly any is new.
_sidecars: dict[tuple[str, object], bytes] = {}

SUFFIXES = (".csv", ".parquet")
SIDECAR = ".sha256"
SIDECARS = tuple(suffix + SIDECAR for suffix in SUFFIXES)
ONCE = "once"


class LandingError(Exception):
    """A landed file is not what its sidecar says."""


@dataclass(frozen=True)
class Delivery:
    """One landed file: its name, SHA-256 and size in bytes as announced; `fault` says why it must
    not be read.
    """

    name: str
    digest: str
    size: int
    fault: str | None = None


class Entry(NamedTuple):
    """A file as it was listed; `stamp` changes when its content does, None where the listing has no
    such thing.
    """

    place: str
    size: int
    stamp: object


class Landing(dg.ConfigurableResource):
    """Landing folder at `uri` (a folder or any fsspec prefix such as `s3://`).

    Layout: `<uri>/<pipeline>/<source>/<YYYY-MM-DD>/<file>.csv|.parquet` with `<file>.sha256` beside
    each ("digest  name"), written last; sources that land once lie in `once/`. A file without
    sidecar has not landed yet. A file that differs from its sidecar (half-written, empty, corrupt,
    renamed, missing) is refused when read.
    """

    uri: str

    def place(self, pipeline: str, source: str, day: date | None) -> str:
        """Folder of a delivery day (None: of a source that lands once)."""
        return (
            f"{self.uri.rstrip('/')}/{pipeline}/{source}/{ONCE if day is None else day.isoformat()}"
        )

    def days(self, pipeline: str, source: str) -> list[date]:
        """Days with at least one sidecar, in order: one listing, no file is opened."""
        return sorted(
            {_day(folder) for folder in self._listing(pipeline, source) if folder != ONCE}
        )

    def deliveries(
        self, pipeline: str, source: str, days: Collection[date] | None = None
    ) -> dict[date, tuple[Delivery, ...]]:
        """Landed files by delivery day (of `days`, or all), each day's in order of name."""
        listing = self._listing(
            pipeline, source, None if days is None else [day.isoformat() for day in days]
        )
        found = {
            _day(folder): _announced(entries)
            for folder, entries in listing.items()
            if folder != ONCE
        }
        return {day: found[day] for day in sorted(found)}

    def once(self, pipeline: str, source: str) -> tuple[Delivery, ...]:
        """Landed files of a source that lands once."""
        listing = self._listing(pipeline, source, [ONCE])
        return _announced(listing[ONCE]) if ONCE in listing else ()

    def unannounced(self, pipeline: str) -> list[str]:
        """Landed files of all sources without a sidecar, in order: nothing reads them.

        A file that is landing just now is among them for a moment.
        """
        root = f"{self.uri.rstrip('/')}/{pipeline}"
        fs, base = files.filesystem(root)
        fs.invalidate_cache()
        if not fs.exists(base):
            return []
        places = {str(place).removeprefix(base).lstrip("/") for place in fs.find(base)}
        return sorted(
            f"{root}/{place}"
            for place in places
            if place.endswith(SUFFIXES)
            and not place.rsplit("/", 1)[-1].startswith(".")
            and place + SIDECAR not in places
        )

    def read(self, pipeline: str, source: str, day: date | None, delivery: Delivery) -> bytes:
        """The verified content of a landed file (`day` None: of a source that lands once).

        Raises LandingError for a file that is not, byte for byte, what its sidecar announced.
        """
        place = f"{self.place(pipeline, source, day)}/{delivery.name}"
        if delivery.fault is not None:
            raise LandingError(
                f"{place} is refused: {delivery.fault}. Deliver the file again, its sidecar last."
            )
        content = files.read(place)
        digest = hashlib.sha256(content).hexdigest()
        if digest != delivery.digest:
            raise LandingError(
                f"{place} is refused: its SHA-256 is {digest} ({len(content)} bytes), its sidecar "
                f"says {delivery.digest}. "
                "The file is half-written or corrupt; deliver it again, its sidecar last."
            )
        return content

    def put(self, pipeline: str, source: str, day: date | None, name: str, content: bytes) -> bool:
        """Land a file: the content by atomic rename, then its sidecar.

        Returns False where it had landed already.
        """
        if not name.endswith(SUFFIXES) or "/" in name or name.startswith("."):
            raise ValueError(
                f"{name!r} cannot land; names end in {' or '.join(SUFFIXES)}, without folders or a "
                "leading dot"
            )
        place = f"{self.place(pipeline, source, day)}/{name}"
        sidecar = f"{hashlib.sha256(content).hexdigest()}  {name}\n".encode()
        if (
            files.exists(place + SIDECAR)
            and files.read(place + SIDECAR) == sidecar
            and files.exists(place)
        ):
            return False
        files.write_atomically(place, content)
        files.write_atomically(place + SIDECAR, sidecar)
        return True

    def _listing(
        self, pipeline: str, source: str, folders: Collection[str] | None = None
    ) -> dict[str, dict[str, Entry]]:
        """Files by name, by folder that holds at least one sidecar."""
        root = f"{self.uri}/{pipeline}/{source}"
        found: dict[str, dict[str, Entry]] = {}
        for folder, name, size, stamp in (
            _local(root, folders) if files.is_local(root) else _remote(root, folders)
        ):
            found.setdefault(folder, {})[name] = Entry(f"{root}/{folder}/{name}", size, stamp)

        def delivered(folder: str) -> bool:
            return (folder == ONCE or _is_day(folder)) and any(map(_announces, found[folder]))

        return {folder: entries for folder, entries in found.items() if delivered(folder)}


def _local(root: str, folders: Collection[str] | None) -> Iterator[tuple[str, str, int, object]]:
    """Folder, name, size and stamp of the files below a local root: fsspec takes five times as long
    for the same.
    """
    base = files.filesystem(root)[1]
    try:
        wanted = (
            [entry.name for entry in os.scandir(base) if entry.is_dir()]
            if folders is None
            else folders
        )
    except FileNotFoundError:
        return
    for folder in wanted:
        try:
            entries = list(os.scandir(f"{base}/{folder}"))
        except (FileNotFoundError, NotADirectoryError):
            continue
        for entry in entries:
            if entry.is_file():
                told = entry.stat()
                yield (
                    folder,
                    entry.name,
                    told.st_size,
                    (told.st_mtime_ns, told.st_ino, told.st_size),
                )


def _remote(root: str, folders: Collection[str] | None) -> Iterator[tuple[str, str, int, object]]:
    """The same of an object store."""
    fs, base = files.filesystem(root)
    fs.invalidate_cache()
    for place in [base] if folders is None else [f"{base}/{folder}" for folder in folders]:
        for path, entry in fs.find(place, maxdepth=2, detail=True).items():
            folder, name = path.rsplit("/", 2)[-2:]
            yield folder, name, int(entry["size"]), entry.get("ETag")


def _announced(entries: dict[str, Entry]) -> tuple[Delivery, ...]:
    """The deliveries of a folder, by name."""
    found = []
    for sidecar in sorted(filter(_announces, entries)):
        name = sidecar.removesuffix(SIDECAR)
        found.append(
            _delivery(
                _sidecar(entries[sidecar]), name, entries[name].size if name in entries else None
            )
        )
    return tuple(found)


def _sidecar(entry: Entry) -> bytes:
    """Content of a sidecar, read again when the listing shows a change or cannot tell."""
    if entry.stamp is None:
        return files.read(entry.place)
    key = (entry.place, entry.stamp)
    if key not in _sidecars:
        _sidecars[key] = files.read(entry.place)
    return _sidecars[key]


@lru_cache(100_000)
def _delivery(sidecar: bytes, name: str, size: int | None) -> Delivery:
    """What a sidecar says of a file of `size` bytes (None: which is not there)."""
    digest, _, announced = sidecar.decode(errors="replace").rstrip("\n").partition("  ")
    fault = None
    if len(digest) != 64 or set(digest) - set("0123456789abcdef"):
        fault = f"its sidecar {name}{SIDECAR} does not read '<sha256>  <name>'"
    elif announced != name:
        fault = f"its sidecar announces {announced!r}, so the file was renamed"
    elif size is None:
        fault = "its sidecar is there, the file is not"
    elif size == 0:
        fault = "the file is empty (a delivery without rows still has a header)"
    return Delivery(name, digest, size or 0, fault)


def _announces(name: str) -> bool:
    return name.endswith(SIDECARS) and not name.startswith(".")


@lru_cache(100_000)
def _is_day(folder: str) -> bool:
    try:
        return date.fromisoformat(folder).isoformat() == folder
    except ValueError:
        return False


def _day(folder: str) -> date:
    return date.fromisoformat(folder)
