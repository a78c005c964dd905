"""The servers that are compared: how each is installed, started and asked."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psutil

from benchmarks.serving import bodies
from benchmarks.serving.bodies import Body, Encoding
from benchmarks.serving.task import NAME, Task
from tests.support.endpoint import TREE
from tests.support.ports import free_ports

PEERS = Path(__file__).parent / "peers"
START_SECONDS = 120.0
# Nobody's threads may fight for the one core, and nobody dials out.
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "BENTOML_DO_NOT_TRACK": "True",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "1",
    "no_proxy": "127.0.0.1",
    "NO_PROXY": "127.0.0.1",
}


class UnavailableError(RuntimeError):
    """A server cannot be measured here, and why."""


@dataclass(frozen=True)
class Launch:
    """What a server needs to start: `python` of its environment, a folder, free ports, workers."""

    task: Task
    python: Path
    folder: Path
    ports: tuple[int, int, int]
    workers: int = 1


@dataclass(frozen=True)
class Server:
    """`command` may write files into the launch's folder first.

    `variables` are more environment variables. Without `locked` it runs in this repository's own
    environment. Batches are also sent in `other_json`.
    """

    name: str
    says: str
    command: Callable[[Launch], Sequence[str]]
    json: Encoding
    binary: tuple[Encoding, ...] = ()
    other_json: tuple[Encoding, ...] = ()
    locked: bool = True
    headers: Callable[[Task], Mapping[str, str]] = lambda _: {}
    variables: Callable[[Launch], Mapping[str, str]] = lambda _: {}


@dataclass
class Running:
    """A started server: its first port answers, `start_seconds` after the process was made.

    `rows` counts all rows that it has answered to clients.
    """

    process: psutil.Process
    url: str
    headers: Mapping[str, str]
    start_seconds: float = 0.0
    rows: int = 0
    family: list[psutil.Process] = field(default_factory=list)

    def processes(self) -> list[psutil.Process]:
        with contextlib.suppress(psutil.NoSuchProcess):
            self.family = [self.process, *self.process.children(recursive=True)]
        return self.family

    def memory(self) -> tuple[float, float]:
        """RSS and PSS in MB, of all processes together; RSS counts shared pages once for each."""
        found = []
        for process in self.processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                found.append(process.memory_full_info())
        return sum(each.rss for each in found) / 1e6, sum(each.pss for each in found) / 1e6

    def cpu_seconds(self) -> float:
        seconds = 0.0
        for process in self.processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                seconds += times.user + times.system
        return seconds


# What is started.


def endpoint_command(launch: Launch) -> Sequence[str]:
    return (
        str(launch.python),
        "-m",
        "serving",
        "--root",
        str(launch.task.root),
        "--public-key",
        str(launch.task.public_key),
        "--state",
        str(launch.folder),
        "--port",
        str(launch.ports[0]),
        "--admin-port",
        str(launch.ports[1]),
        "--workers",
        str(launch.workers),
        "--answer-seconds",
        "60",
    )


def _hello(launch: Launch) -> Sequence[str]:
    return str(launch.python), "-m", "benchmarks.hello", str(launch.ports[0])


def _uvicorn(launch: Launch) -> Sequence[str]:
    return (
        str(launch.python),
        "-m",
        "uvicorn",
        "benchmarks.hello_asgi:app",
        "--port",
        str(launch.ports[0]),
        "--no-access-log",
        "--loop",
        "uvloop",
        "--http",
        "httptools",
    )


def _mlserver(launch: Launch) -> Sequence[str]:
    settings = {
        "host": "127.0.0.1",
        "http_port": launch.ports[0],
        "grpc_port": launch.ports[1],
        "metrics_port": launch.ports[2],
        "parallel_workers": 0,
        "debug": False,
        "gzip_enabled": False,
        "metrics_endpoint": None,
    }
    model = {
        "name": NAME,
        "implementation": "mlserver_xgboost.XGBoostModel",
        "parameters": {"uri": str(launch.task.model)},
    }
    (launch.folder / "settings.json").write_text(json.dumps(settings))
    (launch.folder / "model-settings.json").write_text(json.dumps(model))
    return _script(launch, "mlserver"), "start", str(launch.folder)


def _mlflow(launch: Launch) -> Sequence[str]:
    saved = launch.folder / "model"
    quiet(str(launch.python), str(PEERS / "mlflow_model.py"), str(launch.task.model), str(saved))
    return (
        _script(launch, "mlflow"),
        "models",
        "serve",
        "--model-uri",
        str(saved),
        "--env-manager",
        "local",
        "--host",
        "127.0.0.1",
        "--port",
        str(launch.ports[0]),
        "--workers",
        "1",
    )


def _bentoml(launch: Launch) -> Sequence[str]:
    shutil.copy(PEERS / "bentoml_service.py", launch.folder / "service.py")
    return (
        _script(launch, "bentoml"),
        "serve",
        "service:Model",
        "--working-dir",
        str(launch.folder),
        "--host",
        "127.0.0.1",
        "--port",
        str(launch.ports[0]),
    )


def _fastapi(launch: Launch) -> Sequence[str]:
    return (
        str(launch.python),
        "-m",
        "uvicorn",
        "fastapi_app:app",
        "--app-dir",
        str(PEERS),
        "--host",
        "127.0.0.1",
        "--port",
        str(launch.ports[0]),
        "--no-access-log",
    )


def _script(launch: Launch, name: str) -> str:
    return str(launch.python.with_name(name))


ENDPOINT = Server(
    "evergreen",
    "validation, online features, durable log, API key",
    endpoint_command,
    bodies.ENDPOINT_JSON,
    (bodies.ENDPOINT_ARROW, bodies.ENDPOINT_TENSORS),
    (bodies.ENDPOINT_COLUMNS,),
    locked=False,
    headers=lambda task: {"authorization": f"Bearer {task.key}"},
)
FLOOR = Server(
    "hello",
    "the endpoint's HTTP server, five bytes for an answer",
    _hello,
    bodies.ENDPOINT_JSON,
    locked=False,
)
# Most peers stand on this.
USUAL_FLOOR = Server(
    "hello, uvicorn",
    "uvicorn's own HTTP, five bytes for an answer",
    _uvicorn,
    bodies.ENDPOINT_JSON,
    locked=False,
)
FLOORS = (FLOOR, USUAL_FLOOR)
SERVERS = (
    *FLOORS,
    ENDPOINT,
    Server("mlserver", "in-process, no metrics, no compression", _mlserver, bodies.MLSERVER_JSON),
    Server(
        "bentoml",
        "one worker, no access log, no metrics",
        _bentoml,
        bodies.BENTOML_JSON,
        variables=lambda launch: {"BENTOML_HOME": str(launch.folder / "bentoml")},
    ),
    Server(
        "litserve",
        "one worker, batching",
        lambda launch: (str(launch.python), str(PEERS / "litserve_app.py")),
        bodies.LITSERVE_JSON,
    ),
    Server(
        "fastapi",
        "pydantic rows, pandas frame",
        _fastapi,
        bodies.FASTAPI_JSON,
        (bodies.FASTAPI_ARROW,),
    ),
    Server("mlflow", "mlflow models serve", _mlflow, bodies.MLFLOW_JSON, (bodies.MLFLOW_PARQUET,)),
)


# Installing and running.


def environment(server: Server, cache: Path) -> Path:
    """The Python of a server's own virtual environment in `cache`.

    It is made from the lock file where it is not there or the lock has changed. Raises
    UnavailableError where it cannot be installed.
    """
    if not server.locked:
        return Path(sys.executable)
    lock, place = PEERS / f"{server.name}.lock", cache / server.name
    python, stamp = place / "bin" / "python", place / "installed.lock"
    if stamp.exists() and stamp.read_text() == lock.read_text():
        return python
    uv = Path(sys.executable).parent.parent / "tools" / "bin" / "uv"
    try:
        quiet(str(uv), "venv", "--quiet", "--clear", "--python", sys.executable, str(place))
        # The lock is whole; xgboost-cpu stands in for the xgboost with a GPU runtime that some of
        # them ask for.
        quiet(
            str(uv),
            "pip",
            "sync",
            "--quiet",
            "--compile-bytecode",
            "--python",
            str(python),
            str(lock),
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise UnavailableError(f"it could not be installed: {reason(error)}") from error
    stamp.write_text(lock.read_text())
    return python


def reason(error: Exception) -> str:
    """The last line that a failed command said."""
    said = (
        error.stderr.strip().splitlines()
        if isinstance(error, subprocess.CalledProcessError)
        else []
    )
    return said[-1] if said else str(error)


def quiet(*command: str) -> None:
    """Raises OSError and subprocess.CalledProcessError with what the command said."""
    subprocess.run(
        command,
        check=True,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        env={**os.environ, **ENVIRONMENT},
        timeout=500,
    )


@contextmanager
def started(server: Server, launch: Launch, cores: set[int]) -> Iterator[Running]:
    """The server on these cores, once it answers as it should; gone on leaving, whatever happens.

    Raises UnavailableError where it does not come up, or predicts something else than the model."""
    task = launch.task
    try:
        command = server.command(launch)
    except (OSError, subprocess.SubprocessError) as error:
        raise UnavailableError(f"it could not be prepared: {reason(error)}") from error
    log = launch.folder / "server.log"
    variables = {
        "MODEL": str(task.model),
        "FEATURES": ",".join(task.names),
        "PORT": str(launch.ports[0]),
        "PATH": f"{launch.python.parent}:{os.environ['PATH']}",
        **({"PYTHONPATH": str(TREE)} if not server.locked else {}),
        **ENVIRONMENT,
        **server.variables(launch),
    }
    inherited = {
        name: value
        for name, value in os.environ.items()
        if name not in ("PYTHONPATH", "PYTHONDONTWRITEBYTECODE")
    }
    begun = time.monotonic()
    with open(log, "wb") as output:
        process = subprocess.Popen(
            command,
            stdout=output,
            stderr=output,
            stdin=subprocess.DEVNULL,
            cwd=launch.folder,
            env={**inherited, **variables},
            start_new_session=True,
            preexec_fn=lambda: _confine(cores),
        )
    running = Running(
        psutil.Process(process.pid), f"http://127.0.0.1:{launch.ports[0]}", server.headers(task)
    )
    try:
        body = server.json.encode(task, [0])
        with httpx.Client(base_url=running.url, timeout=10, trust_env=False) as client:
            while True:
                with contextlib.suppress(httpx.TransportError):
                    if ask(client, running, server.json, body).status_code == 200:
                        running.rows += 1
                        break
                if process.poll() is not None or time.monotonic() - begun > START_SECONDS:
                    said = log.read_text(errors="replace").strip().splitlines()
                    raise UnavailableError(
                        f"it does not answer: {said[-1] if said else 'it said nothing'}"
                    )
                time.sleep(0.02)
        running.start_seconds = time.monotonic() - begun
        if server not in FLOORS:
            agree(server, running, task)
        yield running
    finally:
        _end(process, running)


def ask(client: httpx.Client, running: Running, encoding: Encoding, body: Body) -> httpx.Response:
    headers = {"content-type": encoding.kind, **running.headers, **body.headers}
    return client.post(encoding.path, content=body.content, headers=headers)


def agree(server: Server, running: Running, task: Task) -> None:
    """Raises UnavailableError where an answer is not what the model predicts.

    One row is asked, and a hundred in each encoding.
    """
    with httpx.Client(base_url=running.url, timeout=60, trust_env=False) as client:
        for encoding, rows in (
            (server.json, 1),
            *((found, 100) for found in (server.json, *server.other_json, *server.binary)),
        ):
            answer = ask(client, running, encoding, encoding.encode(task, range(rows)))
            if answer.status_code != 200:
                raise UnavailableError(
                    f"it answers {rows} rows of {encoding.named} with {answer.status_code}: "
                    f"{answer.text[:200]}"
                )
            running.rows += rows
            found = encoding.decode(answer.content, answer.headers)
            worst = (
                max(
                    abs(value - expected)
                    for value, expected in zip(found, task.expected, strict=False)
                )
                if found
                else 1.0
            )
            if len(found) != rows or not worst <= 1e-5:
                raise UnavailableError(
                    f"{rows} rows of {encoding.named}: {len(found)} predictions, "
                    f"off by up to {worst:.2g} (limit 1e-5)"
                )


def launch_of(task: Task, python: Path, folder: Path, workers: int = 1) -> Launch:
    first, second, third = free_ports(3)
    return Launch(task, python, folder, (first, second, third), workers)


def _confine(cores: set[int]) -> None:
    os.sched_setaffinity(0, cores)
    # Ends with this program, even if that is killed (prctl(2), PR_SET_PDEATHSIG).
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)


def _end(process: subprocess.Popen[bytes], running: Running) -> None:
    """Stop a server and everything that it started."""
    family = running.processes()
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(10)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    for each in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            # psutil remembers when it started, so no later process with its number is hit.
            each.kill()
    process.wait()
