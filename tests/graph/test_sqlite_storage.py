"""The SQLite storage of the local instance: Dagster's own files, whoever writes them, from however many threads and processes."""

import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import dagster as dg
import pytest
from dagster import DagsterEventType
from dagster._core.instance.ref import InstanceRef
from sqlalchemy import Connection, Engine, event

from resources import environment, instance as platform
from resources.settings import settings
from resources.sqlite_storage import EventLogStorage


@dg.asset
def counted() -> dg.MaterializeResult:
    return dg.MaterializeResult(metadata={"n": 1})


@pytest.fixture
def instance(home: object) -> Iterator[dg.DagsterInstance]:
    platform.create(settings())
    with platform.opened(settings(), compute_logs=False) as opened:
        yield opened


def stored(instance: dg.DagsterInstance) -> int:
    return len(instance.fetch_materializations(counted.key, limit=1_000).records)


def in_a_child() -> None:
    with platform.opened(settings(), compute_logs=False) as opened:
        assert dg.materialize([counted], instance=opened).success


def test_the_local_instance_uses_it(instance: dg.DagsterInstance) -> None:
    assert isinstance(instance.event_log_storage, EventLogStorage)


def test_dagsters_own_storage_reads_what_it_wrote_and_the_other_way_round(
    instance: dg.DagsterInstance,
) -> None:
    own = {"storage": {"sqlite": {"base_dir": str(settings().dagster_home)}}}
    run = dg.materialize([counted], instance=instance)
    with dg.DagsterInstance.from_ref(
        InstanceRef.from_dir(str(settings().dagster_home), overrides=own)
    ) as plain:
        assert not isinstance(plain.event_log_storage, EventLogStorage)
        assert [
            record.run_id for record in plain.fetch_materializations(counted.key, limit=5).records
        ] == [run.run_id]
        assert dg.materialize([counted], instance=plain).success
    assert stored(instance) == 2
    assert instance.get_runs_count() == 2


def test_processes_write_it_while_threads_read(instance: dg.DagsterInstance) -> None:
    assert dg.materialize([counted], instance=instance).success
    writers = [multiprocessing.get_context("spawn").Process(target=in_a_child) for _ in range(2)]
    for writer in writers:
        writer.start()
    with ThreadPoolExecutor(4) as threads:
        while any(writer.is_alive() for writer in writers):
            assert min(threads.map(lambda _: stored(instance), range(8))) >= 1
    assert [writer.exitcode for writer in writers] == [0, 0]
    assert stored(instance) == 3


def test_what_a_run_plans_is_committed_at_once(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAGSTER_EVENT_BATCH_SIZE", environment.QUIET["DAGSTER_EVENT_BATCH_SIZE"])
    checked = [dg.AssetCheckSpec(f"rule_{number}", asset="many") for number in range(5)]

    @dg.asset(check_specs=checked)
    def many() -> dg.MaterializeResult:
        return dg.MaterializeResult(
            check_results=[
                dg.AssetCheckResult(check_name=each.name, passed=True) for each in checked
            ]
        )

    commits: list[Connection] = []

    def planned(connection: Connection) -> None:
        commits.append(connection)

    job = dg.Definitions([many], jobs=[dg.define_asset_job("all_of_it")]).resolve_job_def(
        "all_of_it"
    )
    event.listen(Engine, "commit", planned)
    try:
        run = instance.create_run_for_job(job)
    finally:
        event.remove(Engine, "commit", planned)
    types = [record.dagster_event_type for record in instance.all_logs(run.run_id)]
    assert (
        types
        == [DagsterEventType.ASSET_MATERIALIZATION_PLANNED]
        + [DagsterEventType.ASSET_CHECK_EVALUATION_PLANNED] * 5
    )
    assert sum("index" in str(connection.engine.url) for connection in commits) == 1


def test_a_batch_of_which_one_event_fails_leaves_nothing(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = instance.event_log_storage
    assert isinstance(storage, EventLogStorage)
    run = dg.materialize([counted], instance=instance)
    before = instance.all_logs(run.run_id)
    monkeypatch.setattr(storage, "_store_asset_event", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        storage.store_event_batch([entry for entry in before if entry.is_dagster_event])
    monkeypatch.undo()
    assert instance.all_logs(run.run_id) == before
    assert stored(instance) == 1
    assert dg.materialize([counted], instance=instance).success


def test_a_wipe_leaves_no_open_file_behind(instance: dg.DagsterInstance) -> None:
    for _ in range(2):
        run = dg.materialize([counted], instance=instance)
        assert stored(instance) == 1
        assert len(instance.all_logs(run.run_id)) > 5
        instance.wipe()
    assert stored(instance) == 0


def test_a_table_that_comes_later_is_seen_and_one_that_is_there_is_not_asked_for_again(
    instance: dg.DagsterInstance,
) -> None:
    storage = instance.event_log_storage
    assert isinstance(storage, EventLogStorage)
    assert storage.has_table("asset_keys")
    assert storage.has_asset_key_col("wipe_timestamp")
    assert not storage.has_table("made_later")
    assert not storage.has_asset_key_col("made_later")
    with storage.index_connection() as connection:
        connection.exec_driver_sql("CREATE TABLE made_later (n INTEGER)")
        connection.exec_driver_sql("ALTER TABLE asset_keys ADD COLUMN made_later INTEGER")
    assert storage.has_table("made_later")
    assert storage.has_asset_key_col("made_later")
    with storage.index_connection() as connection:
        asked: list[str] = []
        event.listen(
            connection.engine, "before_cursor_execute", lambda *told: asked.append(told[2])
        )
        # Dagster asks while it holds the connection.
        assert storage.has_table("made_later")
    assert asked == []
