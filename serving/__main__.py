"""`python -m serving`: the endpoint server as a process."""

from __future__ import annotations

import argparse
import contextlib
import ipaddress
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from serving.options import Options

WRONG_USE, CANNOT_START = 2, 3
RESPAWN_SECONDS = 0.5


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser("python -m serving", description="Serve the bundles that the signed desired states under --root name.")
    made.add_argument("--root", type=Path, required=True, help="folder with bundles/ and <pipeline>/desired.json")
    made.add_argument("--public-key", type=Path, help="the platform's public key, PEM (default: <root>/../keys/platform.pub)")
    made.add_argument("--host", default="127.0.0.1")
    made.add_argument("--port", type=int, default=8080)
    made.add_argument("--workers", type=int, default=1, help="processes that share the port")
    made.add_argument(
        "--allow-public", action="store_true", help="allow a --host other than loopback: everyone who reaches it may ask for predictions"
    )
    made.add_argument(
        "--allow-host", action="append", default=[], metavar="NAME", help="also answer requests for this host name on loopback"
    )
    made.add_argument("--sample-seconds", type=float, default=10.0, help="seconds between service samples")
    made.add_argument("--segment-bytes", type=int, default=8 << 20, help="size at which a segment of the prediction log is closed")
    made.add_argument("--sync-seconds", type=float, default=0.2, help="longest time until an answered prediction is flushed to the disk")
    made.add_argument("--body-limit", type=int, default=16 << 20, metavar="BYTES", help="largest body of a request")
    made.add_argument("--row-limit", type=int, default=10_000, metavar="ROWS", help="most rows of a request")
    made.add_argument("--request-seconds", type=float, default=10.0, help="time in which a request must arrive wholly")
    made.add_argument("--listener", type=int, help=argparse.SUPPRESS)
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    given = list(sys.argv[1:] if arguments is None else arguments)
    found = parser().parse_args(given)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s", stream=sys.stderr)
    if not is_loopback(found.host) and not found.allow_public:
        return refuse(
            f"--host {found.host} is not loopback: requests would need no key and travel unencrypted. Use 127.0.0.1, or say --allow-public.",
            WRONG_USE,
        )
    if found.workers < 1 or not 0 <= found.port < 65536:
        return refuse(f"--workers {found.workers} --port {found.port}: give at least one worker, and a port from 0 to 65535.", WRONG_USE)
    options = Options(
        root=found.root.absolute(), public_key=found.public_key or found.root.absolute().parent / "keys" / "platform.pub",
        host=found.host, port=found.port, workers=found.workers, hosts=tuple(found.allow_host), sample_seconds=found.sample_seconds,
        segment_bytes=found.segment_bytes, sync_seconds=found.sync_seconds, body_limit=found.body_limit, row_limit=found.row_limit,
        request_seconds=found.request_seconds,
    )  # fmt: skip
    # One request is computed by one thread; more would only fight for the core.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    stay_lean()
    from serving.server import listen, run

    if found.listener is not None:
        run(options, socket.socket(fileno=found.listener))
        return 0
    try:
        listener = listen(options.host, options.port)
        options.root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        return refuse(str(error), CANNOT_START)
    logging.getLogger("serving").info("listening on http://%s:%d", options.host, listener.getsockname()[1])
    if options.workers == 1:
        run(options, listener)
        return 0
    return supervise(given, listener, options)


def refuse(why: str, status: int) -> int:
    """One line for people, and the exit status."""
    sys.stderr.write(why + "\n")
    return status


def supervise(arguments: Sequence[str], listener: socket.socket, options: Options) -> int:
    """Keep `workers` processes on one listening socket: connections wait in it while a worker that died is replaced."""
    stopping = False

    def stop(number: int, _: object) -> None:
        nonlocal stopping
        stopping = True

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    descriptor = listener.fileno()
    os.set_inheritable(descriptor, True)
    command = [sys.executable, "-m", "serving", *arguments, "--listener", str(descriptor)]
    workers = [subprocess.Popen(command, pass_fds=(descriptor,)) for _ in range(options.workers)]
    while not stopping:
        time.sleep(RESPAWN_SECONDS)
        for place, worker in enumerate(workers):
            if not stopping and worker.poll() is not None:
                logging.getLogger("serving").error("worker %d ended with %s; starting another", worker.pid, worker.returncode)
                workers[place] = subprocess.Popen(command, pass_fds=(descriptor,))
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


def stay_lean() -> None:
    """XGBoost imports scikit-learn and pandas where they are installed: seconds and 100 MB for what no endpoint uses. A
    module that is None counts as not installed."""
    for name in ("sklearn", "pandas"):
        sys.modules.setdefault(name, None)  # type: ignore[arg-type]


def is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


if __name__ == "__main__":
    sys.exit(main())
