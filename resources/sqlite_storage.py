"""Dagster's SQLite storage with its database engines kept.

Dagster makes an engine for every single connection, so each event compiles its SQL anew and opens its file anew: more than
half of what storing an event costs. Here one engine a database stays, with its connections and its compiled statements.
Tables, files and locking are Dagster's own; `infra/dagster.yaml` names this storage, and `storage: sqlite` reads the same files.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from dagster._core.storage.event_log.sqlite.sqlite_event_log import SqliteEventLogStorage
from dagster._core.storage.runs.sqlite.sqlite_run_storage import SqliteRunStorage
from dagster._core.storage.schedules.sqlite.sqlite_schedule_storage import SqliteScheduleStorage
from dagster._core.storage.sqlite import SQLITE_BUSY_TIMEOUT_SECONDS
from dagster._core.storage.sqlite_storage import DagsterSqliteStorage
from dagster._serdes import ConfigurableClassData
from sqlalchemy import Connection, Engine, create_engine
from sqlalchemy.util import LRUCache

DATABASES = 32
"""Databases kept open; each run's event log is one."""

_statements: Any = LRUCache(1_000)


@lru_cache(DATABASES)
def _kept(url: str, process: int) -> Engine:
    """The engine of a database. `process` keeps a forked child from its parent's connections, which SQLite forbids."""
    engine = create_engine(url, connect_args={"timeout": SQLITE_BUSY_TIMEOUT_SECONDS})
    return engine.execution_options(compiled_cache=_statements)


def _engine(url: str) -> Engine:
    return _kept(url, os.getpid())


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
    @contextmanager
    def _connect(self, shard: str) -> Iterator[Connection]:
        with self._db_lock:
            engine = _engine(self.conn_string_for_shard(shard))
            if shard not in self._initialized_dbs:
                self._initdb(engine)
                self._initialized_dbs.add(shard)
            with engine.begin() as connection:
                yield connection

    def wipe(self) -> None:
        # It deletes database files; an engine that keeps one open would write into nothing.
        _kept.cache_clear()
        super().wipe()


class SqliteStorage(DagsterSqliteStorage):
    """Runs, events and schedules below `base_dir`."""

    def __init__(self, base_dir: str, inst_data: ConfigurableClassData | None = None) -> None:
        super().__init__(base_dir, inst_data)
        home = Path(base_dir)
        self._run_storage = RunStorage.from_local(str(home / "history"))
        self._event_log_storage = EventLogStorage(str(home / "history" / "runs"))
        self._schedule_storage = ScheduleStorage.from_local(str(home / "schedules"))

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]) -> "SqliteStorage":
        return cls(inst_data=inst_data, **config_value)
