"""The `evergreen` command: its commands, their order, and its exit code."""

from __future__ import annotations

import logging
import sys

import typer

from cli.commands import decide, keys, lake, look, run

EXIT_CODES = """Exit codes: 0 done · 1 failed · 2 wrong use ·
3 the machine or installation is unfit (ports, Python, disk) · 4 a service does not answer ·
5 refused (a gate, an approval or the ledger says no). Settings are EVERGREEN_* variables."""

app = typer.Typer(
    help="Evergreen: the machine-learning lifecycle as one living asset graph.",
    epilog=EXIT_CODES,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

# The code location logs faulty declarations. Commands print them themselves, once.
logging.getLogger("pipelines.definitions").addHandler(logging.NullHandler())

# In the order in which --help lists them.
COMMANDS = (
    run.init,
    run.up,
    run.replay,
    run.demo,
    look.status,
    look.predict,
    look.served,
    look.doctor,
    look.retry,
    decide.approve,
    decide.reject,
    decide.rollback,
    decide.experiment,
    decide.retrain,
)
for command in COMMANDS:
    app.command()(command)
app.add_typer(keys.keys, name="keys")
app.add_typer(lake.lake, name="lake")


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
