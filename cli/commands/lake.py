"""Commands over the stored tables."""

from __future__ import annotations

from typing import Annotated

import typer

from cli.commands.options import Json
from cli.output import one_line_errors

lake = typer.Typer(help="Care of the stored tables.", no_args_is_help=True)


# With a single command, typer would leave out its name.
@lake.callback()
def _lake() -> None:
    """Care of the stored tables."""


@lake.command("tidy")
def lake_tidy(
    keep_hours: Annotated[
        int,
        typer.Option(
            help="Keep files that a version of the last so many hours reads. Fewer than 168 only "
            "while nothing else uses the lake."
        ),
    ] = 168,
    as_json: Json = False,
) -> None:
    """Merge small files of every table, and delete files that nobody reads."""
    with one_line_errors(as_json):
        from cli.lake import tidy
        from resources.settings import settings

        tidy(settings(), keep_hours, as_json)
