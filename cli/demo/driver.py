"""A daemon for one process: evaluates the real sensors and executes what they request, in turn.

The demo and the graph tests drive the lifecycle with it. What runs is what runs in production: the
sensors, the jobs, the run keys and the event log. Only Dagster's own processes are missing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import dagster as dg
from dagster import RunsFilter

from sensors.requests import RUN_KEY

ROUNDS = 50
"""Rounds of `settle` after which something must be wrong: sensors that never stop requesting."""

SILENT = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
"""Run configuration that keeps a run's log off the console. The event log holds all of it."""


@dataclass(frozen=True)
class Ran:
    """One executed run. `failure` is the first line of the error of the step that failed."""

    run_id: str
    job: str
    sensor: str
    success: bool
    failure: str | None
    tags: Mapping[str, str]


class Driver:
    """Evaluates the sensors of `definitions` against `instance` and executes their requests.

    `observe` gets each run once it has ended. Cursors live as long as this object: a sensor must
    do without its cursor, as it must after a reset in the UI.
    """

    def __init__(
        self,
        definitions: dg.Definitions,
        instance: dg.DagsterInstance,
        observe: Callable[[Ran], None] | None = None,
    ) -> None:
        self._repository = definitions.get_repository_def()
        self._resources = definitions.resources or {}
        self._instance = instance
        self._observe = observe or (lambda ran: None)
        self._cursors: dict[str, str | None] = {}

    def settle(self) -> list[Ran]:
        """Evaluate all sensors and execute what they request, until they request nothing.

        Raises RuntimeError when they never stop, and whatever a sensor raises.
        """
        ran: list[Ran] = []
        for _ in range(ROUNDS):
            executed = self.tick()
            if not executed:
                return ran
            ran += executed

        last = ", ".join(run.job for run in ran[-3:])
        raise RuntimeError(f"the sensors requested runs in {ROUNDS} rounds in a row: {last}, …")

    def tick(self) -> list[Ran]:
        """Evaluate each sensor once, and execute its requests before the next one's turn."""
        ran: list[Ran] = []
        for sensor in self._repository.sensor_defs:
            for request in self._evaluate(sensor):
                if self._is_used(request.run_key):
                    continue
                executed = self._execute(sensor, request)
                self._observe(executed)
                ran.append(executed)
        return ran

    def _evaluate(self, sensor: dg.SensorDefinition) -> list[dg.RunRequest]:
        context = dg.build_sensor_context(
            instance=self._instance,
            cursor=self._cursors.get(sensor.name),
            repository_def=self._repository,
            sensor_name=sensor.name,
            resources={name: self._resources[name] for name in sensor.required_resource_keys},
        )
        with context:
            result = sensor.evaluate_tick(context)

        self._cursors[sensor.name] = result.cursor
        return list(result.run_requests or [])

    def _is_used(self, run_key: str | None) -> bool:
        """Whether a run has this key: Dagster honours a key once."""
        if run_key is None:
            return False
        return self._instance.get_runs_count(RunsFilter(tags={RUN_KEY: run_key})) > 0

    def _execute(self, sensor: dg.SensorDefinition, request: dg.RunRequest) -> Ran:
        """Execute a request to its end.

        Raises KeyboardInterrupt when the process was asked to stop: Dagster takes SIGINT and
        SIGTERM for the run that it executes, and here they mean the whole process.
        """
        job = request.job_name or sensor.job_name
        if job is None:
            raise RuntimeError(f"sensor {sensor.name} names no job; give it job_name=")

        key = {RUN_KEY: request.run_key} if request.run_key else {}
        tags = {**request.tags, **key, "dagster/sensor_name": sensor.name}
        result = self._repository.get_job(job).execute_in_process(
            run_config={**SILENT, **(request.run_config or {})},
            instance=self._instance,
            partition_key=request.partition_key,
            raise_on_error=False,
            asset_selection=list(request.asset_selection or ()),
            tags=tags,
        )
        failure = None if result.success else _failure(result)
        return Ran(result.run_id, job, sensor.name, result.success, failure, tags)


def _failure(result: dg.ExecuteInProcessResult) -> str:
    """The message of the first step that failed."""
    for event in result.all_events:
        if not event.is_step_failure:
            continue
        error = event.step_failure_data.error
        if error is None:
            continue
        if error.cls_name == dg.DagsterExecutionInterruptedError.__name__:
            raise KeyboardInterrupt
        return (error.cause or error).message.strip()
    return "failed before its first step"
