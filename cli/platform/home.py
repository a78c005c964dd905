"""`evergreen init`: the platform's home, made once, however many processes ask at once."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path

from resources.settings import Settings

FOLDERS = (
    "dagster",
    "landing",
    "lake",
    "mlflow",
    "artifacts",
    "ledger",
    "endpoint",
    "keys",
    "reports",
    "run",
)


@contextmanager
def locked(home: Path, name: str = "init") -> Iterator[None]:
    """Hold a lock file of the home; others wait."""
    (home / "run").mkdir(parents=True, exist_ok=True)
    with open(home / "run" / f"{name}.lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def initialise(settings: Settings) -> bool:
    """Make folders, databases and keys under `settings.home`.

    Does nothing when that was done for the installed versions. Returns whether anything was made.
    SQLite tables are created here, under a lock, because two processes that open a fresh database
    at once race for them.
    """
    home = settings.home.absolute()
    stamp = home / "initialised.json"
    wanted = {name: metadata.version(name) for name in ("dagster", "mlflow")}
    with locked(home):
        if _read(stamp) == wanted:
            return False
        for folder in FOLDERS:
            (home / folder).mkdir(parents=True, exist_ok=True)
        (home / "keys").chmod(0o700)
        from resources import files
        from resources.keys import Keys
        from resources.tracking import Tracking
        from sensors import instance

        instance.create(settings)
        Tracking(uri=settings.mlflow_uri, url=settings.mlflow_url).initialise()
        Keys(path=str(settings.keys_path)).public_path  # noqa: B018  the pair is made on first use
        files.write_atomically(str(stamp), json.dumps(wanted).encode())
    return True


def _read(stamp: Path) -> object:
    try:
        return json.loads(stamp.read_text())
    except FileNotFoundError:
        return None
