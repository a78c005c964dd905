"""The shipped pipeline's lifecycle through the demo's own code: three weeks, with a real endpoint.

One replay as `make demo` runs it, only shorter: ingest, train, the gates as declared, release,
serve, and days that are monitored. Each test looks at what it left behind.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from typing import Any

import httpx
import pytest

from assets.names import DAY, PREDICTIONS, asset_path, day_range
from assets.reporting.report import Report, load_report
from assets.tabular.validation.gates import refusals, required_gates, stored
from bundle.manifest import MANIFEST
from cli.demo.replay import Platform
from cli.demo.server import endpoint, free_ports
from pipelines.flight_delays import pipeline
from pipelines.flight_delays.feed import Feed
from resources.artifacts import Artifacts
from resources.keys import Keys
from resources.lake import Lake
from resources.ledger import Ledger
from resources.reports import Reports
from resources.settings import Settings

START, END = date(2013, 2, 10), date(2013, 3, 2)
"""Forty days of history train the first model; three weeks follow."""

pytestmark = pytest.mark.timeout(900)


@dataclass(frozen=True)
class Demo:
    """What a demo left: its exit code, what it wrote, and its home."""

    code: int
    output: str
    messages: str
    settings: Settings

    @property
    def document(self) -> dict[str, Any]:
        last: dict[str, Any] = json.loads(self.output.splitlines()[-1])
        return last

    @property
    def ledger(self) -> Ledger:
        keys = Keys(path=str(self.settings.keys_path))
        return Ledger(path=str(self.settings.ledger_path), signer=keys)

    @property
    def champion(self) -> str:
        return str(self.document["served"][-1]["bundle"])

    @property
    def reports(self) -> Reports:
        return Reports(uri=self.settings.reports_uri, url=self.settings.reports_url)

    def report(self, name: str, day: date, subject: str) -> Report:
        report = load_report(self.reports, pipeline.name, name, day, subject)
        assert report is not None, f"no report {name} of {day}"
        return report


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    home = tmp_path_factory.mktemp("demo")
    command = [sys.executable, "-m", "cli.main", "demo", "--from", str(START), "--to", str(END)]
    environment = {**os.environ, "EVERGREEN_HOME": str(home)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    port, admin_port = free_ports("127.0.0.1", "127.0.0.1")
    settings = Settings(home=home / "demo", endpoint_port=port, endpoint_admin_port=admin_port)
    return Demo(done.returncode, done.stdout, done.stderr, settings)


@pytest.fixture(scope="module")
def served(demo: Demo) -> Iterator[httpx.Client]:
    """A client of an endpoint that serves what the demo left."""
    with endpoint(demo.settings), httpx.Client(base_url=demo.settings.endpoint_url) as client:
        platform = Platform(demo.settings, pipeline.name)
        platform.wait_until_serving(60, print, time.sleep)
        yield client


def test_it_ends_with_one_line_of_json_and_every_promise_kept(demo: Demo) -> None:
    assert demo.code == 0, demo.messages
    assert len(demo.output.splitlines()) == 1
    assert (demo.settings.home.parent / "demo.json").read_text() == demo.output

    document = demo.document
    feed = Feed("")
    days = day_range(START, END)
    assert document["days"] == len(days) == 21
    assert document["requests"] == sum(len(feed.requests(day)) for day in days)
    assert document["failed_requests"] == 0
    assert document["ledger"] == {"entries": demo.ledger.verify(), "verified": True}


def test_what_it_says_of_retrains_and_of_what_served_is_what_the_ledger_says(demo: Demo) -> None:
    document, entries = demo.document, demo.ledger.entries(pipeline.name)
    retrains = document["retrains"]
    assert [(each["as_of"], each["cause"]) for each in retrains[:1]] == [
        ("2013-02-09", "first_model")
    ]
    released = [each["candidate"] for each in retrains if each["released"]]
    assert released == [entry.payload["candidate"] for entry in entries if entry.kind == "release"]
    assert [(each["from"], each["bundle"]) for each in document["served"]] == [
        (str(entry.day), entry.bundle) for entry in entries if entry.kind == "traffic"
    ]
    assert document["served"][0]["arms"] == [{"bundle": demo.champion, "share": 1.0}]


def test_it_tells_in_its_own_words_what_dagster_would_tell(demo: Demo) -> None:
    lines = demo.messages.splitlines()
    assert lines
    assert [line for line in lines if " s  " not in line] == []
    assert any("retrained as of 2013-02-09 (first_model)" in line for line in lines)
    assert any("drift seen: monitoring/data_drift: missing_values" in line for line in lines)
    assert any("missing_values passes again" in line for line in lines)


def rules_of(report: Report | None) -> tuple[str, ...]:
    return tuple(verdict.rule for verdict in report.verdicts) if report else ()


def test_the_first_model_passed_the_gates_that_the_pipeline_declares(demo: Demo) -> None:
    content = Artifacts(uri=demo.settings.artifacts_uri).get("bundles", demo.champion)[MANIFEST]
    manifest = json.loads(content)
    assert manifest["pipeline"] == pipeline.name

    reports = stored(demo.reports, pipeline, START - DAY, manifest["candidate"])
    assert refusals(pipeline, reports, manifest["candidate"], champion=None) == []
    declared = required_gates(pipeline)
    assert {name: rules_of(report) for name, report in reports.items()} == declared


def test_every_day_that_was_served_is_monitored(demo: Demo) -> None:
    predictions = Lake(uri=demo.settings.lake_uri).scan(
        asset_path(pipeline.name, PREDICTIONS), START, END
    )
    assert predictions.collect().height == demo.document["requests"]

    for day in (START, END):
        for monitor in ("data_drift", "prediction_drift", "performance", "skew", "service"):
            report = demo.report(f"monitoring/{monitor}", day, demo.champion)
            assert report.measures, f"{monitor} of {day} measured nothing"
    assert demo.report("monitoring/skew", END, demo.champion).passed


@pytest.mark.parametrize("rows", [1, 64, 500])
def test_batches_are_answered_as_single_rows_are(
    demo: Demo, served: httpx.Client, rows: int
) -> None:
    requests = Feed("").requests(END)[:rows]
    answer = served.post(f"/predict/{pipeline.name}", json={"instances": requests})
    assert answer.status_code == 200, answer.text
    batch = [each["prediction"] for each in answer.json()["predictions"]]
    assert len(batch) == rows

    for request, prediction in list(zip(requests, batch, strict=True))[:5]:
        single = served.post(f"/predict/{pipeline.name}", json=request).json()
        assert single["prediction"] == pytest.approx(prediction, abs=1e-6)
        assert single["bundle"] == demo.champion
