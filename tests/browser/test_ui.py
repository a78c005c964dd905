"""The real Dagster UI in a real browser: lineage by stages, an asset materialized by click, its checks and plots."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import dagster as dg
import pytest
from playwright.sync_api import Locator, Page, expect

from tests.browser.ui import browser_page, web_server
from tests.support.platform import Platform, platform
from tests.support.tiny import DAY, FIRST, land, tiny

pytestmark = pytest.mark.timeout(600)
MACHINES = dg.AssetKey(["tiny", "raw", "machines"])


@pytest.fixture
def shown(home: Path, tmp_path: Path) -> Iterator[tuple[Platform, str]]:
    """A platform whose first champion serves, with the UI in front of it; runs start at once, without the daemon's queue."""
    (home / "dagster" / "dagster.yaml").write_text(
        "telemetry: {enabled: false}\nrun_coordinator: {module: dagster._core.run_coordinator, class: DefaultRunCoordinator}\n"
    )
    with platform(home, [tiny]) as running:
        land(running.landing, FIRST, FIRST + 69 * DAY)
        assert [run.failure for run in running.driver.settle() if not run.success] == []
        with web_server("tests.support.location", tmp_path / "webserver.log") as url:
            yield running, url


def materializations(running: Platform) -> int:
    return len(running.instance.fetch_materializations(MACHINES, limit=100).records)


def test_a_person_sees_the_lineage_materializes_an_asset_and_reads_its_report(
    shown: tuple[Platform, str],
) -> None:
    running, url = shown
    with browser_page() as page:
        page.goto(f"{url}/asset-groups")
        for stage in (
            "data",
            "features",
            "training",
            "validation",
            "release",
            "endpoint",
            "monitoring",
            "retraining",
        ):
            expect(page.get_by_text(stage, exact=True).first).to_be_visible()

        before = materializations(running)
        page.goto(f"{url}/assets/tiny/raw/machines")
        page.get_by_role("button", name=re.compile("Materialize")).first.click()
        wait_for(lambda: materializations(running) > before)

        page.goto(f"{url}/assets/tiny/validation/performance?view=checks")
        for check in ("beats_baseline", "calibration_error_is_low"):
            expect(page.get_by_text(check).first).to_be_visible()
        page.goto(f"{url}/assets/tiny/validation/performance?view=events")
        expect(inline_plot(page)).to_be_visible()


def inline_plot(page: Page) -> Locator:
    """A plot in the metadata, opened where the UI folds Markdown away."""
    page.get_by_text("[Show Markdown]").first.click()
    return page.locator("img[src^='data:image']").first


def wait_for(done: Callable[[], bool], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end, "nothing was materialized by the click"
        time.sleep(0.5)
