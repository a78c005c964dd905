"""A daemon for one process: evaluates the real sensors against a real instance and executes what they request, in turn.

The demo and the graph tests drive the lifecycle with it. What runs is what runs in production (the sensors, the jobs, the
run keys, the event log); only Dagster's own processes are missing. With a `SecondProcess` two runs go on at once, as they do in
production.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import dagster as dg
from dagster import RunsFilter
from dagster._core.definitions.job_base import InMemoryJob
from dagster._core.execution.execute_in_process import core_execute_in_process, merge_run_tags
from dagster._core.storage.tags import PRIORITY_TAG, RUN_KEY_TAG

LOWEST = 19
"""Niceness of a process that takes only the time that nobody else wants."""

TICKS = 50
"""Rounds of `settle` after which something must be wrong: sensors that request for ever."""


QUIET_LOGS = {"loggers": {"console": {"config": {"log_level": "ERROR"}}}}
"""The event log keeps everything; the console of a driver tells errors alone."""


@dataclass(frozen=True)
class Request:
    """A run that a sensor asks for."""

    job: str
    sensor: str
    selection: frozenset[dg.AssetKey]
    partition_key: str | None
    run_config: Mapping[str, Any]
    tags: Mapping[str, str]

    @property
    def hurried(self) -> bool:
        """Whether something may wait for it: nothing does for a priority below 0."""
        return int(self.tags.get(PRIORITY_TAG, 0)) >= 0


@dataclass(frozen=True)
class Ran:
    """One executed run: `failure` the first line of what went wrong."""

    run_id: str
    job: str
    sensor: str
    success: bool
    failure: str | None
    tags: dict[str, str]


class Runs:
    """Executes the jobs of `definitions` in this process, recorded by `instance`."""

    def __init__(self, definitions: dg.Definitions, instance: dg.DagsterInstance) -> None:
        self._repository = definitions.get_repository_def()
        self._instance = instance
        self._jobs: dict[tuple[str, frozenset[dg.AssetKey]], dg.JobDefinition] = {}

    def execute(self, request: Request) -> Ran:
        """Execute a run to its end. What fails in it is told; raises KeyboardInterrupt when this process was told to stop."""
        job, selection = self._job(request.job, request.selection), list(request.selection)
        result = core_execute_in_process(
            job=InMemoryJob(job),
            run_config=dict(request.run_config),
            instance=self._instance,
            output_capturing_enabled=True,
            raise_on_error=False,
            run_tags=merge_run_tags(
                job,
                request.partition_key,
                dict(request.tags),
                selection,
                self._instance,
                dict(request.run_config),
            ),
            asset_selection=request.selection,
        )
        failure = None
        if not result.success:
            failed = [
                event.event_specific_data for event in result.all_events if event.is_step_failure
            ]
            error = getattr(failed[0], "error", None) if failed else None
            if error is not None and error.cls_name == "DagsterExecutionInterruptedError":
                # Dagster takes Ctrl-C and SIGTERM for itself while it executes; here they mean this whole process.
                raise KeyboardInterrupt
            failure = (
                (error.cause or error).message.strip() if error else "failed before its first step"
            )
        return Ran(
            result.run_id, request.job, request.sensor, result.success, failure, dict(request.tags)
        )

    def _job(self, name: str, selection: frozenset[dg.AssetKey]) -> dg.JobDefinition:
        """A job, or its part with the selected assets, for this process: what `JobDefinition.execute_in_process` makes anew, with
        its snapshot and all, for each run."""
        if (name, selection) not in self._jobs:
            job = self._repository.get_job(name)
            self._jobs[name, selection] = job.as_ephemeral_job(
                {}, {}, asset_selection=list(selection)
            )
        return self._jobs[name, selection]


class OtherProcesses:
    """Execute runs beside this process: one those that are waited for, another, which takes only the time that nobody else wants, those
    that are not. A run whose process dies raises BrokenProcessPool here."""

    def __init__(self, hurried: ProcessPoolExecutor, unhurried: ProcessPoolExecutor) -> None:
        self._hurried, self._unhurried = hurried, unhurried

    def submit(self, request: Request) -> Future[Ran]:
        return (self._hurried if request.hurried else self._unhurried).submit(_execute, request)


@contextmanager
def other_processes(opened: Callable[[], AbstractContextManager[Runs]]) -> Iterator[OtherProcesses]:
    """Processes for the length of a `with`, at whose end the runs under way are finished and those that wait are forgotten. Each opens what it
    needs by calling `opened` (a function of a module: it is named to the new process) and dies with this one; the unhurried one starts
    with its first run."""
    # Spawned, not forked: this process has threads (Polars, deltalake), whose locks a fork would copy as they stand.
    spawned = multiprocessing.get_context("spawn")
    hurried, unhurried = (
        ProcessPoolExecutor(1, spawned, _open, (opened, niceness)) for niceness in (0, LOWEST)
    )
    try:
        hurried.submit(_ready)
        yield OtherProcesses(hurried, unhurried)
    finally:
        for pool in (hurried, unhurried):
            pool.shutdown(cancel_futures=True)


_beside = ExitStack()
_runs: Runs | None = None


def _open(opened: Callable[[], AbstractContextManager[Runs]], niceness: int) -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    os.nice(niceness)
    global _runs
    _runs = _beside.enter_context(opened())


def _ready() -> None:
    """Nothing to do: the process is started for its first task."""


def _execute(request: Request) -> Ran:
    if _runs is None:
        raise RuntimeError("the process was not opened")
    return _runs.execute(request)


class Driver:
    """Evaluates `definitions`' sensors against `instance`, and hands each run to `observe` when it ended. Cursors are kept for the length of the object; a sensor that has
    no cursor must work without one, as after a reset in the UI.

    What one evaluation of a sensor requests may run at once: with processes `beside` this one the first of it runs here and the others there.
    Unhurried runs go on there while this process does other things; `finish` waits for them.
    """

    def __init__(
        self,
        definitions: dg.Definitions,
        instance: dg.DagsterInstance,
        observe: Callable[[Ran], None] | None = None,
        skip: tuple[str, ...] = (),
        beside: OtherProcesses | None = None,
    ) -> None:
        self._repository = definitions.get_repository_def()
        self._instance = instance
        self._runs, self._beside = Runs(definitions, instance), beside
        resources = self._repository.get_top_level_resources()
        # Made once: for each evaluation Dagster would read their whole declarations again. They hold nothing open.
        with dg.build_resources(resources, instance) as made:
            self._resources = {
                name: dg.ResourceDefinition.hardcoded_resource(getattr(made, name))
                for name in resources
            }
        self._observe = observe or (lambda ran: None)
        self._cursors: dict[str, str | None] = {}
        self._unhurried: list[Future[Ran]] = []
        self._sensors = [
            sensor for sensor in self._repository.sensor_defs if sensor.name not in skip
        ]

    def settle(self) -> list[Ran]:
        """Evaluate all sensors, execute what they request, and again until they request nothing. Raises RuntimeError when they
        never stop, and whatever a sensor raises."""
        ran: list[Ran] = []
        for _ in range(TICKS):
            made = self.tick()
            ran.extend(made)
            if not made:
                return ran
        raise RuntimeError(
            f"the sensors requested runs in {TICKS} rounds one after the other: {', '.join(run.job for run in ran[-3:])}, …"
        )

    def finish(self) -> list[Ran]:
        """Wait for the runs that nothing waited for."""
        ran = [each.result() for each in self._unhurried]
        self._unhurried.clear()
        for made in ran:
            self._observe(made)
        return ran

    def tick(self) -> list[Ran]:
        """One evaluation of each sensor, with its requests executed before the next one's."""
        ran: list[Ran] = []
        for sensor in self._sensors:
            for made in self._execute(
                [self._request(sensor, request) for request in self._evaluate(sensor)]
            ):
                self._observe(made)
                ran.append(made)
        return ran

    def _evaluate(self, sensor: dg.SensorDefinition) -> list[dg.RunRequest]:
        with ExitStack() as stack:
            context = stack.enter_context(
                dg.build_sensor_context(
                    instance=self._instance,
                    cursor=self._cursors.get(sensor.name),
                    repository_def=self._repository,
                    sensor_name=sensor.name,
                    resources={
                        name: self._resources[name] for name in sensor.required_resource_keys
                    },
                )
            )
            result = sensor.evaluate_tick(context)
        self._cursors[sensor.name] = result.cursor
        return list(result.run_requests or [])

    def _request(self, sensor: dg.SensorDefinition, request: dg.RunRequest) -> Request:
        name = request.job_name or sensor.job_name
        if name is None:
            raise RuntimeError(
                f"sensor {sensor.name} requests a run but names no job; give it job_name="
            )
        tags = {
            **request.tags,
            "dagster/sensor_name": sensor.name,
            **({RUN_KEY_TAG: request.run_key} if request.run_key else {}),
        }
        selection = frozenset(request.asset_selection or ())
        return Request(
            name,
            sensor.name,
            selection,
            request.partition_key,
            {**QUIET_LOGS, **(request.run_config or {})},
            tags,
        )

    def _execute(self, requests: list[Request]) -> list[Ran]:
        """Execute requests, but for those whose run key was used before: Dagster honours a key once."""
        keys: set[str] = set()
        fresh = []
        for request in requests:
            key = request.tags.get(RUN_KEY_TAG)
            if key is None or (
                key not in keys
                and not self._instance.get_runs_count(RunsFilter(tags={RUN_KEY_TAG: key}))
            ):
                fresh.append(request)
                keys.update({key} if key else ())
        if self._beside is None:
            return [self._runs.execute(request) for request in fresh]
        hurried = [request for request in fresh if request.hurried]
        self._unhurried += [
            self._beside.submit(request) for request in fresh if not request.hurried
        ]
        beside = [self._beside.submit(request) for request in hurried[1:]]
        return [*map(self._runs.execute, hurried[:1]), *(each.result() for each in beside)]
