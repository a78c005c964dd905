"""The Dagster instance of the platform: how its home is made, how it is opened, and how it is
cured.

What is read of it stands in `event_log`.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg
from dagster import DagsterRunStatus, RunsFilter

from bundle.files import write_atomically
from resources.settings import Settings

CONFIGURATION = Path(__file__).resolve().parent.parent / "infra" / "dagster.yaml"

RETIRED_STORAGE = """storage:
  custom:
    module: resources.sqlite_storage
    class: SqliteStorage
    config:
      base_dir:
        env: DAGSTER_HOME
"""
STORAGE = """storage:
  sqlite:
    base_dir:
      env: DAGSTER_HOME
"""
"""What earlier versions wrote into `dagster.yaml`, and what takes its place.

The files are the same.
"""

AT_WORK = [DagsterRunStatus.STARTING, DagsterRunStatus.STARTED, DagsterRunStatus.CANCELING]

NO_COMPUTE_LOGS = {
    "compute_logs": {
        "module": "dagster._core.storage.noop_compute_log_manager",
        "class": "NoOpComputeLogManager",
        "config": {},
    }
}


def create(settings: Settings) -> None:
    """Make DAGSTER_HOME: its configuration, unless the operator's own lies there, and its tables.

    Call under a lock: two processes that open fresh SQLite databases at once race for the tables.
    """
    settings.dagster_home.mkdir(parents=True, exist_ok=True)
    configuration = settings.dagster_home / "dagster.yaml"
    if not configuration.exists():
        shutil.copyfile(CONFIGURATION, configuration)

    with opened(settings) as instance:
        instance.get_runs_count()
        instance.all_asset_keys()
        instance.all_instigator_state()


@contextmanager
def opened(settings: Settings, *, compute_logs: bool = True) -> Iterator[dg.DagsterInstance]:
    """The instance, for the length of a `with`.

    Without `compute_logs` the output of a run goes where that of this process goes.
    """
    _replace_retired_storage(settings.dagster_home / "dagster.yaml")
    home = str(settings.dagster_home)
    instance = (
        dg.DagsterInstance.from_config(home)
        if compute_logs
        else dg.DagsterInstance.local_temp(home, overrides=NO_COMPUTE_LOGS)
    )
    with instance:
        yield instance


@contextmanager
def in_memory() -> Iterator[dg.DagsterInstance]:
    """An instance that forgets its runs and events at the end of the `with`, and writes no file.

    Storing an event takes it a fifth of the time that the SQLite files take.
    """
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


def _replace_retired_storage(configuration: Path) -> None:
    """Name Dagster's own storage where a home was made for the one that this platform once had.

    Raises RuntimeError for a configuration that names it in other words.
    """
    if not configuration.exists() or "resources.sqlite_storage" not in configuration.read_text():
        return
    renewed = configuration.read_text().replace(RETIRED_STORAGE, STORAGE)
    if "resources.sqlite_storage" in renewed:
        raise RuntimeError(
            f"{configuration} names the storage resources.sqlite_storage, which is no more; "
            f"replace its `storage` section by\n{STORAGE}which reads the same files"
        )
    write_atomically(configuration, renewed.encode())


def fail_abandoned(instance: dg.DagsterInstance) -> list[str]:
    """Fail every run that says it is under way, and return their ids.

    Call only when no worker can be alive. A machine that lost its power leaves such runs started
    for ever, holding their pool. Once they have failed, the retry daemon starts them again.
    """
    abandoned = instance.get_runs(filters=RunsFilter(statuses=AT_WORK))
    for run in abandoned:
        instance.report_run_failed(
            run,
            message="The run's worker is gone: the platform was stopped or killed while it worked.",
        )
    return [run.run_id for run in abandoned]
