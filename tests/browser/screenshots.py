"""The pictures of README and docs, from real pages: `make screenshots`.

Two real platforms are built for them. The flights of January to March, up to the first champion,
show lineage, checks and calibration. The tiny pipeline shows how a retrained bundle takes over.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path

from playwright.sync_api import Page

from assets.names import DAY, ROLLOUT, day_range
from assets.reporting.page import PAGE
from assets.traffic import decisions, rollouts
from assets.traffic.entries import entries
from cli.platform.reports_server import overview
from pipelines.flight_delays import pipeline
from pipelines.flight_delays.feed import Feed
from tests.browser.ui import browser_page, web_server
from tests.graph.test_rollout import POLICY
from tests.support.platform import Platform, platform
from tests.support.tiny import FIRST, land, requests, tiny

PICTURES = Path(__file__).resolve().parent.parent.parent / "docs" / "images"
START, END = date(2013, 1, 1), date(2013, 3, 31)
SETTLES = 3_000
"""Milliseconds until the UI has laid out and faded in what it shows."""

STEPWISE = tiny.model_copy(update={"release": POLICY.model_copy(update={"canary": (0.1,)})})
REQUESTS = 300
"""Requests of each day of the rollout."""


def main() -> None:
    """Write all pictures."""
    PICTURES.mkdir(parents=True, exist_ok=True)
    with _home() as home:
        photograph_lifecycle(home)
    with _home() as home:
        photograph_rollout(home)


@contextmanager
def _home() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "home"
        os.environ["DAGSTER_HOME"] = str(home / "dagster")
        yield home


def photograph_lifecycle(home: Path) -> None:
    """Land January to March, then day by day until a first champion serves; show the Dagster UI."""
    with platform(home, [pipeline]) as running:
        feed = Feed(running.settings.landing_uri, 0.05, 0.01, 0)
        feed.land_once()
        for day in day_range(START, END):
            feed.land(day)
        running.driver.settle()
        while running.ledger.released(pipeline.name) is None:
            day += DAY
            feed.land(day)
            running.driver.settle()

        with web_server("pipelines.definitions", home.parent / "webserver.log") as url:
            with browser_page(1600, 1420) as page:
                show_lineage(page, url)
            with browser_page(1500, 800) as page:
                show_report(page, url)


def show_lineage(page: Page, url: str) -> None:
    """`lineage.png`: every asset of the pipeline, with the groups open."""
    page.goto(f"{url}/asset-groups")
    page.get_by_text("retraining", exact=True).last.wait_for()
    page.get_by_text("Hide navigation").click()
    page.locator("button:has([aria-label=panel_show_right])").last.click()
    page.wait_for_timeout(SETTLES)

    # The UI's own shortcut for opening all groups.
    page.keyboard.press("Alt+e")
    page.get_by_text("training_set").first.wait_for()
    page.wait_for_timeout(2 * SETTLES)

    # The UI puts a tall graph a little too high.
    page.mouse.move(500, 300)
    page.mouse.down()
    page.mouse.move(500, 380, steps=5)
    page.mouse.up()
    page.wait_for_timeout(SETTLES)
    page.screenshot(path=PICTURES / "lineage.png")


def show_report(page: Page, url: str) -> None:
    """`checks.png` and `calibration.png`: what the performance report says of the candidate."""
    report = f"{url}/assets/{pipeline.name}/validation/performance"
    page.goto(f"{report}?view=checks")
    page.get_by_text("calibration_error_is_low").first.wait_for()
    page.get_by_text("Hide navigation").click()
    page.wait_for_timeout(SETTLES)
    page.screenshot(path=PICTURES / "checks.png")

    page.goto(f"{report}?view=events")
    page.get_by_text("[Show Markdown]").first.click()
    picture = page.locator("img[src^='data:image']").first
    picture.wait_for()
    page.wait_for_timeout(SETTLES)
    picture.screenshot(path=PICTURES / "calibration.png")


def photograph_rollout(home: Path) -> None:
    """Let a retrained bundle take over, then show each day's page and what serves at the end."""
    with platform(home, [STEPWISE]) as running:
        day = FIRST + 69 * DAY
        land(running.landing, FIRST, day)
        running.driver.settle()

        asked = "to see it roll out"
        decisions.request_retraining(running.ledger, tiny.name, "ada@example.org", asked, day)
        for _ in range(3):
            day += DAY
            land(running.landing, day, day, rows=REQUESTS)
            running.driver.settle()
            running.post(tiny.name, requests(day, rows=REQUESTS))

        show_rollout(running)


def show_rollout(running: Platform) -> None:
    """`rollout-shadow.png`, `rollout-canary.png` and `rollout-full.png`."""
    rollout = rollouts.rollouts(entries(running.ledger, tiny.name))[-1]
    assert [step.stage for step in rollout.steps] == ["shadow", "canary", "full"], rollout.summary
    full = running.settings.home / "overview.html"
    full.write_bytes(overview(running.settings))

    with browser_page(1000, 900) as page:
        for step in rollout.steps[:-1]:
            folder = running.reports.folder(tiny.name, ROLLOUT, step.day, rollout.bundle)
            page.goto((Path(running.reports.uri) / folder / PAGE).as_uri())
            page.screenshot(path=PICTURES / f"rollout-{step.stage}.png")
        page.goto(full.as_uri())
        page.screenshot(path=PICTURES / "rollout-full.png")


if __name__ == "__main__":
    main()
