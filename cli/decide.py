"""Decisions by people: thin commands onto `assets.traffic.decisions`; each is one signed ledger entry."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import date
from typing import TYPE_CHECKING, Literal

from assets.names import BUNDLE, FEATURES
from cli.output import REFUSED, WRONG_USE, CommandError, say
from cli.platform.follow import entry_line
from resources.settings import Settings

if TYPE_CHECKING:
    from assets.traffic.entries import LedgerEntry
    from assets.traffic.standing import Proposal
    from resources.ledger import Ledger


def ledger_of(settings: Settings) -> Ledger:
    from resources.keys import Keys
    from resources.ledger import Ledger

    return Ledger(path=str(settings.ledger_path), signer=Keys(path=str(settings.keys_path)))


def judge(
    settings: Settings,
    pipeline: str,
    bundle: str,
    actor: str,
    reason: str,
    as_json: bool,
    verdict: Literal["approve", "reject"],
) -> None:
    """Approve or reject a bundle. Raises CommandError for an approval of any but the newest bundle: no release would follow it."""
    from assets.traffic import decisions

    proposed, newest = proposal(settings, pipeline, bundle)
    if verdict == "approve" and not newest:
        raise CommandError(
            f"bundle {proposed.bundle[:12]} is not the newest of {pipeline!r}, which alone is released; to serve one that served before, roll back",
            REFUSED,
        )
    decide = decisions.approve if verdict == "approve" else decisions.reject
    _show(_decided(lambda: decide(ledger_of(settings), proposed, actor, reason)), as_json)


def rollback(
    settings: Settings, pipeline: str, to: str | None, actor: str, reason: str, as_json: bool
) -> None:
    from assets.traffic import decisions

    ledger = ledger_of(settings)
    target = (
        _full(to, (entry.bundle for entry in ledger.entries(pipeline) if entry.bundle))
        if to
        else None
    )
    _show(_decided(lambda: decisions.rollback(ledger, pipeline, actor, reason, target)), as_json)


def experiment(
    settings: Settings, pipeline: str, what: str, name: str, actor: str, reason: str, as_json: bool
) -> None:
    """Start or stop a declared experiment. Raises CommandError for one that is not declared, does not run, or may not start."""
    from assets.traffic import experiments
    from assets.traffic.entries import entries as read
    from pipelines.definitions import declared_pipelines
    from resources.artifacts import Artifacts

    declared = next((found for found in declared_pipelines() if found.name == pipeline), None)
    wanted = (
        next((found for found in declared.experiments if found.name == name), None)
        if declared
        else None
    )
    if what not in ("start", "stop") or wanted is None:
        names = ", ".join(found.name for found in declared.experiments) if declared else ""
        raise CommandError(
            f"{what} {name!r}: say start or stop, and one of the experiments that {pipeline!r} declares: {names or 'none'}",
            WRONG_USE,
        )
    ledger = ledger_of(settings)
    entries = read(ledger, pipeline)
    if what == "start":
        candidate = Artifacts(uri=settings.artifacts_uri).pointed(pipeline, BUNDLE)
        day = _next_day(settings, pipeline)
        _show(
            _decided(
                lambda: experiments.start(ledger, pipeline, wanted, candidate, actor, reason, day)
            ),
            as_json,
        )
        return
    current = experiments.running(entries)
    if current is None or current.name != name:
        raise CommandError(f"experiment {name!r} of {pipeline!r} does not run", REFUSED)
    _show(
        _decided(
            lambda: experiments.stop(ledger, pipeline, current, actor, reason, entries[-1].day)
        ),
        as_json,
    )


def _next_day(settings: Settings, pipeline: str) -> date:
    """The data day on which something that begins now has its first requests: the newest one processed."""
    from cli.platform import environment
    from sensors import event_log, instance

    environment.apply(settings)
    with instance.opened(settings) as opened:
        day = event_log.newest_partition(opened, (pipeline, FEATURES))
    if day is None:
        raise CommandError(f"pipeline {pipeline!r} has processed no data yet", REFUSED)
    return date.fromisoformat(day)


def retrain(settings: Settings, pipeline: str, actor: str, reason: str, as_json: bool) -> None:
    from assets.traffic import decisions
    from cli.platform import environment
    from sensors import event_log, instance

    environment.apply(settings)
    with instance.opened(settings) as opened:
        day = event_log.newest_partition(opened, (pipeline, FEATURES))
    if day is None:
        raise CommandError(
            f"pipeline {pipeline!r} has processed no data yet; its first model is trained without being asked for",
            REFUSED,
        )
    _show(
        _decided(
            lambda: decisions.request_retraining(
                ledger_of(settings), pipeline, actor, reason, date.fromisoformat(day)
            )
        ),
        as_json,
    )


def proposal(settings: Settings, pipeline: str, beginning: str) -> tuple[Proposal, bool]:
    """What a bundle's manifest proposes, and whether the bundle is its pipeline's newest. Raises CommandError for a bundle that is not
    stored, was altered, or is of another pipeline."""
    import msgspec

    from assets.traffic.standing import proposal as proposed_by
    from bundle.manifest import MANIFEST, Manifest
    from resources.artifacts import Artifacts

    artifacts = Artifacts(uri=settings.artifacts_uri)
    newest = artifacts.pointed(pipeline, BUNDLE)
    digest = (
        newest
        if newest and newest.startswith(beginning)
        else _full(beginning, stored_bundles(settings))
    )
    try:
        manifest = msgspec.json.decode(artifacts.get("bundles", digest)[MANIFEST], type=Manifest)
    except ValueError as error:
        raise CommandError(
            f"bundle {digest[:12]} cannot be decided over: {error}", REFUSED
        ) from error
    if manifest.pipeline != pipeline:
        raise CommandError(
            f"bundle {digest[:12]} belongs to pipeline {manifest.pipeline!r}, not {pipeline!r}",
            WRONG_USE,
        )
    return proposed_by(digest, manifest), digest == newest


def stored_bundles(settings: Settings) -> list[str]:
    from resources.files import filesystem

    fs, path = filesystem(f"{settings.artifacts_uri}/bundles")
    return (
        [place.rstrip("/").rsplit("/", 1)[-1] for place in fs.ls(path, detail=False)]
        if fs.exists(path)
        else []
    )


def _full(beginning: str, digests: Iterable[str]) -> str:
    """The one digest that begins so."""
    found = sorted({digest for digest in digests if digest.startswith(beginning)})
    if len(found) != 1:
        what = "no bundle is" if not found else f"{len(found)} bundles are"
        raise CommandError(
            f"{what} named {beginning!r}; give more of its digest (`evergreen served --json` and the UI show it)",
            WRONG_USE,
        )
    return found[0]


def _decided(decision: Callable[[], LedgerEntry]) -> LedgerEntry:
    try:
        return decision()
    except (ValueError, LookupError, PermissionError) as refused:
        raise CommandError(str(refused.args[0] if refused.args else refused), REFUSED) from refused


def _show(entry: LedgerEntry, as_json: bool) -> None:
    from assets.traffic.entries import document

    say(document(entry), as_json, entry_line(entry))
