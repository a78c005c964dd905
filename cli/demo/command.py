"""`evergreen demo`: the whole lifecycle on recorded data, headless, with a real endpoint.

The sensors decide what runs, as in production; `cli.demo.driver` executes it. A demo has a home of
its own, `<home>/demo`, made afresh each time, and free ports: it touches no platform that runs. It
keeps Dagster's event log in memory; lake, ledger, reports, artifacts and MLflow stay in its home.
"""

from __future__ import annotations

import gc
import json
import logging
import os
import shutil
import signal
import sys
import time
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING

from assets.names import DAY, day_range
from cli.demo.facts import Facts, document, problems
from cli.demo.replay import Options, Platform, default_start, described, open_feed
from cli.demo.requests import Sent, send
from cli.demo.server import endpoint, free_ports
from cli.output import UNFIT, WRONG_USE, CommandError, console
from cli.platform import environment
from cli.platform.home import initialise
from cli.platform.installation import disk, packages, python_version
from resources import files
from resources.settings import Settings, settings as read_settings

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.progress import Progress

    from cli.demo.driver import Driver
    from cli.demo.replay import Feed

PIPELINE = "flight_delays"

END = date(2013, 7, 10)
"""By then there has been a first model, a refused retrain, and rollouts of retrains by calendar and
by drift."""

DAY_SECONDS = 60.0
"""How long the endpoint may take to use a day's aggregates."""

OWN_PLACES = (
    "LANDING",
    "LAKE",
    "ARTIFACTS",
    "REPORTS",
    "MLFLOW",
    "ENDPOINT_CERTIFICATE",
    "ENDPOINT_PRIVATE_KEY",
    "ENDPOINT_KEY_FILE",
)
"""Settings that a demo leaves out: everything of it lies in its home."""


@dataclass(frozen=True)
class Period:
    """The days of a replay: those before `start` land at once, the others one by one."""

    start: date
    end: date

    @property
    def days(self) -> list[date]:
        return day_range(self.start, self.end)


def demo(settings: Settings, start: date | None, end: date | None, *, quiet: bool = False) -> int:
    """Run the demo, write `<home>/demo.json` and print it as the last line.

    Returns 0 only if everything came true that a demo of this length promises. Raises CommandError
    before anything starts when the machine is unfit or the days are not in the recorded data.
    """
    _check_machine(settings)
    period = _period(open_feed(settings, Options(PIPELINE)), start, end)
    # What Dagster would log, such as its alerts, the diary says in the demo's own words.
    logging.getLogger("dagster").addHandler(logging.NullHandler())
    # Dagster gives SIGTERM the handler of SIGINT, which a shell's background job ignores: such a
    # demo could not be stopped.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # The libraries' millions of objects stay for good: collecting as often as Python does costs a
    # twentieth of the time.
    gc.set_threshold(50_000, 50, 1_000)

    began = time.monotonic()
    say = _teller(began, quiet)
    local = _fresh(settings)
    feed = open_feed(local, Options(PIPELINE))
    initialise(local)
    say(f"initialised {local.home}")

    with endpoint(local):
        say(f"the endpoint answers at {local.endpoint_url}")
        facts = _live(local, feed, period, say, _progress(quiet))
    facts["seconds"] = time.monotonic() - began

    wrong = problems(facts)
    for problem in wrong:
        sys.stderr.write(f"evergreen: demo: {problem}\n")
    line = json.dumps(document(facts))
    files.write_atomically(str(settings.home.absolute() / "demo.json"), line.encode() + b"\n")
    sys.stdout.write(line + "\n")
    return 1 if wrong else 0


def _check_machine(settings: Settings) -> None:
    checks = (python_version(), disk(settings.home), packages())
    unfit = [check.problem for check in checks if check.problem]
    if unfit:
        raise CommandError("\nevergreen: ".join(unfit), UNFIT)


def _teller(began: float, quiet: bool) -> Callable[[str], None]:
    """Prints a line with the seconds since the start; nothing when quiet."""
    screen = console(stderr=True)

    def say(line: str) -> None:
        if not quiet:
            screen.print(f"{time.monotonic() - began:6.1f} s  {line}", markup=False)

    return say


