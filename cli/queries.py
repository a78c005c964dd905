"""Questions to a platform, running or not: status, predictions, and what served when."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from assets.names import FEATURES, PREDICTIONS, RETRAINING_DECISION
from bundle.api_keys import header
from cli.decide import ledger_of
from cli.output import REFUSED, UNREACHABLE, WRONG_USE, CommandError, console, say, table
from cli.platform import environment
from cli.platform.health import get, services
from cli.unreleased import Waiting, waiting
from resources.settings import Settings

if TYPE_CHECKING:
    from assets.traffic.entries import Confirmation


def show_status(settings: Settings, as_json: bool) -> None:
    """Services, runs, data days, released bundles, and bundles that wait for a decision."""
    environment.apply(settings)
    if not (settings.home / "initialised.json").exists():
        raise CommandError(
            f"{settings.home.absolute()} is not initialised; run `make run` or `evergreen init`, or set EVERGREEN_HOME",
            REFUSED,
        )
    from sensors import event_log, instance

    states = {
        name: {"url": url, "problem": probe()} for name, (url, probe) in services(settings).items()
    }
    ledger = ledger_of(settings)
    entries = ledger.entries()
    unreleased = _waiting(settings)
    names = sorted({entry.pipeline for entry in entries} | _pipelines(settings) | set(unreleased))
    with instance.opened(settings) as opened:
        working = [
            {
                "run": w.run_id,
                "job": w.job,
                "status": w.status.lower(),
                "steps": f"{w.finished}/{w.steps}",
            }
            for w in event_log.works(opened)
        ]
        ended = event_log.finished_runs(opened, 5)
        days = {
            name: {
                a: event_log.newest_partition(opened, (name, a))
                for a in (FEATURES, PREDICTIONS, RETRAINING_DECISION)
            }
            for name in names
        }
    pipelines = {
        name: {
            **days[name],
            "released": ledger.released(name),
            "waiting": unreleased[name]._asdict() if name in unreleased else None,
        }
        for name in names
    }
    document = {
        "home": str(settings.home.absolute()),
        "services": states,
        "pipelines": pipelines,
        "working": working,
        "ended": ended,
        "ledger_entries": len(entries),
    }
    if as_json:
        say(document, True)
        return
    table(
        ("service", "where", "state"),
        [(name, s["url"], s["problem"] or "answers") for name, s in states.items()],
    )
    console().print()
    table(
        ("pipeline", "features to", "predictions to", "decided to", "released bundle"),
        [
            (
                name,
                p[FEATURES],
                p[PREDICTIONS],
                p[RETRAINING_DECISION],
                str(p["released"] or "none")[:12],
            )
            for name, p in pipelines.items()
        ],
    )
    for name, bundle in unreleased.items():
        console().print(bundle.line(name), markup=False)
    console().print()
    rows = [(w["job"], w["status"], w["steps"]) for w in working] + [
        (e["job"], e["status"], e["ended"]) for e in ended
    ]
    table(("run of", "status", "steps or end"), rows)


def _pipelines(settings: Settings) -> set[str]:
    """Pipelines that have published something to the endpoint."""
    return {place.parent.name for place in settings.endpoint_path.glob("*/online.msgpack")}


def _waiting(settings: Settings) -> dict[str, Waiting]:
    """Bundles that are not released, of the declared pipelines: what they need only their declarations say."""
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
            f"the endpoint at {settings.endpoint_admin_url} does not answer ({error}); start it with `evergreen up`",
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
            f"no bundle of pipeline {pipeline!r} served at {moment.isoformat()}; its first confirmation is later, or it never served",
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
    line = f"{pipeline} served bundle {traffic.bundle} at {moment.isoformat()}, since {traffic.moment.isoformat()}{why}"
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
