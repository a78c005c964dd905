"""Decisions by people: thin commands onto `assets.traffic`; each is one signed ledger entry.

What a command prints is in `cli.platform.follow`; what is missing for a release is in
`cli.unreleased`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import date
from typing import TYPE_CHECKING

from assets.names import BUNDLE, FEATURES
from cli.output import REFUSED, WRONG_USE, CommandError, say
from cli.platform.follow import entry_line
from cli.stored import ledger_of, stored_bundles
from cli.unreleased import waiting
from resources.settings import Settings

if TYPE_CHECKING:
    from assets.traffic.entries import LedgerEntry
    from assets.traffic.standing import Proposal
    from declare.release import Experiment


def approve(
    settings: Settings, pipeline: str, bundle: str, actor: str, reason: str, as_json: bool
) -> None:
    """Approve a bundle.

    Raises CommandError, with nothing recorded, for any but the newest bundle and for one whose
    evidence carries no release: no release would follow.
    """
    from assets.traffic import decisions

    proposed, newest = proposal(settings, pipeline, bundle)
    short = proposed.bundle[:12]
    if not newest:
        raise CommandError(
            f"bundle {short} is not the newest of {pipeline!r}, which alone is released; to serve "
            "one that served before, roll back",
            REFUSED,
        )
    refusals = _refusals(settings, pipeline)
    if refusals:
        raise CommandError(
            f"bundle {short} stays unreleased: {'; '.join(refusals)}. No approval was recorded",
            REFUSED,
        )
    ledger = ledger_of(settings)
    _show(_decided(lambda: decisions.approve(ledger, proposed, actor, reason)), as_json)


def reject(
    settings: Settings, pipeline: str, bundle: str, actor: str, reason: str, as_json: bool
) -> None:
    """Reject a bundle. Raises CommandError for one that is released or being rolled out."""
    from assets.traffic import decisions

    proposed, _ = proposal(settings, pipeline, bundle)
    ledger = ledger_of(settings)
    _show(_decided(lambda: decisions.reject(ledger, proposed, actor, reason)), as_json)


def rollback(
    settings: Settings, pipeline: str, to: str | None, actor: str, reason: str, as_json: bool
) -> None:
    """Roll back to what served before, or to the bundle whose digest begins with `to`."""
    from assets.traffic import decisions
    from assets.traffic.entries import entries

    ledger = ledger_of(settings)
    target = None
    if to:
        named = (entry.bundle for entry in entries(ledger, pipeline) if entry.bundle)
        target = _full(to, named)
    _show(_decided(lambda: decisions.rollback(ledger, pipeline, actor, reason, target)), as_json)


def experiment(
    settings: Settings, pipeline: str, what: str, name: str, actor: str, reason: str, as_json: bool
) -> None:
    """Start or stop a declared experiment.

    Raises CommandError for one that is not declared, does not run, or may not start.
    """
    from assets.traffic import experiments
    from assets.traffic.entries import entries
    from resources.artifacts import Artifacts

    wanted = _declared_experiment(pipeline, what, name)
    ledger = ledger_of(settings)

    def decide() -> LedgerEntry:
        if what == "start":
            candidate = Artifacts(uri=settings.artifacts_uri).pointed(pipeline, BUNDLE)
            day = _newest_day(settings, pipeline)
            return experiments.start(ledger, pipeline, wanted, candidate, actor, reason, day)

        known = entries(ledger, pipeline)
        current = experiments.running(known)
        if current is None or current.name != name:
            raise CommandError(f"experiment {name!r} of {pipeline!r} does not run", REFUSED)
        return experiments.stop(ledger, pipeline, current, actor, reason, known[-1].day)

    _show(_decided(decide), as_json)


def retrain(settings: Settings, pipeline: str, actor: str, reason: str, as_json: bool) -> None:
    """Ask for a retrain; the next retraining decision takes it up."""
    from assets.traffic import decisions

    day, ledger = _newest_day(settings, pipeline), ledger_of(settings)
    _show(
        _decided(lambda: decisions.request_retraining(ledger, pipeline, actor, reason, day)),
        as_json,
    )


def proposal(settings: Settings, pipeline: str, beginning: str) -> tuple[Proposal, bool]:
    """What a bundle's manifest proposes, and whether the bundle is its pipeline's newest.

    Raises CommandError for a bundle that is not stored, was altered, or is another pipeline's.
    """
    import msgspec

    from assets.traffic.standing import proposal as proposed_by
    from bundle.manifest import MANIFEST, Manifest
    from resources.artifacts import Artifacts

    artifacts = Artifacts(uri=settings.artifacts_uri)
    newest = artifacts.pointed(pipeline, BUNDLE)
    if newest is not None and newest.startswith(beginning):
        digest = newest
    else:
        digest = _full(beginning, stored_bundles(settings))

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


def _refusals(settings: Settings, pipeline: str) -> tuple[str, ...]:
    """Why the evidence of the newest bundle carries no release, whatever people decide."""
    from pipelines.definitions import declared_pipelines

    declared = next((found for found in declared_pipelines() if found.name == pipeline), None)
    if declared is None:
        return (f"pipeline {pipeline!r} is not declared any more",)
    unreleased = waiting(settings, declared)
    return unreleased.refusals if unreleased is not None else ()


def _declared_experiment(pipeline: str, what: str, name: str) -> Experiment:
    """Raises CommandError for a wrong verb, or for an experiment that is not declared."""
    from pipelines.definitions import declared_pipelines

    declared = next((found for found in declared_pipelines() if found.name == pipeline), None)
    experiments = declared.experiments if declared is not None else ()
    wanted = next((found for found in experiments if found.name == name), None)
    if what not in ("start", "stop") or wanted is None:
        names = ", ".join(found.name for found in experiments) or "none"
        raise CommandError(
            f"{what} {name!r}: say start or stop, and one of the experiments that {pipeline!r} "
            f"declares: {names}",
            WRONG_USE,
        )
    return wanted


def _newest_day(settings: Settings, pipeline: str) -> date:
    """The newest processed data day: what begins now has its first requests on it."""
    from cli.platform import environment
    from sensors import event_log, instance

    environment.apply(settings)
    with instance.opened(settings) as opened:
        day = event_log.newest_partition(opened, (pipeline, FEATURES))
    if day is None:
        raise CommandError(
            f"pipeline {pipeline!r} has processed no data yet; its first model is trained without "
            "being asked for",
            REFUSED,
        )
    return date.fromisoformat(day)


def _full(beginning: str, digests: Iterable[str]) -> str:
    """The one digest that begins so."""
    found = sorted({digest for digest in digests if digest.startswith(beginning)})
    if len(found) != 1:
        what = f"{len(found)} bundles are" if found else "no bundle is"
        raise CommandError(
            f"{what} named {beginning!r}; give more of its digest (`evergreen served --json` and "
            "the UI show it)",
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
