"""The shape of the graph: keys, groups, kinds, dependencies, checks, jobs, schedules and sensors. A change of shape shows here."""

from __future__ import annotations

import dagster as dg
import pytest
from syrupy.assertion import SnapshotAssertion

from declare.tabular import Tabular
from pipelines.definitions import build_definitions, platform_resources
from pipelines.flight_delays import pipeline as flight_delays
from resources.settings import Settings
from tests.support.tiny import tiny


@pytest.mark.parametrize("pipeline", [flight_delays, tiny], ids=lambda pipeline: pipeline.name)
def test_the_graph_keeps_its_shape(pipeline: Tabular, snapshot: SnapshotAssertion) -> None:
    definitions = build_definitions([pipeline], platform_resources(Settings()))
    dg.Definitions.validate_loadable(definitions)
    graph = definitions.resolve_asset_graph()
    lines = []
    for key in sorted(graph.get_all_asset_keys(), key=lambda key: key.path):
        node = graph.get(key)
        assert node.owners == [pipeline.owner]
        daily = "daily " if node.partitions_def else ""
        lines.append(
            f"{daily}{key.to_user_string()}  [{node.group_name}: {', '.join(sorted(node.kinds))}]"
        )
        lines += [
            f"    from {parent.to_user_string()}"
            for parent in sorted(node.parent_keys, key=lambda parent: parent.path)
        ]
        for check in sorted(graph.get_check_keys_for_assets({key}), key=lambda check: check.name):
            lines.append(
                f"    check {check.name}{' (blocking)' if graph.get(check).blocking else ''}"
            )
    repository = definitions.get_repository_def()
    lines += [f"job {name}" for name in sorted(repository.job_names) if not name.startswith("__")]
    lines += [
        f"schedule {schedule.name} {schedule.cron_schedule} {schedule.default_status.value}"
        for schedule in sorted(repository.schedule_defs, key=lambda schedule: schedule.name)
    ]
    lines += [
        f"sensor {sensor.name} {sensor.default_status.value}"
        for sensor in sorted(repository.sensor_defs, key=lambda sensor: sensor.name)
    ]
    assert "\n".join(lines) == snapshot
