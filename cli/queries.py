"""Questions about serving: predictions of the running endpoint, and what served when."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bundle.api_keys import header
from cli.output import REFUSED, UNREACHABLE, WRONG_USE, CommandError, say
from cli.platform.health import get
from cli.stored import ledger_of
from resources.settings import Settings

if TYPE_CHECKING:
    from assets.traffic.entries import Confirmation


def show_prediction(settings: Settings, pipeline: str, rows: str, as_json: bool) -> None:
    """Ask the endpoint. Raises CommandError when it does not answer or refuses the request."""
    try:
        body = json.loads(_request(rows))
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


def _request(rows: str) -> str:
    """The request itself, or what the file after an @ holds."""
    if not rows.startswith("@"):
        return rows
    try:
        return Path(rows[1:]).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise CommandError(
            f"the request file {rows[1:]} cannot be read: {error}", WRONG_USE
        ) from None


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
