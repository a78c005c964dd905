"""What is stored in a home, as commands open it: the ledger and the bundles."""

from __future__ import annotations

from typing import TYPE_CHECKING

from resources.settings import Settings

if TYPE_CHECKING:
    from resources.ledger import Ledger


def ledger_of(settings: Settings) -> Ledger:
    """The ledger of a home, signed by its key."""
    from resources.keys import Keys
    from resources.ledger import Ledger

    return Ledger(path=str(settings.ledger_path), signer=Keys(path=str(settings.keys_path)))


def stored_bundles(settings: Settings) -> list[str]:
    """Digests of all bundles in the artifact store."""
    from resources.files import filesystem

    fs, path = filesystem(f"{settings.artifacts_uri}/bundles")
    if not fs.exists(path):
        return []
    return [place.rstrip("/").rsplit("/", 1)[-1] for place in fs.ls(path, detail=False)]
