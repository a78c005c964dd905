"""SIGKILL at chosen points of ingest, training, release and endpoint swap: the end is as if nothing had happened.

Two platforms, made by `evergreen up` with real code server, daemon, run workers and endpoint, live through the tiny pipeline's
first days. On one, single processes are killed while the rest lives on; on the other everything is killed at once, as by a power
cut, and started again. What they end with is compared with a platform that nothing happened to.
"""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import httpx
import pytest

from bundle.models.model import TOLERANCE
from bundle.records import reader
from cli.demo.driver import Driver
from pipelines.definitions import build_definitions, platform_resources
from resources.keys import Keys
from resources.landing import Landing
from resources.settings import settings
from tests.support.endpoint import DAY as TOY_DAY, NAME as TOY, TREE, Place, Running, request
from tests.support.killing import KILLER, Point, Supervised, end_state, killing, opened
from tests.support.platform import platform
from tests.support.tiny import DAY, FIRST, land, tiny

HISTORY = FIRST + 69 * DAY
SECONDS = 360.0

pytestmark = pytest.mark.timeout(480)

SUBMIT = "dagster._core.instance.methods.run_launcher_methods:RunLauncherMethods.submit_run"
# In the order in which they are reached. Dagster retries a run that died twice, from where it died.
ONE_BY_ONE = (
    Point(SUBMIT, "before"),  # daemon: the run of a request is made, and not yet queued
    Point(SUBMIT, "after"),  # daemon: it is queued, and the sensor's tick does not know
    Point(
        "resources.lake:Lake.write", "before", ("tiny/raw/results",)
    ),  # worker, ingest: one source committed, the next not
    Point(
        "resources.lake:Lake.write", "after", ("tiny/raw/results",)
    ),  # worker, ingest: committed, nobody told
    Point(
        "assets.tabular.training.calibration:worthwhile", "before"
    ),  # worker, training: in the middle of the candidate
    Point(
        "resources.artifacts:Artifacts.put", "after", ("bundles",)
    ),  # worker, release: the bundle lies there, unnamed
    Point(
        "serving.delivery.following.state:Served._publish", "before"
    ),  # endpoint: desired state seen, not yet served
)
ALL_AT_ONCE = (
    Point(
        "resources.tracking:Tracking._log_model", "after", (), "stop"
    ),  # training: in MLflow, not registered
    Point(
        "resources.tracking:Tracking.move_alias", "before", (), "stop"
    ),  # release: in the ledger, no alias, not yet desired
)


@dataclass
class Told:
    """How a platform's life went: why it has no end, or its end state and what its sensors still ask for."""

    problem: str | None = "it was not followed to its end"
    state: dict[str, Any] = field(default_factory=dict)
    requested_again: list[str] = field(default_factory=list)


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Told]:
    """The three lives, at the same time: most of it is waiting for daemons."""
    root = tmp_path_factory.mktemp("killed")
    keys = Keys(path=str(root / "keys"))
    keys.public_path  # noqa: B018  the pair is made on first use
    killed: dict[str, Supervised] = {}
    with ExitStack() as stack:
        stack.enter_context(patch.dict(os.environ))
        for name in [name for name in os.environ if name.startswith(("EVERGREEN_", "DAGSTER_"))]:
            del os.environ[name]
        stack.callback(settings.cache_clear)
        for name, points in (("one by one", ONE_BY_ONE), ("all at once", ALL_AT_ONCE)):
            home = root / name.replace(" ", "-")
            home.mkdir()
            killed[name] = Supervised(home, Path(keys.path), points)
            stack.callback(killed[name].kill_everything)
            land(Landing(uri=killed[name].settings.landing_uri), FIRST, HISTORY)
            killed[name].start()
        found = {name: Told() for name in killed} | {
            "undisturbed": undisturbed(root / "undisturbed", Path(keys.path))
        }
        end = time.monotonic() + SECONDS
        while killed and time.monotonic() < end:
            for name, each in list(killed.items()):
                if concluded(each, found[name], entries=found["undisturbed"].state["verified"]):
                    del killed[name]
            time.sleep(1)
        for name, each in killed.items():
            missed = [str(point) for point in each.points if point not in each.reached]
            found[
                name
            ].problem = f"not at its end after {SECONDS:g} s; never reached: {missed or 'none'}; see {each.home}"
    return found


def undisturbed(home: Path, keys: Path) -> Told:
    (home / "dagster").mkdir(parents=True)
    shutil.copytree(keys, home / "keys")
    with platform(home, [tiny]) as running:
        land(running.landing, FIRST, HISTORY)
        failures = [run.failure for run in running.driver.settle() if not run.success]
        assert failures == []
        return Told(None, end_state(running.settings, HISTORY))


