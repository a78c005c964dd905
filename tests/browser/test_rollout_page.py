"""The page of a rollout in a real browser: both arms side by side, with their plots, from one file that loads nothing else."""

from __future__ import annotations

import re
from pathlib import Path

from playwright.sync_api import expect

from assets.names import ROLLOUT
from assets.reporting.report import Report
from assets.traffic.judging import measures as measuring, pages, verdicts as judging
from tests.assets.traffic.test_rollout_judge import CANARY, DAY, KIND, POLICY, rollout
from tests.browser.ui import browser_page


def test_the_page_of_a_rollout_shows_the_arms(tmp_path: Path) -> None:
    on_its_way = rollout("canary", 0.5)
    measures = (
        *measuring.measures(KIND, on_its_way, CANARY),
        *measuring.quality(KIND, CANARY, POLICY),
    )
    verdicts = judging.verdicts(on_its_way, measures, POLICY)
    report = Report(
        pipeline="flights",
        name=ROLLOUT,
        subject=on_its_way.bundle,
        day=DAY,
        measures=measures,
        verdicts=verdicts,
    )
    content, images = pages.rollout_page(
        KIND, report, on_its_way, CANARY, *judging.action(verdicts)
    )
    place = tmp_path / "index.html"
    place.write_bytes(content)
    asked: list[str] = []
    with browser_page(1200, 1400) as page:
        page.on("request", lambda request: asked.append(request.url))
        page.goto(place.as_uri())
        expect(page.get_by_role("heading", name="Rollout")).to_be_visible()
        expect(page.get_by_role("columnheader", name="champion")).to_be_visible()
        expect(page.get_by_role("columnheader", name="candidate")).to_be_visible()
        expect(page.get_by_role("row", name=re.compile("^requests"))).to_contain_text("n=900")
        assert len(images) == 2
        for place_of in range(len(images)):
            assert (
                page.locator("figure img")
                .nth(place_of)
                .evaluate("image => image.complete && image.naturalWidth > 300")
            )
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
