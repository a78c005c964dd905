"""The declared pipelines as a running platform sees them: what is wrong, and what was repaired.

A process imports a module once. So what changed is examined in a new process, and Dagster's code
server is asked to load its code location anew.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from cli.output import UNFIT, CommandError
from cli.platform.health import get
from resources.settings import Settings

RELOAD_SECONDS = 120.0
EXAMINE_SECONDS = 120.0

_RELOAD = """mutation { reloadRepositoryLocation(repositoryLocationName: "evergreen") { __typename
  ... on PythonError { message }
  ... on ReloadNotSupported { message }
  ... on RepositoryLocationNotFound { message }
  ... on WorkspaceLocationEntry { locationOrLoadError { __typename
    ... on PythonError { message } } } } }"""

Stamps = dict[str, tuple[int, int]]


def faults() -> list[str]:
    """What is wrong with the declarations, each fault whole: file, field, value, what is right.

    Raises CommandError when not even the module that gathers the pipelines loads.
    """
    try:
        from pipelines.definitions import load
    except Exception as error:
        # Any error is possible here: it is the code of whoever extends the platform.
        raise CommandError(
            f"pipelines/definitions.py does not load: {type(error).__name__}: {error}", UNFIT
        ) from error
    return [str(fault) for fault in load().faults]


def examine() -> list[str]:
    """The faults as a new process sees them, which knows no earlier version of a file."""
    ended = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "cli.platform.declarations"],
        capture_output=True,
        text=True,
        check=False,
        timeout=EXAMINE_SECONDS,
    )
    if ended.returncode != 0:
        return [ended.stderr.strip()]
    found: list[str] = json.loads(ended.stdout)
    return found


def reload(settings: Settings) -> str | None:
    """Have Dagster load the code location anew. Returns what went wrong, None where nothing did.

    Runs under way go on in the old process until they end.
    """
    url = f"http://{settings.host}:{settings.dagster_port}/graphql"
    try:
        answer = get(url, {"query": _RELOAD}, timeout=RELOAD_SECONDS)
        found = answer["data"]["reloadRepositoryLocation"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        return str(error)
    message = (found.get("locationOrLoadError") or found).get("message")
    return None if message is None else str(message)


class DeclarationWatch:
    """Takes up what is changed in pipelines/ while the platform runs, and tells what is wrong."""

    def __init__(
        self,
        folders: list[Path],
        reload: Callable[[], str | None],
        examine: Callable[[], list[str]] = examine,
    ) -> None:
        self._folders = folders
        self._reload = reload
        self._examine = examine
        self._seen = self._stamps()
        self._unloaded: str | None = None

    def lines(self) -> list[str]:
        """Nothing while no file changes. After a change: the faults, or that all is well."""
        now = self._stamps()
        if now == self._seen and self._unloaded is None:
            return []
        changed, self._seen = now != self._seen, now
        found = self._examine() if changed else []

        before, self._unloaded = self._unloaded, self._reload()
        if self._unloaded is not None:
            news = self._unloaded != before
            found += [f"pipelines/ is not taken up yet: {self._unloaded}"] if news else []
            return found
        return found or ["pipelines/ changed and was taken up"]

    def _stamps(self) -> Stamps:
        """Of each Python file: when it was changed last, and its size."""
        found: Stamps = {}
        for folder in self._folders:
            for file in folder.rglob("*.py"):
                try:
                    told = file.stat()
                except FileNotFoundError:
                    continue
                found[str(file)] = told.st_mtime_ns, told.st_size
        return found


def watch(settings: Settings) -> DeclarationWatch:
    """The watch over this installation's pipelines."""
    import pipelines

    return DeclarationWatch([Path(each) for each in pipelines.__path__], lambda: reload(settings))


def main() -> int:
    """Print the faults as JSON, for `examine`."""
    try:
        found = faults()
    except CommandError as error:
        sys.stderr.write(f"{error}\n")
        return error.code
    sys.stdout.write(json.dumps(found) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
