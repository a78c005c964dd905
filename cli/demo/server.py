"""The demo's endpoint: the real server, as a process of its own."""

from __future__ import annotations

import ctypes
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from cli.output import CommandError
from cli.platform.health import get
from cli.platform.processes import endpoint_command
from resources.settings import Settings

START_SECONDS = 60.0
STOP_SECONDS = 5.0
_PR_SET_PDEATHSIG = 1


def free_ports(*hosts: str) -> list[int]:
    """A port that nobody listens on, for each host."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in hosts]
        for host, bound in zip(hosts, sockets, strict=True):
            bound.bind((host, 0))
        return [bound.getsockname()[1] for bound in sockets]


@contextmanager
def endpoint(settings: Settings) -> Iterator[None]:
    """The endpoint server for the length of a `with`; it dies with this process too.

    Raises CommandError when it does not come up.
    """
    log = settings.home / "endpoint.log"
    libc = ctypes.CDLL(None)
    with open(log, "ab") as output:
        server = subprocess.Popen(
            endpoint_command(settings),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            preexec_fn=lambda: libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM),
        )
    try:
        end = time.monotonic() + START_SECONDS
        while not _answers(settings):
            if server.poll() is not None or time.monotonic() > end:
                raise CommandError(f"the endpoint server did not come up; its log is {log}")
            time.sleep(0.1)
        yield
    finally:
        _stop(server)


def _answers(settings: Settings) -> bool:
    try:
        get(f"{settings.endpoint_admin_url}/healthz", timeout=1)
    except (OSError, ValueError):
        return False
    return True


def _stop(server: subprocess.Popen[bytes]) -> None:
    server.terminate()
    try:
        server.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()
