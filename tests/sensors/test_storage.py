"""What the local instance's storage promises: events survive, from several processes and threads at once."""

import multiprocessing
import multiprocessing.synchronize
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import dagster as dg
import pytest

from resources.settings import settings
from sensors import event_log, instance as platform

SPAWNED = multiprocessing.get_context("spawn")


@dg.asset(check_specs=[dg.AssetCheckSpec("counts", asset="counted")])
def counted() -> dg.MaterializeResult:
    passed = dg.AssetCheckResult(check_name="counts", passed=True)
    return dg.MaterializeResult(metadata={"n": 1}, check_results=[passed])


@pytest.fixture
def instance(home: Path) -> Iterator[dg.DagsterInstance]:
    platform.create(settings())
    with platform.opened(settings(), compute_logs=False) as opened:
        yield opened


def materializations(instance: dg.DagsterInstance) -> int:
    return len(instance.fetch_materializations(counted.key, limit=1_000).records)


def in_a_child() -> None:
    with platform.opened(settings(), compute_logs=False) as opened:
        assert dg.materialize([counted], instance=opened).success


def test_events_survive_the_process_that_stored_them(instance: dg.DagsterInstance) -> None:
    child = SPAWNED.Process(target=in_a_child)
    child.start()
    child.join()
    assert child.exitcode == 0

    (run,) = instance.get_runs()
    assert run.is_success
    assert [event.kind for event in event_log.events_of_run(instance, run.run_id)] == [
        "materialization",
        "check",
    ]
    assert materializations(instance) == 1


def test_processes_write_while_threads_read(instance: dg.DagsterInstance) -> None:
    assert dg.materialize([counted], instance=instance).success
    writers = [SPAWNED.Process(target=in_a_child) for _ in range(2)]
    for writer in writers:
        writer.start()
    with ThreadPoolExecutor(4) as threads:
        while any(writer.is_alive() for writer in writers):
            counts = threads.map(lambda _: materializations(instance), range(8))
            assert min(counts) >= 1
    assert [writer.exitcode for writer in writers] == [0, 0]
    assert materializations(instance) == 3
    assert instance.get_runs_count() == 3


def at_the_same_moment(barrier: multiprocessing.synchronize.Barrier) -> None:
    from cli.platform.home import initialise

    barrier.wait()
    initialise(settings())
    in_a_child()


def test_two_processes_open_a_fresh_home_at_once(home: Path) -> None:
    barrier = SPAWNED.Barrier(2)
    openers = [SPAWNED.Process(target=at_the_same_moment, args=(barrier,)) for _ in range(2)]
    for opener in openers:
        opener.start()
    for opener in openers:
        opener.join()
    assert [opener.exitcode for opener in openers] == [0, 0]
    with platform.opened(settings(), compute_logs=False) as opened:
        assert materializations(opened) == 2


def test_a_wipe_leaves_a_storage_that_works(instance: dg.DagsterInstance) -> None:
    for _ in range(2):
        run = dg.materialize([counted], instance=instance)
        assert materializations(instance) == 1
        assert len(instance.all_logs(run.run_id)) > 5
        instance.wipe()
    assert materializations(instance) == 0


# -- homes of earlier versions -----------------------------------------------------------------


def test_a_home_made_for_the_retired_storage_keeps_its_events(instance: dg.DagsterInstance) -> None:
    assert dg.materialize([counted], instance=instance).success
    configuration = settings().dagster_home / "dagster.yaml"
    shipped = configuration.read_text()
    configuration.write_text(shipped.replace(platform.STORAGE, platform.RETIRED_STORAGE))
    assert configuration.read_text() != shipped

    with platform.opened(settings()) as opened:
        assert materializations(opened) == 1
    assert configuration.read_text() == shipped


def test_a_retired_storage_in_the_operators_own_words_is_named(home: Path) -> None:
    configuration = settings().dagster_home / "dagster.yaml"
    own = "storage: {custom: {module: resources.sqlite_storage, class: SqliteStorage}}\n"
    configuration.write_text(own)
    with (
        pytest.raises(RuntimeError, match="replace its `storage` section"),
        platform.opened(settings()),
    ):
        pass
    assert configuration.read_text() == own
