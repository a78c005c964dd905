"""Commands that run the platform, or replay a recorded year through it."""

from __future__ import annotations

from typing import Annotated

import typer

from cli.commands.options import (
    Corrected,
    FirstDay,
    Json,
    LastDay,
    Late,
    Seed,
    Speed,
    day,
)
from cli.output import one_line_errors, say

RECORDED = "flight_delays"
"""The shipped pipeline, whose recorded year `up` and `replay` land."""


def init(as_json: Json = False) -> None:
    """Make the platform's home: folders, databases and keys. Does nothing when that is done."""
    with one_line_errors(as_json):
        from cli.platform import environment
        from cli.platform.home import initialise
        from resources.settings import settings

        environment.apply(settings())
        made = initialise(settings())
        home = str(settings().home.absolute())
        say(
            {"home": home, "initialised": made},
            as_json,
            f"{home} {'initialised' if made else 'was initialised before'}",
        )


def up(
    feed: Annotated[
        bool,
        typer.Option(help=f"Replay the recorded year of {RECORDED}; without it, land your own."),
    ] = True,
    start: FirstDay = None,
    end: LastDay = None,
    speed: Speed = 0.0,
    late: Late = 0.05,
    corrected: Corrected = 0.01,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Run the whole platform in the foreground until Ctrl-C. The next start goes on from there."""
    with one_line_errors(as_json):
        from cli.platform.up import up as run
        from resources.settings import settings

        options = ["--speed", str(speed), "--late", str(late)]
        options += ["--corrected", str(corrected), "--seed", str(seed)]
        for name, found in (("--from", day(start, "--from")), ("--to", day(end, "--to"))):
            options += [name, found.isoformat()] if found else []
        run(settings(), options if feed else None)


def replay(
    pipeline: Annotated[
        str, typer.Option("--pipeline", "-p", help="Pipeline with a recorded year.")
    ] = RECORDED,
    start: FirstDay = None,
    end: LastDay = None,
    speed: Speed = 0.0,
    late: Late = 0.05,
    corrected: Corrected = 0.01,
    seed: Seed = 0,
    follow: Annotated[
        bool,
        typer.Option(
            "--follow", help="Wait for the platform each day, and send the day's real requests."
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Land a recorded year as its systems would, day by day. Stopped, it goes on from there."""
    with one_line_errors(as_json):
        from cli.demo.replay import Options, replay as run
        from cli.platform import environment
        from resources.settings import settings

        environment.apply(settings())
        days = day(start, "--from"), day(end, "--to")
        options = Options(pipeline, *days, speed, late, corrected, seed, follow)

        def tell(line: str) -> None:
            if not as_json:
                print(line, flush=True)  # noqa: T201  its log

        position = run(settings(), options, tell)
        document = {
            "landed": position.landed,
            "sent": position.sent,
            "requests": position.requests,
            "failed": position.failed,
        }
        say(document, as_json, f"replayed to {position.landed}")


def demo(
    start: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="YYYY-MM-DD",
            help="First day to replay one by one; earlier ones land at once. Default: after three "
            "months of history.",
            show_default=False,
        ),
    ] = None,
    end: Annotated[
        str, typer.Option("--to", metavar="YYYY-MM-DD", help="Last day to replay.")
    ] = "2013-07-10",
    as_json: Json = False,
) -> None:
    """Half a year headless: backfill, train, release, serve, then day by day. Ends with one line
    of JSON."""
    with one_line_errors(as_json):
        from cli.demo.command import demo as run
        from resources.settings import settings

        days = day(start, "--from"), day(end, "--to")
        raise SystemExit(run(settings(), *days, quiet=as_json))
