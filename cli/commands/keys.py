"""Commands over the keys of those who ask the endpoint."""

from __future__ import annotations

from typing import Annotated

import typer

from cli.commands.options import Json
from cli.output import WRONG_USE, CommandError, one_line_errors

keys = typer.Typer(
    help="Keys of those who ask the endpoint: once there is one, every request needs one.",
    no_args_is_help=True,
)
KeyId = Annotated[
    str, typer.Argument(help="Id of the key: the twelve characters in the middle of its text.")
]


@keys.command("add")
def keys_add(
    owner: Annotated[str, typer.Option(help="Whose it is: whom to ask when it is misused.")],
    scope: Annotated[
        list[str] | None,
        typer.Option(
            help="predict, explain, metadata or metrics; may be given several times; default: "
            "predict and metadata.",
            show_default=False,
        ),
    ] = None,
    pipeline: Annotated[
        list[str] | None,
        typer.Option(
            "--pipeline",
            "-p",
            help="Only this one; may be given several times; default: all.",
            show_default=False,
        ),
    ] = None,
    days: Annotated[
        float | None,
        typer.Option(help="Days until it expires; default: never.", show_default=False),
    ] = None,
    per_second: Annotated[
        float | None, typer.Option(help="Most requests a second, on average.", show_default=False)
    ] = None,
    burst: Annotated[
        int | None,
        typer.Option(
            help="Most requests at once; default: one second's worth.", show_default=False
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Make a key and show it, once."""
    with one_line_errors(as_json):
        from cli.keys import add
        from resources.settings import settings

        add(
            settings(),
            owner,
            scope or ["predict", "metadata"],
            pipeline or [],
            days,
            per_second,
            burst,
            as_json,
        )


@keys.command("list")
def keys_list(as_json: Json = False) -> None:
    """All keys: whose, for what, until when."""
    with one_line_errors(as_json):
        from cli.keys import show
        from resources.settings import settings

        show(settings(), as_json)


@keys.command("revoke")
def keys_revoke(key: KeyId, as_json: Json = False) -> None:
    """Stop a key from working, within a second."""
    with one_line_errors(as_json):
        from cli.keys import revoke
        from resources.settings import settings

        revoke(settings(), key, as_json)


@keys.command("rotate")
def keys_rotate(
    key: KeyId,
    overlap: Annotated[
        float, typer.Option(help="Hours for which the old key goes on working.")
    ] = 24.0,
    as_json: Json = False,
) -> None:
    """Replace a key by a new one with the same rights; both work during the overlap."""
    with one_line_errors(as_json):
        from datetime import timedelta

        from cli.keys import rotate
        from resources.settings import settings

        if overlap < 0:
            raise CommandError(
                f"--overlap {overlap:g} is negative; give 0 to end the old key now", WRONG_USE
            )
        rotate(settings(), key, timedelta(hours=overlap), as_json)
