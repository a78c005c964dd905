"""The platform of `make run` on the tiny pipeline, killed at chosen points, and what its end state is compared by.

killed = Supervised(home, keys, [Point("resources.lake:Lake.write", "after", ("tiny/raw/jobs",))])
while not killed.step(entries=3): …

`evergreen up` itself starts, supervises and cures; of its programs those that work run (code server, daemon, endpoint), and
nobody looks on.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any, Literal, NamedTuple
from unittest.mock import patch

import dagster as dg
import psutil

from assets.data.digest import content_digest, digests_by_day
from assets.retraining.decide import load_decision
from assets.traffic.entries import entries
from bundle.desired import unseal
from bundle.models.model import TOLERANCE
from cli.platform import environment
from pipelines.definitions import platform_resources
from resources.keys import PRIVATE, PUBLIC, Keys
from resources.lake import DATE, Lake
from resources.ledger import Ledger
from resources.settings import Settings
from resources.tracking import CANDIDATE, Tracking
from sensors import instance
from sensors.requests import REQUEST
from tests.support.ports import free_ports
from tests.support.tiny import DAY, FIRST, requests

KILLER = Path(__file__).resolve().parent / "killer"
PORTS = (
    "dagster_port",
    "mlflow_port",
    "endpoint_port",
    "endpoint_admin_port",
    "reports_port",
    "code_port",
)
ARTIFACTS = ("training_set", "study", "baseline", "candidate", "bundle")
KINDS = ("training_sets", "studies", "baselines", "candidates", "bundles")
UP = """
import dataclasses
from cli.platform import processes, up
from resources.settings import settings
up.programs = lambda settings, feed: [
    dataclasses.replace(program, command=tuple(word.replace("pipelines.definitions", "tests.support.location") for word in program.command))
    for program in processes.programs(settings, feed) if program.name in ("code", "daemon", "endpoint")]
up.services = lambda settings: {}
up._follow = lambda settings, screen, stop: [None for _ in iter(lambda: stop.wait(1), True)]
up.up(settings(), None)
"""


class Point(NamedTuple):
    """Where a process dies: see `killer/sitecustomize.py`."""

    function: str
    when: Literal["before", "after"]
    given: tuple[str, ...] = ()
    action: Literal["kill", "stop"] = "kill"

    def __str__(self) -> str:
        return " ".join((self.when, self.function.partition(":")[2], *self.given))


def killing(points: Sequence[Point], marks: Path) -> dict[str, str]:
    """Variables of processes that die at these points."""
    marks.mkdir(exist_ok=True)
    return {"KILL_POINTS": json.dumps(points), "KILL_MARKS": str(marks)}


@dataclass
class Supervised:
    """`evergreen up` on a home of its own with the platform's key of another one: with equal keys, equal inputs give equal digests.

    Call `step` again and again: it starts the platform, starts it again when all of it was killed at a point where a process
    stands still, and says whether the end has come.
    """

    home: Path
    keys: Path
    points: Sequence[Point]
    settings: Settings = field(init=False)
    process: subprocess.Popen[bytes] | None = None
    restarted: int = 0

    def __post_init__(self) -> None:
        self.settings = Settings(
            home=self.home, **dict(zip(PORTS, free_ports(len(PORTS)), strict=True))
        )
        self.settings.keys_path.mkdir(parents=True)
        for name in (PRIVATE, PUBLIC):
            shutil.copy(self.keys / name, self.settings.keys_path / name)

    def step(self, entries: int) -> bool:
        """Whether every point was reached, the ledger has as many entries as that, and nothing runs any more."""
        if self.process is None:
            self.start()
        assert self.process is not None
        if self.process.poll() is not None:
            raise AssertionError(
                f"`evergreen up` ended by itself: {(self.home / 'up.log').read_text()}"
            )
        reached = self.reached
        if sum(point.action == "stop" for point in reached) > self.restarted:
            self.kill_everything()
            self.restarted += 1
            self.start()
            return False
        return (
            len(reached) == len(self.points)
            and len(ledger_of(self.settings).entries()) >= entries
            and not self.working()
        )

    def start(self) -> None:
        ports = {f"EVERGREEN_{name.upper()}": str(getattr(self.settings, name)) for name in PORTS}
        variables = {
            **os.environ,
            **environment.variables(self.settings),
            **ports,
            **killing(self.points, self.home / "marks"),
        }
        variables["PYTHONPATH"] = os.pathsep.join([str(KILLER), variables["PYTHONPATH"]])
        # Between the death of a worker and its retry is nothing but waiting.
        variables["DAGSTER_EVENT_LOG_CONSUMER_DAEMON_INTERVAL_SECONDS"] = "1"
        with open(self.home / "up.log", "ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", UP], env=variables, stdout=log, stderr=log
            )

    def working(self) -> bool:
        """Whether a run is under way, or about to be tried again."""
        with opened(self.settings) as dagster:
            runs = dagster.get_runs()
        return any(not run.is_finished or run.is_complete_and_waiting_to_retry for run in runs)

    def kill_everything(self) -> None:
        """SIGKILL to every process of this home, as when the machine loses its power."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
        # The first may start another one while it dies.
        while left := [process for process in psutil.process_iter() if self._owns(process)]:
            for process in left:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            psutil.wait_procs(left, timeout=5)

    def _owns(self, process: psutil.Process) -> bool:
        try:
            return process.environ().get(environment.HOME_MARK) == str(self.home)
        except (psutil.Error, OSError):  # another user's, or gone by now
            return False

    @property
    def reached(self) -> list[Point]:
        """The points that were reached."""
        return [
            point
            for number, point in enumerate(self.points)
            if (self.home / "marks" / str(number)).exists()
        ]


