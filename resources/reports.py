"""Storage of reports: one folder for each report, holding its document and its pages.

What a document says belongs in `assets.reporting.report`.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date

import dagster as dg

from resources import files

DOCUMENT = "report.json"


class Reports(dg.ConfigurableResource):
    """Store of reports at `uri`, shown to people at `url`.

    A report lies at `<pipeline>/<name>/<day>-<subject>/`: `report.json` and its pages.
    """

    uri: str
    url: str

    def folder(self, pipeline: str, name: str, day: date, subject: str) -> str:
        """The folder of a report, relative to `uri` and `url`."""
        return f"{pipeline}/{name}/{day.isoformat()}-{subject[:16]}"

    def save(
        self,
        pipeline: str,
        name: str,
        day: date,
        subject: str,
        document: bytes,
        pages: Mapping[str, bytes] | None = None,
    ) -> str:
        """Store a document with its pages (file name to content) and return its folder's link.

        The document is written last: a report that can be read is complete.
        """
        folder = self.folder(pipeline, name, day, subject)
        for page, content in (pages or {}).items():
            files.write_atomically(f"{self.uri}/{folder}/{page}", content)

        files.write_atomically(f"{self.uri}/{folder}/{DOCUMENT}", document)
        return f"{self.url}/{folder}/"

    def load(self, pipeline: str, name: str, day: date, subject: str) -> bytes | None:
        """The document of a stored report, None where there is none."""
        folder = self.folder(pipeline, name, day, subject)
        try:
            return files.read(f"{self.uri}/{folder}/{DOCUMENT}")
        except FileNotFoundError:
            return None
