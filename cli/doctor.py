"""`evergreen doctor`: is this machine, installation and home fit, and does what is stored still verify?"""

from __future__ import annotations

from cli.output import DONE, UNFIT, say, table
from cli.platform import environment
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
        table(
            ("check", "state"),
            [(check.name, check.problem or f"ok: {check.found}") for check in checks],
        )
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
    """Whether the declared pipelines load."""
    try:
        from pipelines.definitions import defs

        keys = list(defs.resolve_all_asset_keys())
    except (ImportError, ValueError, TypeError) as error:
        return Check(
            "definitions",
            "do not load",
            f"pipelines do not load: {str(error).splitlines()[0] if str(error) else type(error).__name__}",
        )
    return Check("definitions", f"{len(keys)} assets")
