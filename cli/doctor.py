"""`evergreen doctor`: is this machine, installation and home fit, and does what is stored still verify?"""

from __future__ import annotations

from cli.output import DONE, UNFIT, CommandError, console, say, table
from cli.platform import environment
from cli.platform.declarations import faults
from cli.platform.installation import Check, disk, packages, python_version, trees
from resources.settings import Settings


def examine(settings: Settings, as_json: bool) -> int:
    """Show all checks; the exit code says whether all passed."""
    environment.apply(settings)
    checks = [
        python_version(),
        disk(settings.home),
        packages(),
        trees(),
        *_home(settings),
        _definitions(),
    ]
    fit = not any(check.problem for check in checks)
    if as_json:
        say(
            {
                "fit": fit,
                "checks": [
                    {"name": c.name, "found": c.found, "problem": c.problem} for c in checks
                ],
            },
            True,
        )
    else:
        rows = [
            (each.name, "ok" if each.problem is None else "NOT OK", each.found) for each in checks
        ]
        table(("check", "state", "found"), rows)
        # Below the table, which would break the lines of a long message.
        for check in checks:
            if check.problem is not None:
                console().print(f"{check.name}: {check.problem}", style="red", markup=False)
    return DONE if fit else UNFIT


def _home(settings: Settings) -> list[Check]:
    """Checks of what is stored; nothing to check before the first start."""
    if not (settings.home / "initialised.json").exists():
        return [
            Check("home", f"{settings.home.absolute()} is not initialised yet; `make run` does it")
        ]
    from cli.stored import ledger_of
    from resources.ledger import LedgerError

    found = [Check("home", str(settings.home.absolute()))]
    key = settings.keys_path / "platform.key"
    loose = key.exists() and key.stat().st_mode & 0o077
    found.append(
        Check(
            "key", str(key), f"{key} can be read by others; run chmod 600 on it" if loose else None
        )
    )
    try:
        found.append(Check("ledger", f"{ledger_of(settings).verify()} entries verified"))
    except LedgerError as error:
        found.append(Check("ledger", "does not verify", str(error)))
    return found


def _definitions() -> Check:
    """Whether every declared pipeline loads; what is wrong is told whole."""
    try:
        found = faults()
    except CommandError as error:
        return Check("definitions", "do not load", str(error))
    if found:
        return Check("definitions", f"{len(found)} do not load", "\n".join(found))

    from pipelines.definitions import defs

    return Check("definitions", f"{len(list(defs.resolve_all_asset_keys()))} assets")
