"""One endpoint for the tests that only ask; those that break something start their own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.support.endpoint import Place, Running


@dataclass
class Shared:
    place: Place
    server: Running
    digest: str


@pytest.fixture(scope="package")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shared]:
    """A server that serves the toy pipeline; tests must leave it serving the same bundle."""
    place = Place.new(tmp_path_factory.mktemp("shared"))
    digest = place.release()
    with place.server(
        "--body-limit", "200000", "--row-limit", "300", "--request-seconds", "2"
    ) as server:
        yield Shared(place, server, digest)
