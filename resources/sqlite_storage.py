"""Dagster's SQLite storage with its database engines kept, and one transaction for each event.

Dagster makes an engine for every single connection, so each event compiles its SQL anew and opens its file anew: more than
half of what storing an event costs. Here one engine a database stays, with its connections and its compiled statements, and what an
event (or a batch of them, such as all that a run plans) writes to a database is committed once.
Tables, files and locking are Dagster's own; `infra/dagster.yaml` names this storage, and `storage: sqlite` reads the same files.
"""

import os
import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from dagster._core.events.log import EventLogEntry
from dagster._core.storage.event_log.sqlite.sqlite_event_log import (
    INDEX_SHARD_NAME,
    SqliteEventLogStorage,
)
from dagster._core.storage.runs.sqlite.sqlite_run_storage import SqliteRunStorage
from dagster._core.storage.schedules.sqlite.sqlite_schedule_storage import SqliteScheduleStorage
from dagster._core.storage.sqlite import SQLITE_BUSY_TIMEOUT_SECONDS
from dagster._core.storage.sqlite_storage import DagsterSqliteStorage
from dagster._serdes import ConfigurableClassData
from sqlalchemy import Connection, Engine, create_engine, event, inspect
from sqlalchemy.util import LRUCache

DATABASES = 32
"""Databases kept open; each run's event log is one."""

_statements: Any = LRUCache(1_000)


@lru_cache(DATABASES)
def _kept(url: str, file: int | None, process: int) -> Engine:
    """The engine of a database. `file` (its inode) tells it from one that was deleted and made again meanwhile; `process` keeps a forked
    child from its parent's connections, which SQLite forbids."""
    engine = create_engine(url, connect_args={"timeout": SQLITE_BUSY_TIMEOUT_SECONDS})

    @event.listens_for(engine, "connect")
    def relaxed(connection: sqlite3.Connection, _: object) -> None:
        # With a write-ahead log this survives every kill; a power cut can cost the last events, never the database. The ledger,
        # which is the truth, flushes each entry.
        connection.execute("PRAGMA synchronous=NORMAL")

    return engine.execution_options(compiled_cache=_statements)


def _engine(url: str) -> Engine:
    try:
        file = Path(url.removeprefix("sqlite:///")).stat().st_ino
    except FileNotFoundError:
        file = None
    return _kept(url, file, os.getpid())


class RunStorage(SqliteRunStorage):
    @contextmanager
    def connect(self) -> Iterator[Connection]:
        with _engine(self._conn_string).begin() as connection:
            yield connection


class ScheduleStorage(SqliteScheduleStorage):
    @contextmanager
    def connect(self) -> Iterator[Connection]:
        with _engine(self._conn_string).begin() as connection:
            yield connection


class EventLogStorage(SqliteEventLogStorage):
    _empty: bytes | None = None

    def __init__(self, base_dir: str, inst_data: ConfigurableClassData | None = None) -> None:
        self._found: set[tuple[str, str]] = set()
        self._writing = threading.local()
        super().__init__(base_dir, inst_data)

    # Dagster asks at each event and each read what its schema has. What is there stays; what is not may yet come.

    def has_table(self, table_name: str) -> bool:
        """Whether the index has a table."""
        return self._once("table", table_name, self._has_table)

    def has_asset_key_col(self, column_name: str) -> bool:
        """Whether the index keeps a column of assets."""
        return self._once("column", column_name, super().has_asset_key_col)

    def _has_asset_key_col_on_connection(self, conn: Connection, column_name: str) -> bool:
        return self._once(
            "column", column_name, partial(super()._has_asset_key_col_on_connection, conn)
        )

    def has_secondary_index(self, name: str) -> bool:
        """Whether a migration of data is done."""
        return self._once("index", name, super().has_secondary_index)

    def _once(self, kind: str, name: str, found: Callable[[str], bool]) -> bool:
        if (kind, name) not in self._found:
            if not found(name):
                return False
            self._found.add((kind, name))
        return True

    def _has_table(self, name: str) -> bool:
        # A connection of its own: Dagster asks while it holds the one of the index.
        with _engine(self.conn_string_for_shard(INDEX_SHARD_NAME)).connect() as connection:
            return inspect(connection).has_table(name)

    def store_event(self, event: EventLogEntry) -> None:
        """Store an event in the log of its run and, where it speaks of an asset, a check or a run's status, in the index."""
        with self._committed_once():
            super().store_event(event)

    def store_event_batch(self, events: Sequence[EventLogEntry]) -> None:
        """Store events together: all of them or, where one fails, none."""
        with self._committed_once():
            for each in events:
                super().store_event(each)

    @contextmanager
    def _committed_once(self) -> Iterator[None]:
        """What this thread writes in a `with` is one transaction for each database; committed in the order of their first use, so that the
        index never tells of what its run's log does not."""
        with self._db_lock:
            opened: dict[str, Connection] = {}
            self._writing.opened = opened
            try:
                yield
                for connection in opened.values():
                    connection.commit()
            finally:
                self._writing.opened = None
                for connection in opened.values():
                    connection.close()

    @contextmanager
    def _connect(self, shard: str) -> Iterator[Connection]:
        opened: dict[str, Connection] | None = getattr(self._writing, "opened", None)
        if opened is not None:
            if shard not in opened:
                opened[shard] = self._database(shard).connect()
                opened[shard].begin()
            yield opened[shard]
            return
        with self._db_lock, self._database(shard).begin() as connection:
            yield connection

    def _database(self, shard: str) -> Engine:
        """The engine of a database, which is made where it is not there. Call under the lock."""
        if shard not in self._initialized_dbs:
            self._initialise(shard)
            self._initialized_dbs.add(shard)
        return _engine(self.conn_string_for_shard(shard))

    def _initialise(self, shard: str) -> None:
        """Make the database of a run, unless it is there. The first one of a process goes through Dagster's migrations; the others
        start as a copy of it, for a tenth of the time."""
        place = Path(self.path_for_shard(shard))
        if self._empty is None:
            fresh = not place.exists()
            self._initdb(_engine(self.conn_string_for_shard(shard)))
            if fresh:
                with closing(sqlite3.connect(place)) as connection:
                    self._empty = connection.serialize()
        elif not place.exists():
            copy = place.with_name(f".{place.name}.{os.getpid()}")
            copy.write_bytes(self._empty)
            try:
                # Unlike a rename, a link leaves alone what another process made meanwhile.
                place.hardlink_to(copy)
            except FileExistsError:
                self._initdb(_engine(self.conn_string_for_shard(shard)))
            finally:
                copy.unlink()


class SqliteStorage(DagsterSqliteStorage):
    """Runs, events and schedules below `base_dir`."""

    def __init__(self, base_dir: str, inst_data: ConfigurableClassData | None = None) -> None:
        super().__init__(base_dir, inst_data)
        home = Path(base_dir)
        self._run_storage = RunStorage.from_local(str(home / "history"))
        self._event_log_storage = EventLogStorage(str(home / "history" / "runs"))
        self._schedule_storage = ScheduleStorage.from_local(str(home / "schedules"))

    @classmethod
    def from_config_value(
        cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]
    ) -> "SqliteStorage":
        return cls(inst_data=inst_data, **config_value)
