"""What is stored in a home, as commands open it: the ledger and the bundles."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cli.output import WRONG_USE, CommandError
from resources.settings import Settings

if TYPE_CHECKING:
    from resources.ledger import Ledger


def ledger_of(settings: Settings) -> Ledger:
    """The ledger of a home, signed by its key."""
    from resources.keys import Keys
    from resources.ledger import Ledger

    return Ledger(path=str(settings.ledger_path), signer=Keys(path=str(settings.keys_path)))


def default_pipeline(settings: Settings) -> str:
    """The pipeline that a command means where none is named: the only one that serves, or, before
    any serves, the only one that is declared.

    Raises CommandError where there are several, or none.
    """
    # What the endpoint was told to serve lies in its folder; a broken ledger does not matter here.
    serving = sorted(place.parent.name for place in settings.endpoint_path.glob("*/desired.json"))
    names = serving or _declared_names()
    if len(names) == 1:
        return names[0]
    if not names:
        raise CommandError("no pipeline is declared in pipelines/", WRONG_USE)
    what = "serve" if serving else "are declared"
    raise CommandError(
        f"{len(names)} pipelines {what} ({', '.join(names)}); say which with --pipeline NAME",
        WRONG_USE,
    )


def _declared_names() -> list[str]:
    from pipelines.definitions import declared_pipelines

    return sorted(pipeline.name for pipeline in declared_pipelines())


def stored_bundles(settings: Settings) -> list[str]:
    """Digests of all bundles in the artifact store."""
    from resources.files import filesystem

    fs, path = filesystem(f"{settings.artifacts_uri}/bundles")
    if not fs.exists(path):
        return []
    return [place.rstrip("/").rsplit("/", 1)[-1] for place in fs.ls(path, detail=False)]
