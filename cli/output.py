"""What a command says: results on stdout, as text or as one JSON document; errors on stderr, one
line each; exit codes.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from rich.console import Console

# Exit codes, documented in --help and docs/operate.md.
DONE, FAILED, WRONG_USE, UNFIT, UNREACHABLE, REFUSED = 0, 1, 2, 3, 4, 5


class CommandError(Exception):
    """What a command says before it ends: one line, and the exit code that scripts read."""

    def __init__(self, message: str, code: int = FAILED) -> None:
        super().__init__(message)
        self.code = code


def console(*, stderr: bool = False) -> Console:
    from rich.console import Console

    return Console(stderr=stderr, highlight=False, soft_wrap=True)


def say(
    document: Mapping[str, object] | Sequence[object], as_json: bool, text: str | None = None
) -> None:
    """Print a result: the document itself as JSON, or its text for people."""
    if as_json or text is None:
        sys.stdout.write(json.dumps(document, default=str) + "\n")
    else:
        console().print(text, markup=False)


def table(
    columns: Sequence[str], rows: Sequence[Sequence[object]], title: str | None = None
) -> None:
    from rich.table import Table
    from rich.text import Text

    shown = Table(
        *columns, title=title, title_justify="left", box=None, pad_edge=False, header_style="bold"
    )
    for row in rows:
        # As plain text: rich would take a part in brackets for markup, and leave it out.
        shown.add_row(*(Text("" if cell is None else str(cell)) for cell in row))
    console().print(shown)


@contextmanager
def one_line_errors(as_json: bool) -> Iterator[None]:
    """Turn errors that say all there is to say into one line on stderr and an exit code.

    These are CommandError, what an altered ledger raises, and files that may not be read (a private
    key that others can read, say). With --json the line is one JSON object.
    """
    try:
        yield
    except CommandError as error:
        _fail(str(error), error.code, as_json, error)
    except PermissionError as error:
        _fail(str(error), UNFIT, as_json, error)
    except Exception as error:
        from resources.ledger import LedgerError

        if not isinstance(error, LedgerError):
            raise
        _fail(str(error), REFUSED, as_json, error)


def _fail(message: str, code: int, as_json: bool, error: Exception) -> NoReturn:
    sys.stderr.write(
        (json.dumps({"error": message, "code": code}) if as_json else f"evergreen: {message}")
        + "\n"
    )
    raise SystemExit(code) from error
