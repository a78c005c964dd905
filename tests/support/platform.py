"""A whole platform for tests: real instance, MLflow, lake and ledger, and a real endpoint process; sensors drive it.

with platform(home, [tiny]) as running:
    land(running.landing, FIRST, last)
    running.driver.settle()
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import httpx

from cli.demo.driver import Driver
from cli.platform import environment
from cli.platform.home import initialise
from cli.platform.processes import endpoint_command
from declare.tabular import Tabular
from pipelines.definitions import build_definitions, platform_resources
from resources.settings import Settings, settings
from sensors import instance
from tests.support.ports import free_ports


@dataclass
class Platform:
    """What runs, and the resources by name."""

    settings: Settings
    definitions: dg.Definitions
    instance: dg.DagsterInstance
    driver: Driver
    resources: dict[str, Any]

    def __getattr__(self, name: str) -> Any:
        try:
            return self.resources[name]
        except KeyError:
            raise AttributeError(name) from None

    def post(self, pipeline: str, requests: Sequence[dict[str, Any]]) -> list[httpx.Response]:
        """Send prediction requests one by one."""
        with httpx.Client(base_url=self.settings.endpoint_url) as client:
            return [client.post(f"/predict/{pipeline}", json=request) for request in requests]


@contextmanager
def platform(home: Path, pipelines: Sequence[Tabular], **locations: str) -> Iterator[Platform]:
    """A platform in `home`, with an endpoint server of its own; `locations` are settings such as `lake="s3://…"`."""
    port, admin_port = free_ports(2)
    os.environ.update(
        {
            "EVERGREEN_HOME": str(home),
            "EVERGREEN_ENDPOINT_PORT": str(port),
            "EVERGREEN_ENDPOINT_ADMIN_PORT": str(admin_port),
        }
        | {f"EVERGREEN_{name.upper()}": uri for name, uri in locations.items()}
    )
    settings.cache_clear()
    local = settings()
    environment.apply(local)
    initialise(local)
    resources = platform_resources(local)
    definitions = build_definitions(pipelines, resources)
    log = (home / "endpoint.log").open("ab")
    server = subprocess.Popen(endpoint_command(local), stdout=log, stderr=log)
    try:
        _wait(local.endpoint_url, server)
        with instance.opened(local, compute_logs=False) as opened:
            yield Platform(local, definitions, opened, Driver(definitions, opened), resources)
    finally:
        server.terminate()
        server.wait(20)
        log.close()
        for name in (
            "EVERGREEN_ENDPOINT_PORT",
            "EVERGREEN_ENDPOINT_ADMIN_PORT",
            *(f"EVERGREEN_{name.upper()}" for name in locations),
        ):
            os.environ.pop(name, None)
        settings.cache_clear()


def _wait(url: str, server: subprocess.Popen[bytes], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while server.poll() is None and time.monotonic() < end:
        try:
            if httpx.get(f"{url}/healthz", timeout=1).status_code == 200:
                return
        except httpx.HTTPError:
            time.sleep(0.1)
    raise RuntimeError(f"the endpoint server at {url} did not come up (exit {server.poll()})")