def concluded(killed: Supervised, told: Told, entries: int) -> bool:
    """Whether a killed platform is at its end, which is then told."""
    try:
        if not killed.step(entries):
            return False
        told.state = end_state(killed.settings, HISTORY)
        killed.kill_everything()
        definitions = build_definitions([tiny], platform_resources(killed.settings))
        with opened(killed.settings) as instance:
            told.requested_again = [run.job for run in Driver(definitions, instance).settle()]
        told.problem = None
    except AssertionError as error:
        told.problem = str(error)
    return True


KILLED = pytest.mark.parametrize("name", ["one by one", "all at once"])


@KILLED
def test_the_end_is_reached_whatever_was_killed(told: dict[str, Told], name: str) -> None:
    assert told[name].problem is None
    assert told[name].requested_again == []


@KILLED
@pytest.mark.parametrize(
    "part",
    [
        "lake",
        "artifacts",
        "stored",
        "decisions",
        "tracking",
        "requested",
        "done twice",
        "unfinished",
        "materialized",
    ],
)
def test_the_end_is_as_if_nothing_had_happened(told: dict[str, Told], name: str, part: str) -> None:
    assert told[name].state[part] == told["undisturbed"].state[part]


@KILLED
def test_the_ledger_tells_each_decision_once(told: dict[str, Told], name: str) -> None:
    state = told[name].state
    assert [kind for kind, *_ in state["ledger"]] == ["approval", "release", "traffic"]
    assert state["ledger"] == told["undisturbed"].state["ledger"]
    assert state["verified"] == len(state["ledger"])


@KILLED
def test_the_endpoint_serves_and_answers_the_same(told: dict[str, Told], name: str) -> None:
    state, expected = told[name].state, told["undisturbed"].state
    for part in ("desired", "serves", "golden", "answers"):
        assert state[part] == expected[part], part
    assert state["serves"][:2] == (True, (state["artifacts"]["bundle"],))
    assert all(sound for *_, sound in state["golden"])


# -- the swap of one bundle for another --------------------------------------------------------------------------------------

SWAPS = {
    "its serial was remembered": ("bundle.files:write_atomically", "after", "serial.json"),
    "its bundle was about to be loaded": (
        "serving.delivery.following.loading:Loader.load",
        "before",
        "",
    ),
    "its golden rows were tried": ("serving.delivery.following.loading:Loader.load", "after", ""),
    "it served, and had not remembered it": (
        "bundle.files:write_atomically",
        "before",
        "served.json",
    ),
}


def predicted(server: Running, count: int = 20) -> list[dict[str, Any]]:
    """Answers to the first requests."""
    found: list[dict[str, Any]] = []
    ask_on(server, found.append, count)
    return found


def ask_on(server: Running, tell: Callable[[dict[str, Any]], None], count: int = 100_000) -> None:
    """One request after the other."""
    for number in range(count):
        answer = server.client.post(f"/predict/{TOY}", json=request(number))
        assert answer.status_code == 200, answer.text
        tell(answer.json())


@pytest.mark.parametrize("moment", SWAPS)
def test_an_endpoint_killed_in_a_swap_comes_back_with_the_new_bundle(
    moment: str, tmp_path: Path
) -> None:
    place = Place.new(tmp_path)
    old = place.release(seed=1)
    new = place.install(seed=2)
    function, when, file = SWAPS[moment]
    variables = killing(
        [Point(function, "before" if when == "before" else "after", (new, file))],
        tmp_path / "marks",
    )
    acknowledged: list[dict[str, Any]] = []
    with place.server(
        variables={**variables, "PYTHONPATH": f"{KILLER}{os.pathsep}{TREE}"}
    ) as server:
        place.wait(old)
        acknowledged += predicted(server)
        place.desire((new, 1.0))
        with pytest.raises(httpx.TransportError):
            ask_on(server, acknowledged.append)
        assert server.process.wait(10) == -signal.SIGKILL
    assert (tmp_path / "marks" / "0").exists()
    with place.server() as server:
        actual = place.wait(new)
        assert (actual.bundles, actual.serial, actual.error) == ((new,), place.serial, None)
        (golden,) = place.endpoint.golden(TOY)["bundles"]
        assert golden["bundle"] == new
        assert golden["difference"] <= TOLERANCE
        answers = predicted(server)
    assert {answer["bundle"] for answer in answers} == {new}
    reading = reader.read(place.predictions, TOY_DAY)
    logged = [record.id for record in reading.records]
    assert len(logged) == len(set(logged))
    assert {answer["id"] for answer in acknowledged + answers} <= set(logged)
