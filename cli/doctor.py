"""`evergreen doctor`: is this machine, installation and home fit, does what is stored still verify,
and does what runs serve what the ledger says?
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import TYPE_CHECKING

from cli.output import DONE, UNFIT, UNREACHABLE, CommandError, console, say, table
from cli.platform import environment
from cli.platform.declarations import faults
from cli.platform.health import services
from cli.platform.installation import Check, disk, packages, python_version, trees
from cli.platform.landed import unannounced_line
from cli.stored import ledger_of
from resources.settings import Settings

if TYPE_CHECKING:
    from declare.pipeline import Pipeline

SHOWN = 3
"""Of several faults of one kind so many are told; the others are counted."""


def examine(settings: Settings, as_json: bool) -> int:
    """Show all checks.

    The exit code says whether all passed, and 4 where only services do not answer.
    """
    environment.apply(settings)
    checks = [python_version(), disk(settings.home), packages(), trees()]
    definitions = _definitions()
    running: list[Check] = []
    if (settings.home / "initialised.json").exists():
        checks += [Check("home", str(settings.home.absolute())), _key(settings), _ledger(settings)]
        checks += [_lake(settings), *_of_pipelines(settings)]
        running = _services(settings)
    else:
        place = settings.home.absolute()
        checks.append(Check("home", f"{place} is not initialised yet; `make run` does it"))
    checks.append(definitions)

    _show([*checks, *running], as_json)
    if any(check.problem for check in checks):
        return UNFIT
    return UNREACHABLE if any(check.problem for check in running) else DONE


def _show(checks: Sequence[Check], as_json: bool) -> None:
    if as_json:
        found = [{"name": c.name, "found": c.found, "problem": c.problem} for c in checks]
        say({"fit": not any(check.problem for check in checks), "checks": found}, True)
        return

    rows = [(each.name, "ok" if each.problem is None else "NOT OK", each.found) for each in checks]
    table(("check", "state", "found"), rows)
    # Below the table, which would break the lines of a long message.
    for check in checks:
        if check.problem is not None:
            console().print(f"{check.name}: {check.problem}", style="red", markup=False)


def _key(settings: Settings) -> Check:
    """Whether the platform's private key is private."""
    key = settings.keys_path / "platform.key"
    loose = key.exists() and key.stat().st_mode & 0o077
    problem = f"{key} can be read by others; run chmod 600 on it" if loose else None
    return Check("key", str(key), problem)


def _ledger(settings: Settings) -> Check:
    """Whether every entry of the ledger verifies."""
    from resources.ledger import LedgerError

    try:
        return Check("ledger", f"{ledger_of(settings).verify()} entries verified")
    except (LedgerError, PermissionError) as error:
        return Check("ledger", "does not verify", str(error))


def _lake(settings: Settings) -> Check:
    """Whether every table opens, and every file that its newest version reads is there."""
    from deltalake.exceptions import DeltaError

    from resources.lake import Lake

    lake = Lake(uri=settings.lake_uri)
    tables = lake.tables()
    wrong = []
    for name in tables:
        try:
            absent = lake.absent(name)
        except (DeltaError, OSError) as error:
            wrong.append(f"table {name} does not open: {error}")
            continue
        if absent:
            wrong.append(
                f"table {name} lacks {len(absent)} of its files, such as {absent[0]}; restore "
                "them, or materialize its days anew"
            )
    return Check("lake", f"{len(tables)} tables", _some(wrong))


def _of_pipelines(settings: Settings) -> list[Check]:
    """What landed for each pipeline, and whether the endpoint serves what the ledger says of it."""
    from pipelines.definitions import declared_pipelines

    declared = declared_pipelines()
    return [
        *(_landing(settings, pipeline) for pipeline in declared),
        *(_endpoint(settings, pipeline) for pipeline in declared),
    ]


def _landing(settings: Settings, pipeline: Pipeline) -> Check:
    """Whether what landed is what its checksums announce, as far as a listing shows it."""
    from resources.landing import Landing

    landing = Landing(uri=settings.landing_uri)
    count, wrong = 0, []
    for source in pipeline.sources:
        days = landing.deliveries(pipeline.name, source.name)
        found = list(chain.from_iterable(days.values()))
        found += landing.once(pipeline.name, source.name)
        count += len(found)
        wrong += [f"{source.name}/{each.name}: {each.fault}" for each in found if each.fault]

    unannounced = landing.unannounced(pipeline.name)
    if unannounced:
        wrong.append(unannounced_line(pipeline.name, unannounced))
    return Check(f"landing of {pipeline.name}", f"{count} files", _some(wrong))


def _endpoint(settings: Settings, pipeline: Pipeline) -> Check:
    """Whether the endpoint serves what the ledger says. A silent endpoint is told with services."""
    from assets.endpoint.reconcile import difference
    from pipelines.definitions import endpoint_target
    from resources.ledger import LedgerError

    name = f"endpoint of {pipeline.name}"
    endpoint = endpoint_target(settings)
    if endpoint.actual(pipeline.name) is None:
        return Check(name, "not compared with the ledger: it serves nothing, or does not answer")
    try:
        problem = difference(pipeline.name, ledger_of(settings), endpoint)
    except (LedgerError, PermissionError):
        return Check(name, "not compared with a ledger that does not verify")
    return Check(name, "compared with the ledger", problem)


def _services(settings: Settings) -> list[Check]:
    """Whether every service answers and the daemon beats. A stopped platform is no fault."""
    states = {name: (url, probe()) for name, (url, probe) in services(settings).items()}
    if all(problem is not None for _, problem in states.values()):
        return [Check("services", "none answers: the platform is stopped; `make run` starts it")]
    return [Check(name, url or "heartbeat", problem) for name, (url, problem) in states.items()]


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


def _some(wrong: Sequence[str]) -> str | None:
    """The first few of several faults, None where there is none."""
    if not wrong:
        return None
    more = len(wrong) - SHOWN
    return "; ".join(wrong[:SHOWN]) + (f"; and {more} more" if more > 0 else "")