@contextmanager
def opened(settings: Settings) -> Iterator[dg.DagsterInstance]:
    """The instance of a home; its configuration reads the environment."""
    with (
        patch.dict(os.environ, environment.variables(settings)),
        instance.opened(settings, compute_logs=False) as found,
    ):
        yield found


def ledger_of(settings: Settings) -> Ledger:
    return Ledger(path=str(settings.ledger_path), signer=Keys(path=str(settings.keys_path)))


def end_state(settings: Settings, last: date) -> dict[str, Any]:
    """All that must not depend on what was killed: contents by day, artifacts, decisions, requests and what serves.

    Dagster's event log is in it by its results alone (what is materialized, how often a request succeeded): that a worker died
    is told there, as it should be.
    """
    resources: dict[str, Any] = platform_resources(settings)
    ledger, keys = resources["ledger"], resources["keys"]
    desired = unseal(
        (settings.endpoint_path / "tiny" / "desired.json").read_bytes(), keys.public_pem(), "tiny"
    )
    found: dict[str, Any] = {
        "lake": contents(settings, resources["lake"]),
        "artifacts": {name: resources["artifacts"].pointed("tiny", name) for name in ARTIFACTS},
        "stored": {
            kind: sorted(place.name for place in (settings.home / "artifacts" / kind).iterdir())
            for kind in KINDS
        },
        "decisions": {
            str(day): decision.model_dump(mode="json")
            for day in days(FIRST, last)
            if (decision := load_decision(resources["reports"], "tiny", day))
        },
        "ledger": [
            (
                entry.kind,
                entry.bundle,
                entry.actor,
                str(entry.day),
                getattr(entry, "decision", None),
                getattr(entry, "candidate", None),
            )
            for entry in entries(ledger)
        ],
        "verified": ledger.verify(),
        "tracking": tracked(resources["tracking"]),
        "desired": (desired.serial, desired.arms),
    }
    actual = resources["endpoint"].actual("tiny")
    found["serves"] = (
        (actual.ready, actual.bundles, actual.serial, actual.error) if actual else None
    )
    found["golden"] = [
        (each["bundle"], each["rows"], each["difference"] < TOLERANCE)
        for each in resources["endpoint"].golden("tiny")["bundles"]
    ]
    answers = resources["endpoint"].predict("tiny", requests(last)[:3])
    found["answers"] = [
        {name: value for name, value in answer.items() if name != "id"} for answer in answers
    ]
    with opened(settings) as dagster:
        # The reconciler's runs ask for nothing by name: how often it looks is a matter of load.
        runs = [run for run in dagster.get_runs() if REQUEST in run.tags]
        # What is asked for, and that nothing is done twice. A run that died as its last act needs no successor, and an endpoint is
        # asked for by itself when the retrain that should have brought it was tried in vain.
        found["requested"] = sorted(
            {request for run in runs if ":serve:" not in (request := run.tags[REQUEST])}
        )
        found["done twice"] = [
            request
            for request, times in Counter(
                run.tags[REQUEST] for run in runs if run.is_success
            ).items()
            if times > 1
        ]
        found["unfinished"] = [run.run_id for run in runs if not run.is_finished]
        found["materialized"] = {
            key.to_user_string(): sorted(dagster.get_materialized_partitions(key))
            for key in sorted(dagster.all_asset_keys())
        }
    return found


def contents(settings: Settings, lake: Lake) -> dict[str, dict[str, tuple[int, str]]]:
    """Rows and content digest of each day of each table."""
    found: dict[str, dict[str, tuple[int, str]]] = {}
    for log in sorted(Path(settings.lake_uri).rglob("_delta_log")):
        table = str(log.parent.relative_to(settings.lake_uri))
        frame = lake.read(table)
        if DATE in frame.columns:
            stored = lake.days(table)
            rows = dict(frame.group_by(DATE).len().iter_rows())
            found[table] = {
                str(day): (rows.get(day, 0), digest)
                for day, digest in digests_by_day(frame, stored).items()
            }
        else:
            found[table] = {"": (frame.height, content_digest(frame))}
        assert frame.unique().height == frame.height, f"{table} holds a row twice"
    return found


def tracked(tracking: Tracking) -> dict[str, Any]:
    """What MLflow shows: the candidate of each version, that of the alias, and the finished run of each candidate."""
    client = tracking.client()
    experiment = tracking.experiment("tiny", client)
    runs = client.search_runs([experiment])
    champion = client.get_model_version_by_alias("tiny", "champion")
    return {
        "versions": [
            version.tags[CANDIDATE] for version in client.search_model_versions("name = 'tiny'")
        ],
        "champion": champion.tags[CANDIDATE],
        "finished": sorted(
            run.data.tags[CANDIDATE] for run in runs if run.info.status == "FINISHED"
        ),
        "running": [run.info.run_id for run in runs if run.info.status == "RUNNING"],
    }


def days(first: date, last: date) -> list[date]:
    return [first + DAY * offset for offset in range((last - first).days + 1)]
