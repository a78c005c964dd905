"""The endpoint's own page in a real browser: it sends a prediction, shows and explains the answer, and says what is refused."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from playwright.sync_api import expect

from bundle.records import reader
from tests.browser.ui import browser_page
from tests.support.endpoint import CONTRACT, DAY, NAME, Place, program

pytestmark = pytest.mark.timeout(300)


def test_the_page_sends_a_prediction_explains_the_answer_and_shows_refusals(tmp_path: Path) -> None:
    place = Place.new(tmp_path)
    digest = place.release()
    with place.server() as server, browser_page() as page:
        admin = str(server.admin.base_url).rstrip("/")
        problems: list[str] = []
        elsewhere: list[str] = []
        page.on(
            "console",
            lambda message: (
                problems.append(message.text) if message.type in ("error", "warning") else None
            ),
        )
        page.on(
            "request",
            lambda sent: (
                None if sent.url.startswith((admin, "data:")) else elsewhere.append(sent.url)
            ),
        )
        page.goto(f"{admin}/docs")
        form = page.get_by_role("form", name=f"Try {NAME}")
        for name in CONTRACT:
            expect(form.get_by_label(name, exact=True)).to_be_visible()
        expect(page.get_by_text(digest[:12]).first).to_be_visible()

        # Filled with an example that works as it stands.
        form.get_by_role("button", name="Predict").click()
        answer = page.get_by_role("status")
        expect(answer).to_contain_text(re.compile(r"\d+\.\d %"))
        expect(answer).to_contain_text("Log odds before calibration")
        for feature in program().names:
            expect(answer.get_by_text(feature, exact=True).first).to_be_visible()
        records = reader.read(place.predictions, DAY).records
        assert len(records) == 1
        expect(answer).to_contain_text(records[0].id)
        expect(answer).to_contain_text(f"{100 * records[0].output:.1f} %")
        assert problems == []

        amount = form.get_by_label("amount", exact=True)
        amount.fill("5000")
        form.get_by_role("button", name="Predict").click()
        expect(answer).to_contain_text(
            "Refused with 422: amount must be a finite number, at least 0, at most 1000."
        )
        expect(amount).to_have_attribute("aria-invalid", "true")
        form.get_by_role("button", name="Example").click()
        form.get_by_role("button", name="Predict").click()
        expect(answer).to_contain_text("Log odds before calibration")
        assert elsewhere == []
