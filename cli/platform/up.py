"""`evergreen up`: the whole platform in the foreground, under one supervisor.

It stops as a whole. Started again, it goes on from there.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from cli.output import UNFIT, CommandError, console, table
from cli.platform import declarations, environment
from cli.platform.health import services
from cli.platform.home import initialise
from cli.platform.installation import preflight
from cli.platform.processes import (
    STOP_SECONDS,
    ports,
    programs,
    supervisor_configuration,
    sweep,
    workspace,
)
from resources.settings import Settings

if TYPE_CHECKING:
    from rich.console import Console

PATIENCE = 180.0
"""Seconds after which a service that never answered is reported; the platform goes on trying."""
_PR_SET_PDEATHSIG = 1


def up(settings: Settings, feed: Sequence[str] | None) -> None:
    """Check, initialise, start and follow until Ctrl-C or SIGTERM; then stop all in ten seconds.

    Raises CommandError, before anything starts, when the machine is unfit or another `up` runs on
    this home.
    """
    home = settings.home.absolute()
    environment.apply(settings)
    screen = console()
    with _only_one(home):
        left = sweep(home)
        if left:
            screen.print(
                f"stopped {len(left)} processes that an earlier, killed platform had left behind"
            )
        problems = [
            check.problem
            for check in preflight(home, settings.host, ports(settings))
            if check.problem
        ]
        if problems:
            raise CommandError("\nevergreen: ".join(problems), UNFIT)
        for fault in declarations.faults():
            screen.print(f"pipelines: {fault}", style="red", markup=False)
        if initialise(settings):
            screen.print(f"initialised {home}")
        _cure(settings, screen)
        supervisor = _start(settings, home, feed)
        stop = _Stop(supervisor)
        try:
            _announce(settings, screen, stop, time.monotonic())
            if not stop.asked:
                _follow(settings, screen, stop)
        finally:
            screen.print("stopping …")
            _stop(supervisor, home)
            screen.print("stopped; `make run` goes on from here")


class _Stop:
    """Whether to stop: a signal arrived, or the supervisor ended."""

    def __init__(self, supervisor: subprocess.Popen[bytes]) -> None:
        self._supervisor = supervisor
        self._signalled = False
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._notice)

    def _notice(self, number: int, frame: FrameType | None) -> None:
        """Pass the word on at once: what this process is reading may take its time."""
        self._signalled = True
        self._supervisor.terminate()

    @property
    def asked(self) -> bool:
        return self._signalled or self._supervisor.poll() is not None

    def wait(self, seconds: float) -> bool:
        """Sleep at most `seconds`; True as soon as a stop was asked for."""
        end = time.monotonic() + seconds
        while not self.asked and time.monotonic() < end:
            time.sleep(0.1)
        return self.asked


class _only_one:  # noqa: N801  a context manager
    """One platform a home: a second one is told so instead of fighting over databases."""

    def __init__(self, home: Path) -> None:
        self._place = home / "run" / "up.lock"

    def __enter__(self) -> None:
        import fcntl

        self._place.parent.mkdir(parents=True, exist_ok=True)
        self._file = open(self._place, "w")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._file.close()
            raise CommandError(
                f"a platform already runs on {self._place.parent.parent}; stop it, or set "
                "EVERGREEN_HOME",
                UNFIT,
            ) from None

    def __exit__(self, *_: object) -> None:
        self._file.close()


def _cure(settings: Settings, screen: Console) -> None:
    """Fail the runs that say they are under way: nothing of this home runs now, so they are dead.

    The retry daemon starts them again.
    """
    from sensors import instance

    with instance.opened(settings) as opened:
        abandoned = instance.fail_abandoned(opened)
    if abandoned:
        screen.print(
            f"{len(abandoned)} runs were cut off when the platform last stopped; "
            "they are tried again"
        )


def _start(settings: Settings, home: Path, feed: Sequence[str] | None) -> subprocess.Popen[bytes]:
    (home / "logs").mkdir(exist_ok=True)
    (settings.dagster_home / "workspace.yaml").write_text(workspace(settings))
    configuration = home / "run" / "supervisor.conf"
    configuration.write_text(supervisor_configuration(home, programs(settings, feed)))
    libc = ctypes.CDLL(None)
    return subprocess.Popen(
        [sys.executable, "-m", "supervisor.supervisord", "-n", "-c", str(configuration)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=open(home / "logs" / "supervisor.err", "ab"),
        # Ctrl-C reaches this process alone, which stops the others in order. Should this process
        # be killed, the supervisor stops too.
        start_new_session=True,
        preexec_fn=lambda: libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM),
        env=os.environ | environment.variables(settings),
    )


def _announce(settings: Settings, screen: Console, stop: _Stop, began: float) -> None:
    """Tell the URLs as soon as all services answer, or after PATIENCE which ones do not."""
    waiting = {name: probe for name, (_, probe) in services(settings).items()}
    ready: dict[str, float] = {}
    wrong: dict[str, str] = {}
    with screen.status("starting …") as status:
        while waiting and time.monotonic() - began < PATIENCE and not stop.wait(0.3):
            for name in list(waiting):
                problem = waiting[name]()
                if problem is None:
                    del waiting[name]
                    ready[name] = time.monotonic() - began
                    screen.print(f"{name} answers after {ready[name]:.0f} s")
                else:
                    wrong[name] = problem
            status.update(f"starting: waiting for {', '.join(waiting)}")
    if stop.asked:
        return
    rows = [
        (name, url, "answers" if name in ready else wrong[name])
        for name, (url, _) in services(settings).items()
    ]
    table(("service", "where", "state"), rows)
    for name in waiting:
        screen.print(
            f"{name} has not answered yet; its log is in {settings.home}/logs", style="yellow"
        )
    screen.print("Ctrl-C stops the platform.")


def _follow(settings: Settings, screen: Console, stop: _Stop) -> None:
    from cli.platform.follow import Follower
    from cli.platform.landed import UnannouncedFiles
    from pipelines.definitions import declared_pipelines
    from resources.landing import Landing
    from sensors import instance

    with instance.opened(settings) as opened:
        follower = Follower(opened, settings)
        declared = declarations.watch(settings)
        names = [pipeline.name for pipeline in declared_pipelines()]
        landed = UnannouncedFiles(Landing(uri=settings.landing_uri), names)
        with follower.bars(screen) as bars:
            while not stop.wait(1.5):
                for line in [*follower.lines(), *declared.lines(), *landed.lines()]:
                    screen.print(line, markup=False)
                bars.show(follower.works())


def _stop(supervisor: subprocess.Popen[bytes], home: Path) -> None:
    """Stop the supervisor and its group, then whatever still carries the mark."""
    if supervisor.poll() is None:
        supervisor.terminate()
        try:
            supervisor.wait(STOP_SECONDS + 2)
        except subprocess.TimeoutExpired:
            supervisor.kill()
            supervisor.wait()
    sweep(home, seconds=1.0)
