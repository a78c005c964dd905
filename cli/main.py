"""The `evergreen` command. Commands load what they use when they run, so that --help answers at once."""

from __future__ import annotations

import sys
from datetime import date, datetime
from typing import Annotated

import typer

from cli.output import WRONG_USE, CommandError, one_line_errors, say

EXIT_CODES = """Exit codes: 0 done · 1 failed · 2 wrong use · 3 the machine or installation is unfit (ports, Python, disk) ·
4 a service does not answer · 5 refused (a gate, an approval or the ledger says no). Settings are EVERGREEN_* variables."""

app = typer.Typer(
    help="Evergreen: the machine-learning lifecycle as one living asset graph.",
    epilog=EXIT_CODES,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Json = Annotated[
    bool, typer.Option("--json", help="One JSON document on stdout; errors as JSON on stderr.")
]
PipelineName = Annotated[str, typer.Option("--pipeline", "-p", help="Name of the pipeline.")]
Actor = Annotated[
    str, typer.Option("--as", help="Who decides: a name or address, kept in the ledger.")
]
Reason = Annotated[str, typer.Option("--reason", help="Why, for whoever reads the ledger later.")]

DEFAULT = "flight_delays"


@app.command()
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


@app.command()
def up(
    feed: Annotated[
        bool,
        typer.Option(
            help="Replay the default pipeline's recorded year; a real deployment lands its own files."
        ),
    ] = True,
    start: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="YYYY-MM-DD",
            help="First day to replay one by one.",
            show_default=False,
        ),
    ] = None,
    end: Annotated[
        str | None,
        typer.Option("--to", metavar="YYYY-MM-DD", help="Last day to replay.", show_default=False),
    ] = None,
    speed: Annotated[
        float, typer.Option(help="Days a minute at most; 0 is as fast as the platform follows.")
    ] = 0.0,
    late: Annotated[float, typer.Option(help="Share of outcomes that arrive days late.")] = 0.05,
    corrected: Annotated[
        float, typer.Option(help="Share of outcomes that are corrected later.")
    ] = 0.01,
    seed: Annotated[int, typer.Option(help="Seed of lateness and corrections.")] = 0,
    as_json: Json = False,
) -> None:
    """Run the whole platform in the foreground until Ctrl-C; started again it goes on where it stood."""
    with one_line_errors(as_json):
        from cli.platform.up import up as run
        from resources.settings import settings

        options = [
            "--speed",
            str(speed),
            "--late",
            str(late),
            "--corrected",
            str(corrected),
            "--seed",
            str(seed),
        ]
        for name, day in (("--from", _day(start, "--from")), ("--to", _day(end, "--to"))):
            options += [name, day.isoformat()] if day else []
        run(settings(), options if feed else None)


