"""The README's pictures, from the real UI over the real year of flights: `make screenshots`."""

from __future__ import annotations

import os
import tempfile
from datetime import date, timedelta
from pathlib import Path

from pipelines.flight_delays import pipeline
from pipelines.flight_delays.feed import Feed
from tests.browser.ui import browser_page, web_server
from tests.support.platform import platform

PICTURES = Path(__file__).resolve().parent.parent.parent / "docs" / "images"
FIRST, LAST = date(2013, 1, 1), date(2013, 3, 31)
SETTLES = 3_000  # milliseconds until the UI has laid out and faded in what it shows


def main() -> None:
    """Train and serve a first champion on January to March, then photograph the lineage and a report."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "home"
        os.environ["DAGSTER_HOME"] = str(home / "dagster")
        with platform(home, [pipeline]) as running:
            feed = Feed(running.settings.landing_uri, 0.05, 0.01, 0)
            feed.land_once()
            for offset in range((LAST - FIRST).days + 1):
                feed.land(FIRST + timedelta(days=offset))
            running.driver.settle()
            with web_server("pipelines.definitions", Path(folder) / "webserver.log") as url:
                photograph(url)


def photograph(url: str) -> None:
    """Write `lineage.png`, `checks.png` and `calibration.png`."""
    PICTURES.mkdir(parents=True, exist_ok=True)
    with browser_page(1500, 620) as page:
        page.goto(f"{url}/asset-groups")
        page.get_by_text("retraining", exact=True).last.wait_for()
        page.wait_for_timeout(SETTLES)
        page.screenshot(path=PICTURES / "lineage.png")
        page.set_viewport_size({"width": 1500, "height": 800})
        page.goto(f"{url}/assets/{pipeline.name}/validation/performance?view=checks")
        page.get_by_text("calibration_error_is_low").first.wait_for()
        page.wait_for_timeout(SETTLES)
        page.screenshot(path=PICTURES / "checks.png")
        page.goto(f"{url}/assets/{pipeline.name}/validation/performance?view=events")
        page.get_by_text("[Show Markdown]").first.click()
        page.locator("img[src^='data:image']").first.wait_for()
        page.wait_for_timeout(SETTLES)
        page.screenshot(path=PICTURES / "calibration.png")


if __name__ == "__main__":
    main()
