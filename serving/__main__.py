"""`python -m serving`: the endpoint server as a process."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Sequence

from serving import arguments as command_line
from serving.callers.access import has_active
from serving.lean import stay_lean
from serving.listening import Inherited, tls
from serving.options import Options
from serving.watch import logs

WRONG_USE, CANNOT_START = 2, 3
RESPAWN_SECONDS = 0.5


def main(arguments: Sequence[str] | None = None) -> int:
    given = list(sys.argv[1:] if arguments is None else arguments)
    found = command_line.parser().parse_args(given)
    logs.configure(found.json_logs)
    if found.workers < 1 or not all(
        0 <= port < 65536 for port in (found.port, found.admin_port, found.grpc_port or 0)
    ):
        return refuse(
            f"--workers {found.workers} --port {found.port} --admin-port {found.admin_port} "
            f"--grpc-port {found.grpc_port}: "
            "give at least one worker, and ports from 0 to 65535.",
            WRONG_USE,
        )

    try:
        options = command_line.options(found)
        problem = unsafe(options)
    except (ValueError, OSError) as error:
        problem = str(error)
    if problem is not None:
        return refuse(problem, WRONG_USE)
    # One request is computed by one thread; more would only fight for the core.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    stay_lean()
    from serving.server import run

    if found.inherited is not None:
        run(options, Inherited.parsed(found.inherited))
        return 0
    try:
        inherited = Inherited.made(options)
        options.own.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        return refuse(str(error), CANNOT_START)
    scheme = "https" if options.certificate else "http"
    logging.getLogger("serving").info(
        "listening on %s://%s:%d, admin on port %d",
        scheme,
        options.host,
        inherited.listener.getsockname()[1],
        inherited.admin.getsockname()[1],
    )
    if options.workers == 1:
        run(options, inherited)
        return 0
    return supervise(given, inherited, options)


def unsafe(options: Options) -> str | None:
    """Why a server with these options must not start, and the way out. None when it may start.

    Raises ValueError and OSError for files of keys or certificate that cannot be read.
    """
    if options.certificate is not None:
        try:
            tls(options.certificate, options.private_key)
        except (OSError, ssl.SSLError) as error:
            return (
                f"--tls-certificate {options.certificate}: "
                f"no certificate with its private key can be read there ({error})."
            )
    elif options.private_key is not None:
        return f"--tls-key {options.private_key} is of no use alone; give its --tls-certificate."
    if options.public:
        where = (
            f"--host {options.host} --admin-host {options.admin_host} can be reached from elsewhere"
        )
        if options.certificate is None:
            return (
                f"{where}, and requests and keys would travel unencrypted; "
                "give --tls-certificate and --tls-key, or use 127.0.0.1."
            )
        if options.tokens is None and not has_active(options.keys):
            return (
                f"{where}, and {options.keys} holds no active key; "
                "make one with `evergreen keys add`, give --jwks, or use 127.0.0.1."
            )
    return None


def refuse(why: str, status: int) -> int:
    """One line for people, and the exit status."""
    sys.stderr.write(why + "\n")
    return status


def supervise(arguments: Sequence[str], inherited: Inherited, options: Options) -> int:
    """Keep `workers` processes on the listening sockets.

    While a dead worker is replaced, connections wait in the sockets.
    """
    stopping = False

    def stop(number: int, _: object) -> None:
        nonlocal stopping
        stopping = True

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)

    def started(place: int) -> subprocess.Popen[bytes]:
        command = [
            sys.executable,
            "-m",
            "serving",
            *arguments,
            "--inherited",
            inherited.text(place),
        ]
        return subprocess.Popen(command, pass_fds=inherited.descriptors)

    workers = [started(place) for place in range(options.workers)]
    while not stopping:
        time.sleep(RESPAWN_SECONDS)
        for place, worker in enumerate(workers):
            if not stopping and worker.poll() is not None:
                logging.getLogger("serving").error(
                    "worker %d ended with %s; starting another", worker.pid, worker.returncode
                )
                workers[place] = started(place)
    for worker in workers:
        worker.terminate()
    end = time.monotonic() + 2 * options.notice_seconds + options.drain_seconds + 2
    for worker in workers:
        with contextlib.suppress(subprocess.TimeoutExpired):
            worker.wait(max(0.1, end - time.monotonic()))
        if worker.poll() is None:
            worker.kill()
            worker.wait()
    return 0


if __name__ == "__main__":
    sys.exit(main())
