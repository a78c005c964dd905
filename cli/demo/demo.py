"""`evergreen demo`: the whole lifecycle on a real year, headless, with the endpoint as a real server.

The sensors decide what runs, as in production; `cli.demo.driver` executes it. A demo has a home of its own,
`<home>/demo`, made afresh each time, and a free port, so that it never touches a platform that runs.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from typing import TYPE_CHECKING

from assets.names import CANDIDATE, DAY, FEATURES, PREDICTIONS, asset_path
from cli.demo.quality import (
    Arm,
    Comparison,
    Facts,
    Retrain,
    Rollout,
    Served,
    compare,
    document,
    problems,
)
from cli.demo.replay import Options, Platform, default_start, described, open_feed
from cli.demo.requests import send
from cli.output import UNFIT, CommandError, console
from cli.platform.health import get
from cli.platform.home import initialise
from cli.platform.installation import compiler, disk, packages, python_version
from cli.platform.processes import endpoint_command
from resources import environment, files
from resources.settings import Settings, settings as read_settings

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.progress import Progress

    from cli.demo.driver import Ran, Runs
    from resources.ledger import Entry, Ledger

PIPELINE = "flight_delays"
SERVER_SECONDS = 60.0


def demo(settings: Settings, end: date | None, *, quiet: bool = False) -> int:
    """Run the demo, write `<home>/demo.json` and print it as the last line. Returns 0 only if everything claimed happened.

    Raises CommandError before anything starts when the machine is unfit.
    """
    unfit = [
        check.problem
        for check in (python_version(), compiler(), disk(settings.home), packages())
        if check.problem
    ]
    if unfit:
        raise CommandError("\nevergreen: ".join(unfit), UNFIT)
    # Dagster gives SIGTERM the handler of SIGINT, which a shell's background job ignores: such a demo could not be stopped.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    _collect_rarely()
    began = time.monotonic()
    local = _fresh(settings)
    screen = console(stderr=True)
    say: Callable[[str], None] = (
        (lambda line: None)
        if quiet
        else (lambda line: screen.print(f"{time.monotonic() - began:6.1f} s  {line}", markup=False))
    )
    initialise(local)
    say(f"initialised {local.home}")
    with _endpoint(local):
        say(f"the endpoint answers at {local.endpoint_url}")
        facts = _live(local, end, say, _progress(quiet))
    facts["seconds"] = time.monotonic() - began
    wrong = problems(facts)
    for problem in wrong:
        sys.stderr.write(f"evergreen: demo: {problem}\n")
    line = json.dumps(document(facts))
    files.write_atomically(str(settings.home.absolute() / "demo.json"), line.encode() + b"\n")
    sys.stdout.write(line + "\n")
    return 1 if wrong else 0


def _collect_rarely() -> None:
    """Ten libraries' millions of objects stay for good; looking through them as often as Python does costs a twentieth of the time."""
    gc.set_threshold(50_000, 50, 1_000)


@contextmanager
def _beside() -> Iterator[Runs]:
    """What the demo's other processes execute runs with: the monitors of a day while this one ingests the next, and pages."""
    from cli.demo.driver import Runs
    from pipelines.definitions import defs
    from resources import instance

    _collect_rarely()
    local = read_settings()
    environment.apply(local)
    with instance.opened(local, compute_logs=False) as opened:
        yield Runs(defs, opened)


def _fresh(settings: Settings) -> Settings:
    """Settings of an empty home of the demo's own, on this disk, with a free port; made this process's."""
    home = settings.home.absolute() / "demo"
    shutil.rmtree(home, ignore_errors=True)
    for name in (
        "LANDING",
        "LAKE",
        "ARTIFACTS",
        "REPORTS",
        "MLFLOW",
        "ENDPOINT_CERTIFICATE",
        "ENDPOINT_PRIVATE_KEY",
        "ENDPOINT_KEY_FILE",
    ):
        os.environ.pop(f"EVERGREEN_{name}", None)
    with socket.socket() as free, socket.socket() as admin:
        free.bind((settings.host, 0))
        admin.bind(("127.0.0.1", 0))
        os.environ["EVERGREEN_ENDPOINT_PORT"] = str(free.getsockname()[1])
        os.environ["EVERGREEN_ENDPOINT_ADMIN_PORT"] = str(admin.getsockname()[1])
    os.environ["EVERGREEN_HOME"] = str(home)
    read_settings.cache_clear()
    local = read_settings()
    environment.apply(local)
    # Several processes share the processors, and a day is few rows: what their threads tell each other costs more than they save.
    os.environ.setdefault("POLARS_MAX_THREADS", "1")
    return local


