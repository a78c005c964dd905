"""The reports' web server: stored pages as they are, and a root page that says where to look.

`python -m cli.platform.reports_server` serves the reports folder of the settings. It only reads.
There is no directory listing, and nothing outside the folder is served, also not through a link.
What a report says belongs in `assets.reporting`.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from http import HTTPStatus
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from assets.reporting.page import PAGE, Link, Section, Table, render_plain
from resources.ledger import LedgerError
from resources.reports import DOCUMENT
from resources.settings import Settings, settings

if TYPE_CHECKING:
    from assets.traffic.entries import Confirmation

NEWEST = 25
"""Reports on the root page."""

POLICY = "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; base-uri 'none'"
"""What a browser may load for a stored page: nothing from another host.

Pages of libraries (Evidently's) run scripts of their own, so scripts within a page are allowed."""


class Handler(SimpleHTTPRequestHandler):
    """Files below a folder, and the overview at the root."""

    def __init__(self, *arguments: Any, local: Settings, **options: Any) -> None:
        self._settings = local
        super().__init__(*arguments, directory=str(local.home / "reports"), **options)

    def do_GET(self) -> None:
        if urlsplit(self.path).path in ("/", f"/{PAGE}"):
            self._answer(overview(self._settings), body=True)
        else:
            super().do_GET()

    def do_HEAD(self) -> None:
        if urlsplit(self.path).path in ("/", f"/{PAGE}"):
            self._answer(overview(self._settings), body=False)
        else:
            super().do_HEAD()

    def send_head(self) -> Any:
        """Refuse what lies outside the folder once every link is followed."""
        root = Path(self.directory).resolve()
        if not Path(self.translate_path(self.path)).resolve().is_relative_to(root):
            self.send_error(HTTPStatus.NOT_FOUND, "no such page")
            return None
        return super().send_head()

    def list_directory(self, path: Any) -> None:
        self.send_error(HTTPStatus.NOT_FOUND, "no such page; the root names what there is")

    def end_headers(self) -> None:
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Content-Security-Policy", POLICY)
        super().end_headers()

    def _answer(self, page: bytes, body: bool) -> None:
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(page)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        if body:
            self.wfile.write(page)


def overview(local: Settings) -> bytes:
    """The root page: what serves since when, the newest reports, and the other pages."""
    places = [
        Link("Dagster", local.dagster_url),
        Link("MLflow", local.mlflow_url),
        Link("Endpoint", f"{local.endpoint_url}/docs"),
    ]
    reports = local.home / "reports"
    stored = list(stored_reports(reports))
    return render_plain(
        "Evergreen",
        "What serves, and what was examined last.",
        [],
        [_serving(local, stored), Section("Elsewhere", links=places), _newest(reports, stored)],
    )


def stored_reports(folder: Path) -> Iterator[tuple[datetime, Path]]:
    """The folders of all stored reports below a folder, with the time of storage."""
    for document in folder.glob(f"*/**/{DOCUMENT}"):
        try:
            moment = datetime.fromtimestamp(document.stat().st_mtime, UTC)
        except FileNotFoundError:  # it was replaced while we looked
            continue
        yield moment, document.parent.relative_to(folder)


def _serving(local: Settings, stored: list[tuple[datetime, Path]]) -> Section:
    heading = "Pipelines"
    try:
        confirmed = _confirmed(local)
    except LedgerError as error:
        text = f"The ledger cannot be read, so nobody can say here what serves: {error}"
        return Section(heading, text)

    names = sorted({folder.parts[0] for _, folder in stored} | set(confirmed))
    if not names:
        return Section(heading, "No pipeline has stored a report or served a bundle yet.")
    rows = [_row(name, confirmed.get(name)) for name in names]
    return Section(heading, tables=[Table(["pipeline", "serves", "since (UTC)", "traffic"], rows)])


def _row(name: str, served: Confirmation | None) -> list[str]:
    if served is None:
        return [name, "nothing", "–", "–"]
    shares = [f"{share:.0%} {bundle[:12]}" for bundle, share in served.arms]
    shadows = [f"shadow {bundle[:12]}" for bundle in served.shadows]
    return [name, (served.bundle or "–")[:12], _time(served.moment), ", ".join(shares + shadows)]


def _confirmed(local: Settings) -> dict[str, Confirmation]:
    """The newest confirmed traffic of each pipeline, as the ledger says."""
    from assets.traffic.entries import entries
    from assets.traffic.moves import confirmed_at
    from cli.stored import ledger_of

    now, everything = datetime.now(UTC), entries(ledger_of(local))
    found: dict[str, Confirmation] = {}
    for name in {entry.pipeline for entry in everything}:
        own = [entry for entry in everything if entry.pipeline == name]
        if (confirmation := confirmed_at(own, now)) is not None:
            found[name] = confirmation
    return found


def _newest(reports: Path, stored: list[tuple[datetime, Path]]) -> Section:
    heading = "Newest reports"
    if not stored:
        return Section(heading, "No report is stored yet; the first comes with the first day.")

    rows: list[list[str | Link]] = []
    for moment, folder in sorted(stored, reverse=True)[:NEWEST]:
        # <pipeline>/<name>/<day>-<subject>
        pipeline, *name, place = folder.parts
        day, subject = place[:10], place[11:]
        page = PAGE if (reports / folder / PAGE).exists() else DOCUMENT
        link = Link("/".join(name), quote(f"{folder.as_posix()}/{page}"))
        rows.append([link, pipeline, day, subject[:12], _time(moment)])
    table = Table(["report", "pipeline", "day", "subject", "stored (UTC)"], rows)
    return Section(heading, f"The newest {len(rows)} of {len(stored):,}.", tables=[table])


def _time(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M}"


def server(local: Settings) -> ThreadingHTTPServer:
    """The server, bound and not yet serving."""
    handler = functools.partial(Handler, local=local)
    return ThreadingHTTPServer((local.host, local.reports_port), handler)


def main() -> int:
    """Serve until the process is ended."""
    with server(settings()) as bound:
        bound.serve_forever()
    return 0


if __name__ == "__main__":
    sys.exit(main())
