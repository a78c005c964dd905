"""Artifacts: folders of files named by their content, and pointers to the newest one of a kind."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Literal

import dagster as dg

from resources import files

Kind = Literal["training_sets", "studies", "baselines", "candidates", "bundles"]


def folder_digest(contents: Mapping[str, bytes]) -> str:
    """SHA-256 over the sorted `digest  name` lines of a folder: equal files give equal digests."""
    lines = [
        f"{hashlib.sha256(content).hexdigest()}  {name}\n"
        for name, content in sorted(contents.items())
    ]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


class Artifacts(dg.ConfigurableResource):
    """Content-addressed store at `uri`: `<uri>/<kind>/<digest>/<file>`, pointers in
    `<uri>/pointers/<pipeline>/<name>.json`.
    """

    uri: str

    def put(self, kind: Kind, contents: Mapping[str, bytes]) -> str:
        """Store a folder and return its digest. Storing equal files again changes nothing."""
        digest = folder_digest(contents)
        for name, content in sorted(contents.items()):
            place = f"{self.uri}/{kind}/{digest}/{name}"
            if not files.exists(place):
                files.write_atomically(place, content)
        index = "".join(
            f"{hashlib.sha256(content).hexdigest()}  {name}\n"
            for name, content in sorted(contents.items())
        )
        files.write_atomically(f"{self.uri}/{kind}/{digest}/SHA256SUMS", index.encode())
        return digest

    def get(self, kind: Kind, digest: str) -> dict[str, bytes]:
        """All files of a folder, verified.

        Raises FileNotFoundError for what is not (completely) stored and ValueError for what was
        altered.
        """
        place = f"{self.uri}/{kind}/{digest}"
        index = files.read(f"{place}/SHA256SUMS").decode()
        if hashlib.sha256(index.encode()).hexdigest() != digest:
            raise ValueError(
                f"{place}/SHA256SUMS does not match its folder's digest; restore the folder or "
                "build it again"
            )
        contents: dict[str, bytes] = {}
        for line in index.splitlines():
            expected, name = line.split("  ", 1)
            contents[name] = files.read(f"{place}/{name}")
            if hashlib.sha256(contents[name]).hexdigest() != expected:
                raise ValueError(
                    f"{place}/{name} was altered: its digest is not {expected}; restore the file "
                    "or build it again"
                )
        return contents

    def point(self, pipeline: str, name: str, digest: str) -> None:
        """Make `digest` the newest `name` (a training set, study, candidate or bundle) of a
        pipeline.
        """
        files.write_atomically(
            f"{self.uri}/pointers/{pipeline}/{name}.json", json.dumps({"digest": digest}).encode()
        )

    def pointed(self, pipeline: str, name: str) -> str | None:
        """Digest of the newest `name` of a pipeline, None where there is none yet."""
        try:
            document = json.loads(files.read(f"{self.uri}/pointers/{pipeline}/{name}.json"))
        except FileNotFoundError:
            return None
        return str(document["digest"])