@contextmanager
def _endpoint(local: Settings) -> Iterator[None]:
    """The endpoint server as a process of its own, which dies with this one. Raises CommandError when it does not come up."""
    libc = ctypes.CDLL(None)
    log = local.home / "endpoint.log"
    with open(log, "ab") as output:
        server = subprocess.Popen(
            endpoint_command(local),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            preexec_fn=lambda: libc.prctl(1, signal.SIGTERM),
        )
    try:
        end = time.monotonic() + SERVER_SECONDS
        while not _answers(local):
            if server.poll() is not None or time.monotonic() > end:
                raise CommandError(f"the endpoint server did not come up; its log is {log}")
            time.sleep(0.1)
        yield
    finally:
        server.terminate()
        try:
            server.wait(5)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def _answers(local: Settings) -> bool:
    try:
        get(f"{local.endpoint_admin_url}/healthz", timeout=1)
    except (OSError, ValueError):
        return False
    return True


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
    local: Settings, end: date | None, say: Callable[[str], None], progress: Progress
) -> Facts:
    """History, first champion, then day by day; returns what happened."""
    from cli.decide import ledger_of
    from cli.demo.driver import Driver, other_processes
    from pipelines.definitions import defs
    from resources import instance

    feed = open_feed(local, Options(PIPELINE))
    start = default_start(feed)
    last = min(end or date(2013, 9, 30), feed.last - DAY)
    days = [start + DAY * offset for offset in range((last - start).days + 1)]
    ledger = ledger_of(local)
    diary, platform = Diary(local, ledger, say), Platform(local, PIPELINE)
    requests = failed = done = 0
    feed.land_once()
    for offset in range((start - feed.first).days):
        feed.land(feed.first + DAY * offset)
    say(f"landed {feed.first} to {start - DAY}")
    with instance.opened(local, compute_logs=False) as opened, other_processes(_beside) as beside:
        driver = Driver(defs, opened, observe=diary.note, beside=beside)
        driver.settle()
        with progress:
            bar = progress.add_task("replaying", total=len(days))
            for day in days:
                feed.land(day)
                driver.settle()
                asked = feed.requests(day)
                if not platform.wait_for(day, SERVER_SECONDS, _pause):
                    raise CommandError(
                        f"the endpoint took none of {day}'s aggregates into use within {SERVER_SECONDS:.0f} s; its log is {local.home / 'endpoint.log'}"
                    )
                sent = send(local.endpoint_url, PIPELINE, asked)
                requests, failed, done = requests + sent.requests, failed + sent.failed, done + 1
                if sent.failed or day.day == 1:
                    say(described(day, sent))
                progress.update(bar, advance=1, description=f"replaying {day}")
        # The day after is landed too: with it the last day is over, monitored, and its labels are known.
        feed.land(last + DAY)
        driver.settle()
        driver.finish()
    entries, verified = _verified(ledger)
    return {
        "seconds": 0.0,
        "days": done,
        "wanted_days": len(days),
        "requests": requests,
        "failed_requests": failed,
        "failed_runs": diary.failures,
        "retrains": diary.released_at_last(),
        "served": [served(entry) for entry in ledger.entries(PIPELINE, "traffic")],
        "rollouts": rolled_out(ledger),
        "answering": diary.answering(),
        "comparison": _comparison(local, ledger, start, last),
        "ledger_entries": entries,
        "ledger_verified": verified,
    }


def _pause(_: float) -> None:
    """The endpoint looks five times a second; nothing else waits for it here."""
    time.sleep(0.02)


