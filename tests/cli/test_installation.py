"""Checks of the installation: what walks trees here."""

from __future__ import annotations

import pytest

from bundle.models.trees.walker import MISSING
from cli.platform import installation
from tests.support.headers import HEADER


def test_the_doctor_says_what_walks_trees(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (MISSING is None) == HEADER.exists(), MISSING
    built, without = None, "the walker is not built (no module); `make setup` builds it"
    monkeypatch.setattr(installation, "MISSING", built)
    assert installation.trees().found == "the platform's walker"
    monkeypatch.setattr(installation, "MISSING", without)
    found = installation.trees()
    # Answers are the same, only slower: nothing is unfit.
    assert found.problem is None
    assert "treelite's interpreter, which is slower" in found.found
    assert "make setup" in found.found
