"""The lake: Delta tables, replaced whole days at a time."""

from __future__ import annotations

import errno
import os
import random
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import dagster as dg

from resources import files

if TYPE_CHECKING:
    import polars as pl
    from deltalake import DeltaTable

T = TypeVar("T")

DATE = "date"
LOG = "_delta_log"
KEEP_HOURS = 168
"""Delta's own retention: no reader or writer takes a week."""

ATTEMPTS = 8
CONFIGURATION = {"delta.checkpointInterval": "20"}
"""Of new tables: a fresh process reads the newest checkpoint and the commits after it (at 100 of
them 60 ms, at 20 about 15).
"""

# Local tables that this process has open, by folder and the identity of their first commit, which
# changes when a table is deleted and made again. Reading the newest commits costs a tenth of
# opening anew. Object storage names no identity so cheaply, and the first commit of an old table
# has been cleaned up: those are opened anew.
_open_tables: dict[tuple[str, int, int], DeltaTable] = {}


class Tidied(NamedTuple):
    """A table after `tidy`, and how many files nobody reads were deleted."""

    table: str
    removed: int

    @property
    def line(self) -> str:
        return f"{self.table}: compacted; {self.removed} unread files deleted"


class Lake(dg.ConfigurableResource):
    """Delta tables below `uri` (a folder or `s3://` prefix; object storage is set up by the usual
    `AWS_*` variables).

    A table of days has a column `date` (the partition) and is replaced by whole days: a write is
    one commit, readers see the old days or the new ones, and writing the same days again changes
    nothing but the version. A commit that loses a race is tried again. Unpartitioned tables are
    replaced whole.
    """

    uri: str

    def place(self, table: str) -> str:
        """URI of a table."""
        return f"{self.uri.rstrip('/')}/{table}"

    def exists(self, table: str) -> bool:
        from deltalake import DeltaTable

        place = self.place(table)
        return bool(DeltaTable.is_deltatable(place, storage_options=storage_options(place)))

    def version(self, table: str) -> int:
        """Number of the table's newest commit.

        Raises FileNotFoundError for a table that is not there.
        """
        return int(self._open(table).version())

    def write(
        self, table: str, frame: pl.DataFrame, days: Sequence[date], *, evolve: bool = False
    ) -> None:
        """Replace exactly the partitions `days` by the rows of `frame` (column `date`), in one
        commit.

        A day without rows counts as stored afterwards (`days`). New columns need `evolve=True`;
        without it they raise deltalake's SchemaMismatchError. Raises ValueError for rows of other
        days, and OSError or DeltaError (disk full, say) with the old version intact.
        """
        from deltalake import write_deltalake

        if not days:
            raise ValueError(
                f"lake table {table!r}: no days to write; name the partitions that the frame "
                "replaces"
            )
        present = set(frame.get_column(DATE).unique().to_list())
        for stray in sorted(present - set(days), key=str):
            raise ValueError(
                f"lake table {table!r}: the frame has rows of {stray}, which is not among the "
                f"{len(days)} days to replace; add the day or drop the rows"
            )
        place = self.place(table)
        options = storage_options(place)

        def commit() -> None:
            if not self.exists(table):
                write_deltalake(
                    place,
                    _arrow(frame),
                    mode="error",
                    partition_by=[DATE],
                    storage_options=options,
                    configuration=CONFIGURATION,
                )
                return
            write_deltalake(
                self._open(table),
                _arrow(frame),
                mode="overwrite",
                predicate=_predicate(days),
                storage_options=options,
                schema_mode="merge" if evolve else None,
            )

        if present or self.exists(table):
            _retry(commit, table)
        else:
            _retry(lambda: self._create(table, frame), table)
        # After the commit, so that a marker never speaks of a day that is not stored. A marker that
        # outlives its use (the day has rows by now) says nothing new.
        self._mark_empty(table, sorted(set(days) - present))

    def overwrite(self, table: str, frame: pl.DataFrame, *, evolve: bool = False) -> None:
        """Replace an unpartitioned table in one commit."""
        from deltalake import write_deltalake

        place = self.place(table)

        def commit() -> None:
            write_deltalake(
                place,
                _arrow(frame),
                mode="overwrite",
                storage_options=storage_options(place),
                schema_mode="overwrite" if evolve else None,
                configuration=CONFIGURATION,
            )

        _retry(commit, table)

    def scan(self, table: str, first: date | None = None, last: date | None = None) -> pl.LazyFrame:
        """Rows of the partitions `first` to `last` (both included, None: open), lazily; other days'
        files are not read.

        The version is the newest one now, or a newer one that this process has seen before the rows
        are collected.

        Raises FileNotFoundError for a table that is not there.
        """
        import polars as pl

        place = self.place(table)
        frame = pl.scan_delta(self._open(table), storage_options=storage_options(place))
        if first is not None:
            frame = frame.filter(pl.col(DATE) >= first)
        if last is not None:
            frame = frame.filter(pl.col(DATE) <= last)
        return frame

    def read(self, table: str) -> pl.DataFrame:
        """All rows of a table. Raises FileNotFoundError."""
        return self.scan(table).collect()

    def days(self, table: str) -> list[date]:
        """Days that are stored, in order, those without rows included; empty for a table that is
        not there.
        """
        if not self.exists(table):
            return []
        partitions = self._open(table).partitions()
        stored = {
            date.fromisoformat(str(partition[DATE]))
            for partition in partitions
            if DATE in partition
        }
        return sorted(stored | self._marked_empty(table))

    def mark(self, table: str, marks: Mapping[str, str]) -> None:
        """Remember one word for each of some names of a table (days, say).

        They replace earlier ones. Call it after the write that it speaks of. Names and words become
        file names.
        """
        known = self.marks(table)
        for name, word in marks.items():
            files.write_atomically(f"{self.uri}/_marks/{table}/{name}@{word}", b"")
            for old in known.get(name, frozenset()) - {word}:
                files.delete(f"{self.uri}/_marks/{table}/{name}@{old}")

    def marks(self, table: str) -> dict[str, frozenset[str]]:
        """Words by name.

        A name has several after a kill between a new mark and the old one's end.
        """
        found: dict[str, set[str]] = {}
        for file in self._names(f"_marks/{table}"):
            name, _, word = file.partition("@")
            found.setdefault(name, set()).add(word)
        return {name: frozenset(words) for name, words in found.items()}

    def compact(self, table: str) -> None:
        """Merge small files of a partition into larger ones; contents stay."""
        table_ = self._open(table)
        _retry(lambda: table_.optimize.compact(), table)

    def vacuum(self, table: str, keep_hours: int = KEEP_HOURS) -> list[str]:
        """Delete files that no version of the last `keep_hours` reads, those of writers that died
        included. Returns them.
        """
        return list(
            self._open(table).vacuum(
                retention_hours=keep_hours,
                dry_run=False,
                enforce_retention_duration=False,
                full=True,
            )
        )

    def tables(self) -> list[str]:
        """Names of all tables, in order."""
        fs, base = files.filesystem(self.uri)
        if not fs.exists(base):
            return []
        found = []
        for path, folders, _ in fs.walk(base):
            if LOG in folders:
                found.append(str(path).removeprefix(base).strip("/"))
                # What lies in a table is no table.
                folders.clear()
        return sorted(found)

    def absent(self, table: str) -> list[str]:
        """Files that the newest version of a table reads, and that are not there."""
        place = self.place(table)
        fs, base = files.filesystem(place)
        fs.invalidate_cache()
        stored = set(fs.find(base))
        read = [str(uri) for uri in self._open(table).file_uris()]
        return sorted(uri for uri in read if files.filesystem(uri)[1] not in stored)

    def tidy(self, keep_hours: int = KEEP_HOURS) -> list[Tidied]:
        """Compact and vacuum every table. Rows stay as they are.

        Old versions may go, because nothing reads one by its number: a training manifest rebuilds
        its rows from the newest version, and verifies them by digests of their content. Files that
        were read within `keep_hours` stay for whoever is still reading them.
        """
        done = []
        for table in self.tables():
            self.compact(table)
            done.append(Tidied(table, len(self.vacuum(table, keep_hours))))
        return done

    def _open(self, table: str) -> DeltaTable:
        """The newest version of a table."""
        from deltalake import DeltaTable
        from deltalake.exceptions import TableNotFoundError

        place = self.place(table)
        identity = _identity(place)
        if identity is not None and identity in _open_tables:
            _open_tables[identity].update_incremental()
            return _open_tables[identity]
        try:
            opened = DeltaTable(place, storage_options=storage_options(place))
        except TableNotFoundError:
            raise FileNotFoundError(
                f"lake table {table!r} is not at {place}; materialize the asset that writes it "
                "first"
            ) from None
        if identity is not None:
            _open_tables[identity] = opened
        return opened

    def _create(self, table: str, frame: pl.DataFrame) -> None:
        from deltalake import DeltaTable

        place = self.place(table)
        DeltaTable.create(
            place,
            _arrow(frame).schema,
            mode="ignore",
            partition_by=[DATE],
            storage_options=storage_options(place),
            configuration=CONFIGURATION,
        )

    def _mark_empty(self, table: str, days: Iterable[date]) -> None:
        for day in days:
            files.write_atomically(f"{self.uri}/_empty/{table}/{day.isoformat()}", b"")

    def _marked_empty(self, table: str) -> set[date]:
        return {date.fromisoformat(name) for name in self._names(f"_empty/{table}")}

    def _names(self, folder: str) -> list[str]:
        """Names of the files of a folder below the lake, hidden ones left out."""
        place = f"{self.uri}/{folder}"
        try:
            names = files.names(place)
        except FileNotFoundError:
            return []
        return [name for name in names if not name.startswith(".")]