class Diary:
    """Notes each executed run: retrains with what they changed, and failures."""

    def __init__(self, local: Settings, ledger: Ledger, say: Callable[[str], None]) -> None:
        from resources.artifacts import Artifacts

        self._local, self._ledger, self._say = local, ledger, say
        self._artifacts = Artifacts(uri=local.artifacts_uri)
        self._champion: str | None = None
        self._read = 0
        self.retrains: list[Retrain] = []
        self.failures: list[str] = []

    def note(self, ran: Ran) -> None:
        if not ran.success:
            self.failures.append(f"{ran.job} ({ran.failure})")
            self._say(f"run of {ran.job} failed: {ran.failure}")
        if ran.job.endswith("_retrain"):
            self._retrained(ran)
        self._moved()

    def _retrained(self, ran: Ran) -> None:
        from assets.traffic.rollouts import rollouts

        candidate = self._artifacts.pointed(PIPELINE, CANDIDATE)
        rollout = next(
            (
                each
                for each in reversed(rollouts(self._ledger.entries(PIPELINE)))
                if each.candidate == candidate
            ),
            None,
        )
        retrain: Retrain = {
            "as_of": ran.tags.get("evergreen/as_of"),
            "cause": ran.tags.get("evergreen/cause"),
            "candidate": candidate,
            "champion_before": self._champion,
            "released": False,
        }
        self.retrains.append(retrain)
        outcome = (
            f"bundle {rollout.bundle[:12]} is {rollout.told}"
            if rollout
            else "released nothing: the champion serves on"
        )
        self._say(f"retrained as of {retrain['as_of']} ({retrain['cause']}): {outcome}")

    def _moved(self) -> None:
        """Tell the steps of rollouts since the last run."""
        from assets.traffic.decisions import released

        entries = self._ledger.entries(PIPELINE)
        for entry in entries[self._read :]:
            if entry.kind in ("rollout", "release", "rollback"):
                share = entry.payload.get("share", 1.0 if entry.kind == "release" else 0.0)
                self._say(
                    f"{entry.kind} of bundle {str(entry.payload.get('from') or entry.bundle)[:12]} from {entry.day} on, share {share}"
                )
        self._read = len(entries)
        self._champion = released(entries)

    def released_at_last(self) -> list[Retrain]:
        """The retrains, each with whether its candidate got all traffic in the end."""
        candidates = {
            entry.payload.get("candidate") for entry in self._ledger.entries(PIPELINE, "release")
        }
        return [
            {**retrain, "released": retrain["candidate"] in candidates} for retrain in self.retrains
        ]

    def answering(self) -> str | None:
        """Digest of the bundle that the endpoint itself says it serves."""
        from resources.endpoint import LocalEndpoint

        actual = LocalEndpoint(
            path=str(self._local.endpoint_path), url=self._local.endpoint_url
        ).actual(PIPELINE)
        return actual.bundles[0] if actual is not None and actual.bundles else None


def served(entry: Entry) -> Served:
    """What a traffic entry says: who answered from when on, with which share."""
    arms, shadows = entry.payload.get("arms"), entry.payload.get("shadows")
    found: list[Arm] = (
        [{"bundle": str(arm[0]), "share": float(arm[1])} for arm in arms]
        if isinstance(arms, list)
        else []
    )
    found += (
        [{"bundle": str(bundle), "share": 0.0} for bundle in shadows]
        if isinstance(shadows, list)
        else []
    )
    return {"day": entry.day.isoformat(), "bundle": str(entry.bundle), "arms": found}


def rolled_out(ledger: Ledger) -> list[Rollout]:
    """Every bundle's way to the traffic."""
    from assets.traffic.rollouts import rollouts

    return [
        {
            "bundle": each.bundle,
            "steps": [
                {"stage": step.stage, "share": step.share, "day": step.day.isoformat()}
                for step in each.steps
            ],
            "outcome": each.outcome,
            "reason": each.reason if each.outcome == "rolled_back" else "",
        }
        for each in rollouts(ledger.entries(PIPELINE))
    ]


def _verified(ledger: Ledger) -> tuple[int, bool]:
    from resources.ledger import LedgerError

    try:
        return ledger.verify(), True
    except LedgerError as error:
        sys.stderr.write(f"evergreen: demo: {error}\n")
        return 0, False


def _comparison(local: Settings, ledger: Ledger, first: date, last: date) -> Comparison | None:
    """Both figures over the days `first` to `last`: predictions as they were answered, the first champion's over the stored
    feature rows of the same entities, and labels known by the day after `last`."""
    import polars as pl

    from assets.data.raw import reader
    from assets.tabular.features.point_in_time import labels
    from bundle.manifest import load
    from pipelines.definitions import declared_pipelines
    from resources.lake import Lake

    champion = next((entry.bundle for entry in ledger.entries(PIPELINE, "release")), None)
    if champion is None:
        return None
    pipeline = next(found for found in declared_pipelines() if found.name == PIPELINE)
    lake, entity, name = Lake(uri=local.lake_uri), pipeline.entity, pipeline.label.name
    known = (
        labels(pipeline, reader(lake, PIPELINE), first, last, last + DAY)
        .drop_nulls(name)
        .select(entity, name)
    )
    answered = (
        lake.scan(asset_path(PIPELINE, PREDICTIONS), first, last)
        .select(entity, pl.col("output").alias("live"))
        .collect()
    )
    rows = (
        lake.scan(asset_path(PIPELINE, FEATURES), first, last).collect().sort("event_time", entity)
    )
    bundle = load(
        local.endpoint_path / "bundles" / champion, (local.keys_path / "platform.pub").read_bytes()
    )
    frozen = rows.select(entity).with_columns(
        never=pl.Series(bundle.model.predict(bundle.program.matrix(rows)))
    )
    matched = (
        known.join(answered.unique(entity, keep="first"), on=entity)
        .join(frozen, on=entity)
        .sort(entity)
    )
    if matched.is_empty():
        return None
    return compare(
        *(matched[column].cast(pl.Float64).to_numpy() for column in (name, "live", "never"))
    )
