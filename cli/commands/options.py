"""Options that several commands share, and how their texts are read."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Annotated

import typer

from cli.output import WRONG_USE, CommandError

Json = Annotated[
    bool, typer.Option("--json", help="One JSON document on stdout; errors as JSON on stderr.")
]
PipelineName = Annotated[
    str | None,
    typer.Option(
        "--pipeline",
        "-p",
        help="Name of the pipeline; default: the only one that serves, or the only one there is.",
        show_default=False,
    ),
]
Actor = Annotated[
    str, typer.Option("--as", help="Who decides: a name or address, kept in the ledger.")
]
Reason = Annotated[str, typer.Option("--reason", help="Why, for whoever reads the ledger later.")]
Bundle = Annotated[str, typer.Argument(help="Digest of the bundle, or its beginning.")]

FirstDay = Annotated[
    str | None,
    typer.Option(
        "--from",
        metavar="YYYY-MM-DD",
        help="First day to land one by one; earlier ones land at once.",
        show_default=False,
    ),
]
LastDay = Annotated[
    str | None,
    typer.Option("--to", metavar="YYYY-MM-DD", help="Last day to land.", show_default=False),
]
Speed = Annotated[
    float, typer.Option(help="Days a minute at most; 0 is as fast as the platform follows.")
]
Late = Annotated[float, typer.Option(help="Share of outcomes that arrive days late.")]
Corrected = Annotated[float, typer.Option(help="Share of outcomes that are corrected later.")]
Seed = Annotated[int, typer.Option(help="Seed of lateness and corrections.")]


def day(text: str | None, option: str) -> date | None:
    """A day as an option says it. Raises CommandError for what is none."""
    if text is None:
        return None
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise CommandError(
            f"{option} {text!r} is no day; write it as 2013-04-01", WRONG_USE
        ) from None


def moment(text: str | None) -> datetime:
    """A moment as `--at` says it; now, where it says nothing. Raises CommandError."""
    if text is None:
        return datetime.now(UTC)
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise CommandError(
            f"--at {text!r} is no moment; write it as 2013-04-01T12:00:00+00:00", WRONG_USE
        ) from None
    if found.tzinfo is None:
        raise CommandError(
            f"--at {text!r} has no offset from UTC; write it as {found.isoformat()}+00:00",
            WRONG_USE,
        )
    return found
