"""The reports' web server: a root page that says what there is, and nothing outside the folder."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import httpx
import pytest

from assets.reporting.report import Measure, Report, save_report
from assets.traffic.entries import Confirmation, record
from cli.platform.home import initialise
from cli.platform.reports_server import server
from cli.stored import ledger_of
from resources.reports import Reports
from resources.settings import Settings
from tests.support.ports import free_ports

EVIL = "<script>alert(1)</script>"
DAY, BUNDLE, CHALLENGER = date(2024, 3, 1), "b" * 64, "c" * 64


@pytest.fixture
def local(tmp_path: Path) -> Settings:
    (port,) = free_ports(1)
    found = Settings(home=tmp_path / "home", reports_port=port)
    initialise(found)
    return found


@pytest.fixture
def client(local: Settings) -> Iterator[httpx.Client]:
    with server(local) as bound:
        thread = threading.Thread(target=bound.serve_forever, daemon=True)
        thread.start()
        with httpx.Client(base_url=local.reports_url) as opened:
            yield opened
        bound.shutdown()
        thread.join()


def store(local: Settings, pipeline: str = "tiny", subject: str = BUNDLE) -> str:
    reports = Reports(uri=local.reports_uri, url=local.reports_url)
    report = Report(
        pipeline=pipeline,
        name="monitoring/data_drift",
        subject=subject,
        day=DAY,
        measures=(Measure(name="drift_share", value=0.1, n=900),),
    )
    return save_report(reports, report, {"index.html": b"<p>the page</p>"})


def test_no_page_lets_a_browser_load_anything_from_another_host(
    local: Settings, client: httpx.Client
) -> None:
    link = store(local)
    for place in ("/", link, f"{link}nothing.html"):
        policy = client.get(place).headers["content-security-policy"]
        sources = policy.partition("default-src ")[2].partition(";")[0].split()
        outside = set(sources) - {"'self'", "'unsafe-inline'", "'unsafe-eval'", "data:", "blob:"}
        assert sources
        assert not outside


def test_before_anything_is_stored_the_root_says_so_and_links_to_the_others(
    local: Settings, client: httpx.Client
) -> None:
    page = client.get("/")
    assert page.status_code == 200
    assert "No pipeline has stored a report" in page.text
    for url in (local.dagster_url, local.mlflow_url, f"{local.endpoint_url}/docs"):
        assert f'href="{url}"' in page.text


def test_the_root_says_what_serves_since_when_and_names_the_newest_reports(
    local: Settings, client: httpx.Client
) -> None:
    store(local)
    entry = record(
        ledger_of(local),
        Confirmation(
            pipeline="tiny",
            day=DAY,
            actor="policy",
            bundle=BUNDLE,
            decision=1,
            arms=((BUNDLE, 0.9), (CHALLENGER, 0.1)),
            golden_rows=50,
            golden_difference=0.0,
        ),
    )
    page = client.get("/").text
    for words in (BUNDLE[:12], f"{entry.moment:%Y-%m-%d %H:%M}", "90% bbbbbbbbbbbb", "10% cccc"):
        assert words in page
    link = f"tiny/monitoring/data_drift/{DAY}-{BUNDLE[:16]}/index.html"
    assert f'href="{link}"' in page
    assert client.get(f"/{link}").text == "<p>the page</p>"
    assert client.head("/").headers["content-length"] == str(len(client.get("/").content))


def test_hostile_names_are_text(local: Settings, client: httpx.Client) -> None:
    store(local, pipeline="tiny", subject=EVIL.replace("/", "_"))
    page = client.get("/").text
    assert "&lt;script&gt;" in page
    assert "<script" not in page


def test_an_altered_ledger_is_told_and_the_reports_stay(
    local: Settings, client: httpx.Client
) -> None:
    store(local)
    local.ledger_path.write_bytes(b"no database at all" * 100)
    page = client.get("/").text
    assert "The ledger cannot be read" in page
    assert "monitoring/data_drift" in page


def test_no_folder_is_listed_and_nothing_outside_is_served(
    local: Settings, client: httpx.Client, tmp_path: Path
) -> None:
    store(local)
    secret = tmp_path / "secret.txt"
    secret.write_text("a secret")
    reports = Path(local.reports_uri)
    (reports / "link.txt").symlink_to(secret)
    (reports / "away").symlink_to(tmp_path)
    paths = (
        "/tiny/",
        "/tiny/monitoring/",
        "/link.txt",
        "/away/secret.txt",
        "/..%2f..%2fsecret.txt",
        "/%2e%2e/%2e%2e/secret.txt",
        "/absent.html",
    )
    for path in paths:
        answer = client.get(path)
        assert answer.status_code == 404, path
        assert "a secret" not in answer.text
