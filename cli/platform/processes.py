"""The processes of a running platform.

What they are, the supervisor's configuration, and the end of what was left behind.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cli.platform.environment import HOME_MARK
from resources.settings import Settings

STOP_SECONDS = 3
"""How long a process may take to end by itself before it is killed; all are stopped at once."""


@dataclass(frozen=True)
class Program:
    """One supervised process.

    `service` is what people call it. `restart` is "always" or "on failure" (a feed may finish).
    """

    name: str
    service: str
    command: tuple[str, ...]
    restart: str = "always"


def ports(settings: Settings) -> dict[str, tuple[int, str]]:
    """Service -> the port it listens on and the setting that moves it."""
    return {
        "code server": (settings.code_port, "EVERGREEN_CODE_PORT"),
        "Dagster UI": (settings.dagster_port, "EVERGREEN_DAGSTER_PORT"),
        "MLflow": (settings.mlflow_port, "EVERGREEN_MLFLOW_PORT"),
        "endpoint": (settings.endpoint_port, "EVERGREEN_ENDPOINT_PORT"),
        "endpoint's admin port": (settings.endpoint_admin_port, "EVERGREEN_ENDPOINT_ADMIN_PORT"),
        "reports": (settings.reports_port, "EVERGREEN_REPORTS_PORT"),
        **(
            {}
            if settings.endpoint_grpc_port is None
            else {"endpoint's gRPC": (settings.endpoint_grpc_port, "EVERGREEN_ENDPOINT_GRPC_PORT")}
        ),
    }


def endpoint_command(settings: Settings) -> tuple[str, ...]:
    secured: list[str] = []
    if settings.endpoint_certificate:
        secured += ["--tls-certificate", str(settings.endpoint_certificate.absolute())]
    if settings.endpoint_private_key:
        secured += ["--tls-key", str(settings.endpoint_private_key.absolute())]

    grpc = (
        ()
        if settings.endpoint_grpc_port is None
        else ("--grpc-port", str(settings.endpoint_grpc_port))
    )
    return (
        sys.executable, "-m", "serving",
        "--root", str(settings.endpoint_path),
        "--host", settings.host,
        "--port", str(settings.endpoint_port),
        "--admin-port", str(settings.endpoint_admin_port),
        *grpc,
        "--public-key", str(settings.keys_path / "platform.pub"),
        "--keys", str(settings.api_keys_path),
        *secured,
        *shlex.split(settings.endpoint_options),
    )  # fmt: skip


def _code_server(settings: Settings) -> tuple[str, ...]:
    return (
        sys.executable, "-m", "dagster", "code-server", "start",
        "-m", "pipelines.definitions",
        "--location-name", "evergreen",
        "-h", settings.host,
        "-p", str(settings.code_port),
        "--use-python-environment-entry-point",
    )  # fmt: skip


def _mlflow(settings: Settings) -> tuple[str, ...]:
    artifacts = settings.home.absolute() / "mlflow" / "artifacts"
    return (
        sys.executable, "-m", "mlflow", "server",
        "--backend-store-uri", settings.mlflow_uri,
        "--host", settings.host,
        "--port", str(settings.mlflow_port),
        "--artifacts-destination", str(artifacts),
        "--workers", "1",
    )  # fmt: skip


def programs(settings: Settings, feed: Sequence[str] | None) -> list[Program]:
    """Everything `evergreen up` runs.

    `feed` holds the options of `evergreen replay`; None runs no feed.

    What people wait for, the UI, starts first; MLflow, which is slow to come up, waits for it. The
    daemon waits for its code server, and for the feed's history: landed before the daemon looks, it
    is ingested in one run.
    """
    home, python, host = settings.home.absolute(), sys.executable, settings.host
    locations = ("-w", str(settings.dagster_home / "workspace.yaml"))

    def after(*conditions: str) -> tuple[str, ...]:
        return (python, "-m", "cli.platform.start_after", *conditions, "--")

    pages = (python, "-m", "cli.platform.reports_server")
    history = () if feed is None else (str(home / "replay.json"),)
    found = [
        Program("code", "code server", _code_server(settings)),
        Program(
            "webserver",
            "Dagster UI",
            (
                python,
                "-m",
                "dagster_webserver",
                "-h",
                host,
                "-p",
                str(settings.dagster_port),
                *locations,
            ),
        ),
        Program(
            "daemon",
            "Dagster daemon",
            (
                *after(f"{host}:{settings.code_port}", *history),
                python,
                "-m",
                "dagster._daemon",
                "run",
                *locations,
            ),
        ),
        Program("endpoint", "endpoint", endpoint_command(settings)),
        Program("reports", "reports", pages),
        Program(
            "mlflow", "MLflow", (*after(f"{host}:{settings.dagster_port}"), *_mlflow(settings))
        ),
    ]
    if feed is not None:
        replay = (python, "-m", "cli.main", "replay", "--follow", *feed)
        found.append(Program("feed", "flight feed", replay, restart="on failure"))
    return found


def workspace(settings: Settings) -> str:
    """The workspace file of web server and daemon: they share one code server."""
    return (
        "load_from:\n"
        "  - grpc_server:\n"
        f"      host: {settings.host}\n"
        f"      port: {settings.code_port}\n"
        "      location_name: evergreen\n"
    )


def supervisor_configuration(home: Path, started: Sequence[Program]) -> str:
    """supervisord's configuration.

    One group, so that a stop reaches all processes at once instead of one after the other.
    """
    logs = home / "logs"
    lines = [
        "[supervisord]",
        "nodaemon=true",
        "silent=true",
        f"logfile={_value(logs / 'supervisor.log')}",
        "logfile_maxbytes=5MB",
        f"pidfile={_value(home / 'run' / 'supervisor.pid')}",
        f"childlogdir={_value(logs)}",
        f"directory={_value(home)}",
        "minfds=1024",
        "",
        "[group:evergreen]",
        f"programs={','.join(program.name for program in started)}",
    ]
    for program in started:
        lines += [
            "",
            f"[program:{program.name}]",
            f"command={_value(' '.join(_quoted(word) for word in program.command))}",
            f"autorestart={'true' if program.restart == 'always' else 'unexpected'}",
            "startsecs=1",
            "startretries=1000",
            "stopsignal=TERM",
            f"stopwaitsecs={STOP_SECONDS}",
            "stopasgroup=true",
            "killasgroup=true",
            "redirect_stderr=true",
            f"stdout_logfile={_value(logs / f'{program.name}.log')}",
            "stdout_logfile_maxbytes=20MB",
            "stdout_logfile_backups=2",
        ]
    return "\n".join(lines) + "\n"


def sweep(home: Path, seconds: float = 3.0) -> list[int]:
    """End every process that carries this home's mark, and return their ids.

    They are children and grandchildren of a supervisor that was killed, runs included. This process
    and those it descends from are spared.
    """
    import psutil

    spared = {process.pid for process in (psutil.Process(), *psutil.Process().parents())}
    left = [
        process
        for process in psutil.process_iter()
        if process.pid not in spared and _mark(process) == str(home.absolute())
    ]
    for process in left:
        _send(process, "terminate")
    _, alive = psutil.wait_procs(left, timeout=seconds)
    for process in alive:
        _send(process, "kill")
    psutil.wait_procs(alive, timeout=2)
    return [process.pid for process in left]


def _mark(process: object) -> str | None:
    import psutil

    assert isinstance(process, psutil.Process)
    try:
        return process.environ().get(HOME_MARK)
    except (psutil.Error, OSError):  # another user's, or gone by now
        return None


def _send(process: object, what: str) -> None:
    import contextlib

    import psutil

    with contextlib.suppress(psutil.NoSuchProcess):
        getattr(process, what)()


def _quoted(word: str) -> str:
    return f'"{word}"' if " " in word else word


def _value(value: object) -> str:
    """supervisord expands %(…)s."""
    return str(value).replace("%", "%%")