def _fresh(settings: Settings) -> Settings:
    """Settings of an empty home of the demo's own, which this process takes over."""
    home = settings.home.absolute() / "demo"
    shutil.rmtree(home, ignore_errors=True)
    for name in OWN_PLACES:
        os.environ.pop(f"EVERGREEN_{name}", None)

    port, admin_port = free_ports(settings.host, "127.0.0.1")
    os.environ["EVERGREEN_ENDPOINT_PORT"] = str(port)
    os.environ["EVERGREEN_ENDPOINT_ADMIN_PORT"] = str(admin_port)
    os.environ["EVERGREEN_HOME"] = str(home)
    read_settings.cache_clear()
    local = read_settings()
    environment.apply(local)
    # A day is few rows: what Polars' threads tell each other costs more than they save.
    os.environ.setdefault("POLARS_MAX_THREADS", "1")
    return local


def _period(feed: Feed, start: date | None, end: date | None) -> Period:
    """The days to replay, but for the last recorded one.

    The day after the last one lands too: with it the last day is over and its labels are known.
    Raises CommandError for days that are not recorded.
    """
    first, last = start or default_start(feed), end or END
    if not feed.first < first <= last <= feed.last:
        raise CommandError(
            f"--from {first} --to {last} do not fit the recorded data, which holds {feed.first} to "
            f"{feed.last}; the first day needs days before it",
            WRONG_USE,
        )
    return Period(first, min(last, feed.last - DAY))


def _progress(quiet: bool) -> Progress:
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    screen = console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    return Progress(
        *columns, console=screen, transient=True, disable=quiet or not screen.is_terminal
    )


def _live(
    local: Settings,
    feed: Feed,
    period: Period,
    say: Callable[[str], None],
    progress: Progress,
) -> Facts:
    """History and first champion, then day by day. Returns what happened."""
    from cli.demo.diary import Diary
    from cli.demo.driver import Driver
    from cli.demo.quality import measured
    from cli.stored import ledger_of
    from pipelines.definitions import defs
    from sensors import instance

    ledger = ledger_of(local)
    _land_history(feed, period.start)
    say(f"landed {feed.first} to {period.start - DAY}")

    with instance.in_memory() as opened:
        diary = Diary(local, PIPELINE, ledger, opened, say)
        driver = Driver(defs, opened, observe=diary.note)
        driver.settle()
        sent = _replay(local, feed, period, driver, say, progress)
        feed.land(period.end + DAY)
        driver.settle()

    entries, verified = diary.verified()
    return {
        "seconds": 0.0,
        "days": len(sent),
        "wanted_days": len(period.days),
        "requests": sum(each.requests for each in sent),
        "failed_requests": sum(each.failed for each in sent),
        "failed_runs": diary.failures,
        "retrains": diary.retrains(),
        "served": diary.served(),
        "rollouts": diary.rollouts(),
        "answering": diary.answering(),
        "comparison": measured(local, PIPELINE, ledger, period.start, period.end),
        "ledger_entries": entries,
        "ledger_verified": verified,
    }


def _land_history(feed: Feed, start: date) -> None:
    feed.land_once()
    for day in day_range(feed.first, start - DAY):
        feed.land(day)


def _replay(
    local: Settings,
    feed: Feed,
    period: Period,
    driver: Driver,
    say: Callable[[str], None],
    progress: Progress,
) -> list[Sent]:
    """Each day: its files land, the sensors have their way, and its requests are sent."""
    platform = Platform(local, PIPELINE)
    sent: list[Sent] = []
    with progress:
        bar = progress.add_task("replaying", total=len(period.days))
        for day in period.days:
            feed.land(day)
            driver.settle()
            asked = feed.requests(day)
            if not platform.wait_for(day, DAY_SECONDS, _pause):
                raise CommandError(
                    f"the endpoint did not use the aggregates of {day} within {DAY_SECONDS:.0f} s; "
                    f"its log is {local.home / 'endpoint.log'}"
                )
            answers = send(local.endpoint_url, PIPELINE, asked)
            sent.append(answers)
            if answers.failed or day.day == 1:
                say(described(day, answers))
            progress.update(bar, advance=1, description=f"replaying {day}")
    return sent


def _pause(_: float) -> None:
    """The endpoint looks for new aggregates five times a second; nothing else runs meanwhile."""
    time.sleep(0.02)
