"""Commands that look, and change nothing but what is stuck or wasted."""

from __future__ import annotations

from typing import Annotated

import typer

from cli.commands.options import Json, PipelineName, moment
from cli.output import one_line_errors


def status(as_json: Json = False) -> None:
    """What runs, what is served, how far the data is processed, and what waits or is stuck."""
    with one_line_errors(as_json):
        from cli.status import show_status
        from resources.settings import settings

        raise SystemExit(show_status(settings(), as_json))


def doctor(as_json: Json = False) -> None:
    """Check machine, installation, services, endpoint, stored data, ledger and declarations."""
    with one_line_errors(as_json):
        from cli.doctor import examine
        from resources.settings import settings

        raise SystemExit(examine(settings(), as_json))


def predict(
    rows: Annotated[
        str, typer.Argument(help="One request as JSON, a list of them, or @FILE with either.")
    ],
    pipeline: PipelineName = None,
    as_json: Json = False,
) -> None:
    """Ask the running endpoint for predictions."""
    with one_line_errors(as_json):
        from cli.queries import show_prediction
        from cli.stored import default_pipeline
        from resources.settings import settings

        name = pipeline or default_pipeline(settings())
        show_prediction(settings(), name, rows, as_json)


def served(
    at: Annotated[
        str | None,
        typer.Option(
            "--at",
            metavar="ISO-8601",
            help="A moment with its offset; default now.",
            show_default=False,
        ),
    ] = None,
    pipeline: PipelineName = None,
    as_json: Json = False,
) -> None:
    """Which bundle served at a moment, and why: from the signed ledger."""
    with one_line_errors(as_json):
        from cli.queries import show_served
        from cli.stored import default_pipeline
        from resources.settings import settings

        when = moment(at)
        show_served(settings(), pipeline or default_pipeline(settings()), when, as_json)


def retry(
    pipeline: Annotated[
        str | None,
        typer.Option("--pipeline", "-p", help="Only this one; default: all.", show_default=False),
    ] = None,
    as_json: Json = False,
) -> None:
    """Try again what is stuck: requests whose run failed, once their cause is mended."""
    with one_line_errors(as_json):
        from cli.retry import retry as run
        from resources.settings import settings

        run(settings(), pipeline, as_json)
