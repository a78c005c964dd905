"""Questions to a platform, running or not: status, predictions, and what served when."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from assets.names import FEATURES, PREDICTIONS, RETRAINING_DECISION
from bundle.api_keys import header
from cli.output import REFUSED, UNREACHABLE, WRONG_USE, CommandError, console, say, table
from cli.platform import environment
from cli.platform.health import get, services
from cli.stored import ledger_of
from cli.unreleased import Waiting, waiting
from resources.settings import Settings

if TYPE_CHECKING:
    from assets.traffic.entries import Confirmation
    from sensors.event_log import Work

DAILY = (FEATURES, PREDICTIONS, RETRAINING_DECISION)
"""Assets by which `status` says how far a pipeline is."""


def show_status(settings: Settings, as_json: bool) -> None:
    """Services, runs, data days, released bundles, and bundles that wait for a decision."""
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
    if not as_json:
        # Before anything that a broken ledger ends: whether the endpoint answers is known.
        _show_services(states)

    unreleased = _waiting(settings)
    document = {
        "home": str(settings.home.absolute()),
        "services": states,
        **_standing(settings, unreleased),
    }
    if as_json:
        say(document, True)
    else:
        _show_standing(document, unreleased)


def _standing(settings: Settings, unreleased: Mapping[str, Waiting]) -> dict[str, Any]:
    """How far each pipeline is, and its runs. Raises LedgerError for a ledger that was altered."""
    from assets.traffic.entries import entries as read
    from assets.traffic.moves import released
    from sensors import event_log, instance

    entries = read(ledger_of(settings))
    names = sorted({entry.pipeline for entry in entries} | _pipelines(settings) | set(unreleased))
    with instance.opened(settings) as opened:
        working = [_working(work) for work in event_log.works(opened)]
        ended = event_log.finished_runs(opened, 5)
        days = {
            name: {each: event_log.newest_partition(opened, (name, each)) for each in DAILY}
            for name in names
        }

    pipelines = {
        name: {
            **days[name],
            "released": released([entry for entry in entries if entry.pipeline == name]),
            "waiting": unreleased[name]._asdict() if name in unreleased else None,
        }
        for name in names
    }
    return {
        "pipelines": pipelines,
        "working": working,
        "ended": ended,
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
    pipelines = [
        (name, *(found[each] for each in DAILY), str(found["released"] or "none")[:12])
        for name, found in document["pipelines"].items()
    ]
    table(("pipeline", "features to", "predictions to", "decided to", "released bundle"), pipelines)
    for name, bundle in unreleased.items():
        console().print(bundle.line(name), markup=False)

    console().print()
    runs = [(each["job"], each["status"], each["steps"]) for each in document["working"]]
    runs += [(each["job"], each["status"], each["ended"]) for each in document["ended"]]
    table(("run of", "status", "steps or end"), runs)


def _show_services(states: Mapping[str, Mapping[str, str | None]]) -> None:
    rows = [(name, s["url"], s["problem"] or "answers") for name, s in states.items()]
    table(("service", "where", "state"), rows)
    console().print()


def _pipelines(settings: Settings) -> set[str]:
    """Pipelines that have published something to the endpoint."""
    return {place.parent.name for place in settings.endpoint_path.glob("*/online.msgpack")}


def _waiting(settings: Settings) -> dict[str, Waiting]:
    """Bundles of declared pipelines that are not released; what they need, declarations say."""
    from pipelines.definitions import declared_pipelines

    found = {pipeline.name: waiting(settings, pipeline) for pipeline in declared_pipelines()}
    return {name: bundle for name, bundle in found.items() if bundle}


def show_prediction(settings: Settings, pipeline: str, rows: str, as_json: bool) -> None:
    """Ask the endpoint. Raises CommandError when it does not answer or refuses the request."""
    text = Path(rows[1:]).read_text() if rows.startswith("@") else rows
    try:
        body = json.loads(text)
    except json.JSONDecodeError as error:
        raise CommandError(f"the request is no JSON: {error}", WRONG_USE) from None
    try:
        answer = get(
            f"{settings.endpoint_admin_url}/predict/{pipeline}",
            body,
            headers=header(settings.endpoint_key_path),
        )
    except ValueError as error:
        raise CommandError(str(error), REFUSED) from None
    except OSError as error:
        raise CommandError(
            f"the endpoint at {settings.endpoint_admin_url} does not answer ({error}); start it "
            "with `evergreen up`",
            UNREACHABLE,
        ) from None
    say(answer, as_json, json.dumps(answer, indent=1))


def show_served(settings: Settings, pipeline: str, moment: datetime, as_json: bool) -> None:
    """The traffic entry that held at a moment, and the release behind it."""
    from assets.traffic.entries import entries as read, payload
    from assets.traffic.moves import confirmed_at

    ledger = ledger_of(settings)
    entries = read(ledger, pipeline)
    traffic = confirmed_at(entries, moment)
    if traffic is None:
        raise CommandError(
            f"no bundle of pipeline {pipeline!r} served at {moment.isoformat()}; its first "
            "confirmation is later, or it never served",
            REFUSED,
        )
    cause = next((entry for entry in entries if entry.serial == traffic.decision), None)
    divided = arms(traffic)
    document = {
        "pipeline": pipeline,
        "at": moment.isoformat(),
        "bundle": traffic.bundle,
        "arms": divided,
        "since": traffic.moment.isoformat(),
        "entry": traffic.serial,
        "traffic": payload(traffic),
        "because": None
        if cause is None
        else {
            "entry": cause.serial,
            "kind": cause.kind,
            "day": cause.day.isoformat(),
            "by": cause.actor,
            **payload(cause),
        },
        "ledger": {"entries": ledger.verify(), "verified": True},
    }
    why = (
        ""
        if cause is None
        else f", {cause.kind} of {cause.day} by {cause.actor} (entry {cause.serial})"
    )
    line = (
        f"{pipeline} served bundle {traffic.bundle} at {moment.isoformat()}, "
        f"since {traffic.moment.isoformat()}{why}"
    )
    if len(divided) > 1:
        line += "".join(
            f"\n  {arm['share']:.0%} {arm['arm']}: bundle {arm['bundle']}" for arm in divided
        )
    say(document, as_json, line)


def arms(traffic: Confirmation) -> list[dict[str, Any]]:
    """Who answered, and who was scored beside the answers (share 0), as a confirmation says."""
    from bundle.desired import SHADOW, arm_name

    answering = [
        {"arm": arm_name(place), "bundle": bundle, "share": share}
        for place, (bundle, share) in enumerate(traffic.arms)
    ]
    scored = [{"arm": SHADOW, "bundle": bundle, "share": 0.0} for bundle in traffic.shadows]
    return answering + scored