def storage_options(place: str) -> dict[str, str] | None:
    """What deltalake and Polars need to reach object storage: the `AWS_*` environment; None for
    local folders.
    """
    if files.is_local(place):
        return None
    return {name.lower(): value for name, value in os.environ.items() if name.startswith("AWS_")}


def _identity(place: str) -> tuple[str, int, int] | None:
    """What tells a local table from another one at the same place, None where nothing does."""
    if storage_options(place) is not None:
        return None
    try:
        first = Path(place.removeprefix("file://"), "_delta_log", f"{0:020d}.json").stat()
    except FileNotFoundError:
        return None
    return place, first.st_ino, first.st_mtime_ns


def _arrow(frame: pl.DataFrame) -> Any:
    import polars as pl

    # Plain strings instead of string views: every Delta reader knows them.
    return frame.to_arrow(compat_level=pl.CompatLevel.oldest())


def _predicate(days: Sequence[date]) -> str:
    ordered = sorted(set(days))
    if (ordered[-1] - ordered[0]).days + 1 == len(ordered):
        return f"date >= '{ordered[0]}' AND date <= '{ordered[-1]}'"
    return "date IN (" + ", ".join(f"'{day}'" for day in ordered) + ")"


def _retry(commit: Callable[[], T], table: str) -> T:
    """Run a commit, again with growing random pauses when another writer was faster (about 5 s in
    all).
    """
    from deltalake.exceptions import CommitFailedError, DeltaError

    for attempt in range(ATTEMPTS):
        try:
            return commit()
        except CommitFailedError as conflict:
            if attempt == ATTEMPTS - 1:
                raise CommitFailedError(
                    f"lake table {table!r}: {ATTEMPTS} commits lost to other writers; run again "
                    f"when they are done ({conflict})"
                ) from conflict
        except DeltaError as clash:
            if "os error 28" in str(clash):
                raise OSError(
                    errno.ENOSPC,
                    f"lake table {table!r}: no space left on its disk; the old version is intact. "
                    "Free some space, or run `evergreen lake tidy`; then run again",
                ) from clash
            # Two writers created the table at once; the slower one replaces its days in the table
            # that is there now.
            if "already exists" not in str(clash) or attempt == ATTEMPTS - 1:
                raise
        time.sleep(random.uniform(0, 0.04 * 2**attempt))
    raise AssertionError("unreachable")