@app.command()
def replay(
    pipeline: PipelineName = DEFAULT,
    start: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="YYYY-MM-DD",
            help="First day to land one by one; earlier ones land at once.",
            show_default=False,
        ),
    ] = None,
    end: Annotated[
        str | None,
        typer.Option("--to", metavar="YYYY-MM-DD", help="Last day to land.", show_default=False),
    ] = None,
    speed: Annotated[
        float, typer.Option(help="Days a minute at most; 0 is as fast as possible.")
    ] = 0.0,
    late: Annotated[float, typer.Option(help="Share of outcomes that arrive days late.")] = 0.05,
    corrected: Annotated[
        float, typer.Option(help="Share of outcomes that are corrected later.")
    ] = 0.01,
    seed: Annotated[int, typer.Option(help="Seed of lateness and corrections.")] = 0,
    follow: Annotated[
        bool,
        typer.Option(
            "--follow", help="Wait for the platform each day, and send the day's real requests."
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Land a pipeline's recorded year as its systems would, day by day. Stopped, it goes on where it stood."""
    with one_line_errors(as_json):
        from cli.demo.replay import Options, replay as run
        from cli.platform import environment
        from resources.settings import settings

        environment.apply(settings())
        options = Options(
            pipeline, _day(start, "--from"), _day(end, "--to"), speed, late, corrected, seed, follow
        )

        def tell(line: str) -> None:
            if not as_json:
                print(line, flush=True)  # noqa: T201  its log

        position = run(settings(), options, tell)
        say(
            {
                "landed": position.landed,
                "sent": position.sent,
                "requests": position.requests,
                "failed": position.failed,
            },
            as_json,
            f"replayed to {position.landed}",
        )


@app.command()
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

        days = _day(start, "--from"), _day(end, "--to")
        raise SystemExit(run(settings(), *days, quiet=as_json))


@app.command()
def status(as_json: Json = False) -> None:
    """What runs, what is served, how far the data is processed, and what is waiting."""
    with one_line_errors(as_json):
        from cli.queries import show_status
        from resources.settings import settings

        show_status(settings(), as_json)


@app.command()
def predict(
    rows: Annotated[
        str, typer.Argument(help="One request as JSON, a list of them, or @FILE with either.")
    ],
    pipeline: PipelineName = DEFAULT,
    as_json: Json = False,
) -> None:
    """Ask the running endpoint for predictions."""
    with one_line_errors(as_json):
        from cli.queries import show_prediction
        from resources.settings import settings

        show_prediction(settings(), pipeline, rows, as_json)


@app.command()
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
    pipeline: PipelineName = DEFAULT,
    as_json: Json = False,
) -> None:
    """Which bundle served at a moment, and why: from the signed ledger."""
    with one_line_errors(as_json):
        from cli.queries import show_served
        from resources.settings import settings

        show_served(settings(), pipeline, _moment(at), as_json)


@app.command()
def doctor(as_json: Json = False) -> None:
    """Check the machine, the installation, the home, the ledger and the definitions."""
    with one_line_errors(as_json):
        from cli.doctor import examine
        from resources.settings import settings

        raise SystemExit(examine(settings(), as_json))


@app.command()
def approve(
    bundle: Annotated[str, typer.Argument(help="Digest of the bundle, or its beginning.")],
    actor: Actor,
    reason: Reason,
    pipeline: PipelineName = DEFAULT,
    as_json: Json = False,
) -> None:
    """Approve a bundle on the evidence that its manifest names."""
    with one_line_errors(as_json):
        from cli.decide import approve as run
        from resources.settings import settings

        run(settings(), pipeline, bundle, actor, reason, as_json)


@app.command()
def reject(
    bundle: Annotated[str, typer.Argument(help="Digest of the bundle, or its beginning.")],
    actor: Actor,
    reason: Reason,
    pipeline: PipelineName = DEFAULT,
    as_json: Json = False,
) -> None:
    """Reject a bundle: approvals so far are void, and it is not released."""
    with one_line_errors(as_json):
        from cli.decide import reject as run
        from resources.settings import settings

        run(settings(), pipeline, bundle, actor, reason, as_json)


@app.command()
def rollback(
    actor: Actor,
    reason: Reason,
    to: Annotated[
        str | None,
        typer.Option(
            "--to",
            help="Digest of a bundle that once served, or its beginning; default: the one before.",
            show_default=False,
        ),
    ] = None,
    pipeline: PipelineName = DEFAULT,
    as_json: Json = False,
) -> None:
    """Go back to what the ledger says served before. The endpoint follows within half a minute."""
    with one_line_errors(as_json):
        from cli.decide import rollback as run
        from resources.settings import settings

        run(settings(), pipeline, to, actor, reason, as_json)


@app.command()
def experiment(
    what: Annotated[
        str,
        typer.Argument(
            metavar="start|stop",
            help="Give an experiment its traffic, or give that back to the champion.",
        ),
    ],
    name: Annotated[str, typer.Argument(help="Name of a declared experiment.")],
    actor: Actor,
    reason: Reason,
    pipeline: PipelineName = DEFAULT,
    as_json: Json = False,
) -> None:
    """Start or stop a declared experiment. The endpoint follows within seconds."""
    with one_line_errors(as_json):
        from cli.decide import experiment as run
        from resources.settings import settings

        run(settings(), pipeline, what, name, actor, reason, as_json)


@app.command()
def retrain(
    actor: Actor, reason: Reason, pipeline: PipelineName = DEFAULT, as_json: Json = False
) -> None:
    """Ask for a retrain; the next retraining decision takes it up."""
    with one_line_errors(as_json):
        from cli.decide import retrain as run
        from resources.settings import settings

        run(settings(), pipeline, actor, reason, as_json)


keys = typer.Typer(
    help="Keys of those who ask the endpoint: once there is one, every request needs one.",
    no_args_is_help=True,
)
app.add_typer(keys, name="keys")

KeyId = Annotated[
    str, typer.Argument(help="Id of the key: the twelve characters in the middle of its text.")
]


@keys.command("add")
def keys_add(
    owner: Annotated[str, typer.Option(help="Whose it is: whom to ask when it is misused.")],
    scope: Annotated[
        list[str] | None,
        typer.Option(
            help="predict, explain, metadata or metrics; may be given several times; default: predict and metadata.",
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


def _day(text: str | None, option: str) -> date | None:
    if text is None:
        return None
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise CommandError(
            f"{option} {text!r} is no day; write it as 2013-04-01", WRONG_USE
        ) from None


def _moment(text: str | None) -> datetime:
    from datetime import UTC

    if text is None:
        return datetime.now(UTC)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise CommandError(
            f"--at {text!r} is no moment; write it as 2013-04-01T12:00:00+00:00", WRONG_USE
        ) from None
    if moment.tzinfo is None:
        raise CommandError(
            f"--at {text!r} has no offset from UTC; write it as {text}+00:00", WRONG_USE
        )
    return moment


def main() -> int:
    """Entry point: runs a command and returns its exit code."""
    try:
        app(standalone_mode=True)
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
