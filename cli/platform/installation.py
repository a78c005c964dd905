"""Checks of the machine and the installation, before anything starts."""

from __future__ import annotations

import errno
import shutil
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from bundle.models.trees.walker import MISSING

PYTHON = (3, 11)
FREE_MIB = 2048
REQUIRED = (
    "dagster",
    "dagster-webserver",
    "polars",
    "deltalake",
    "mlflow",
    "xgboost",
    "scikit-learn",
    "uvicorn",
    "supervisor",
)


@dataclass(frozen=True)
class Check:
    """One thing looked at: `problem` is one clear line with the way out, None where all is well."""

    name: str
    found: str
    problem: str | None = None


def python_version() -> Check:
    found = ".".join(map(str, sys.version_info[:3]))
    wrong = sys.version_info[:2] != PYTHON
    return Check(
        "python",
        found,
        f"Python {found} runs this; Evergreen needs 3.11: run `make setup` with python3.11 on PATH"
        if wrong
        else None,
    )


def trees() -> Check:
    """What walks trees for few rows; both give the same answers, so neither is a problem."""
    if MISSING is None:
        return Check("trees", "the platform's walker")
    return Check("trees", f"treelite's interpreter, which is slower: {MISSING}")


def disk(home: Path) -> Check:
    place = home.absolute()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free // 2**20
    problem = (
        None
        if free >= FREE_MIB
        else f"{free} MiB are free on the disk of {home}, {FREE_MIB} are needed: make room or set "
        "EVERGREEN_HOME"
    )
    return Check("disk", f"{free} MiB free", problem)


def port(host: str, number: int, service: str, setting: str) -> Check:
    """Whether a service could listen there now."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, number))
        except OSError as error:
            why = (
                "is in use"
                if error.errno == errno.EADDRINUSE
                else f"cannot be listened on ({error.strerror})"
            )
            return Check(
                f"port {number}",
                why,
                f"port {number} on {host} {why}; free it, or move the {service} with "
                f"{setting}=<port>",
            )
    return Check(f"port {number}", "free")


def packages(required: tuple[str, ...] = REQUIRED) -> Check:
    missing, versions = [], []
    for name in required:
        try:
            versions.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            missing.append(name)
    problem = (
        f"{', '.join(missing)} not installed in {sys.prefix}: run `make setup`" if missing else None
    )
    return Check("packages", ", ".join(versions), problem)


def preflight(home: Path, host: str, ports: Mapping[str, tuple[int, str]]) -> list[Check]:
    """Everything `up` needs before it starts anything.

    `ports` are the number of each service, and the setting that moves it.
    """
    return [
        python_version(),
        disk(home),
        packages(),
        *(port(host, number, service, setting) for service, (number, setting) in ports.items()),
    ]
