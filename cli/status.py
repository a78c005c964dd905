"""`evergreen status`: what runs, what is served, how far each pipeline is, and what waits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from assets.names import FEATURES, PREDICTIONS, RETRAINING_DECISION
from cli.output import (
    DONE,
    FAILED,
    REFUSED,
    UNREACHABLE,
    CommandError,
    console,
    say,
    table,
)
from cli.platform import environment
from cli.platform.declarations import faults
from cli.platform.health import services
from cli.platform.landed import unannounced_line
from cli.stored import ledger_of
from cli.unreleased import Waiting, waiting
from resources.settings import Settings

if TYPE_CHECKING:
    from sensors.event_log import Work

DAILY = (FEATURES, PREDICTIONS, RETRAINING_DECISION)
"""Assets by which `status` says how far a pipeline is."""


def show_status(settings: Settings, as_json: bool) -> int:
    """Services, runs, data days, released bundles, and what waits for a person.

    The exit code says whether every service answers, and whether every declaration loads.
    """
    environment.apply(settings)
    if not (settings.home / "initialised.json").exists():
        raise CommandError(
            f"{settings.home.absolute()} is not initialised; run `make run` or `evergreen init`, "
            "or set EVERGREEN_HOME",
            REFUSED,
        )

    states = {
        name: {"url": url, "problem": probe()} for name, (url, probe) in services(settings).items()
    }
    wrong = faults()
    if not as_json:
        # Before anything that a broken ledger ends: this much is known.
        _show_services(states)
        for fault in wrong:
            console().print(fault, style="red", markup=False)

    unreleased = _waiting(settings)
    document = {
        "home": str(settings.home.absolute()),
        "services": states,
        "faults": wrong,
        **_standing(settings, unreleased),
    }
    if as_json:
        say(document, True)
    else:
        _show_standing(document, unreleased)

    if any(state["problem"] for state in states.values()):
        return UNREACHABLE
    return FAILED if wrong else DONE


def _standing(settings: Settings, unreleased: Mapping[str, Waiting]) -> dict[str, Any]:
    """How far each pipeline is, and its runs. Raises LedgerError for a ledger that was altered."""
    from assets.traffic.entries import entries as read
    from assets.traffic.moves import released
    from pipelines.definitions import declared_pipelines
    from resources.landing import Landing
    from sensors import event_log, instance, requests

    entries = read(ledger_of(settings))
    declared = declared_pipelines()
    names = sorted({entry.pipeline for entry in entries} | {each.name for each in declared})
    with instance.opened(settings) as opened:
        working = [_working(work) for work in event_log.works(opened)]
        ended = event_log.finished_runs(opened, 5)
        spent = [each._asdict() for each in requests.spent(opened)]
        days = {
            name: {each: event_log.newest_partition(opened, (name, each)) for each in DAILY}
            for name in names
        }

    landing = Landing(uri=settings.landing_uri)
    unannounced = {each.name: landing.unannounced(each.name) for each in declared}
    pipelines = {
        name: {
            **days[name],
            "released": released([entry for entry in entries if entry.pipeline == name]),
            "waiting": unreleased[name]._asdict() if name in unreleased else None,
            "unannounced": unannounced.get(name, []),
        }
        for name in names
    }
    return {
        "pipelines": pipelines,
        "working": working,
        "ended": ended,
        "spent": spent,
        "ledger_entries": len(entries),
    }


def _working(work: Work) -> dict[str, str]:
    return {
        "run": work.run_id,
        "job": work.job,
        "status": work.status.lower(),
        "steps": f"{work.finished}/{work.steps}",
    }


def _show_standing(document: Mapping[str, Any], unreleased: Mapping[str, Waiting]) -> None:
    screen = console()
    pipelines = [
        (name, *(found[each] for each in DAILY), str(found["released"] or "none")[:12])
        for name, found in document["pipelines"].items()
    ]
    table(("pipeline", "features to", "predictions to", "decided to", "released bundle"), pipelines)
    for name, bundle in unreleased.items():
        screen.print(bundle.line(name), markup=False)
    for name, found in document["pipelines"].items():
        if found["unannounced"]:
            screen.print(unannounced_line(name, found["unannounced"]), markup=False)

    screen.print()
    runs = [(each["job"], each["status"], each["steps"]) for each in document["working"]]
    runs += [(each["job"], each["status"], each["ended"]) for each in document["ended"]]
    table(("run of", "status", "steps or end"), runs)
    for each in document["ended"]:
        if each["reason"]:
            screen.print(
                f"{each['job']}: run {each['run'][:8]} failed: {each['reason']}", markup=False
            )
    for each in document["spent"]:
        screen.print(spent_line(each["why"]), style="red", markup=False)


def spent_line(why: str) -> str:
    """What a person reads of a request that is not tried again by itself."""
    return f"STUCK: {why}. Mend the cause, then run `evergreen retry`."


def _show_services(states: Mapping[str, Mapping[str, str | None]]) -> None:
    rows = [(name, s["url"], s["problem"] or "answers") for name, s in states.items()]
    table(("service", "where", "state"), rows)
    console().print()


def _waiting(settings: Settings) -> dict[str, Waiting]:
    """Bundles of declared pipelines that are not released; what they need, declarations say."""
    from pipelines.definitions import declared_pipelines

    found = {pipeline.name: waiting(settings, pipeline) for pipeline in declared_pipelines()}
    return {name: bundle for name, bundle in found.items() if bundle}
