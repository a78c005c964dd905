"""Bundles that are not released: what is missing, examined anew from reports, gates and ledger as a release would."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from assets.names import BUNDLE
from cli.decide import ledger_of
from resources.settings import Settings

if TYPE_CHECKING:
    from declare.pipeline import Pipeline


class Waiting(NamedTuple):
    """A pipeline's newest bundle that is not released. `rollout` tells where it is on its way, if it is; `approval` says in one line what people decided and what is missing;
    `refusals` why its evidence does not carry a release whatever they decide."""

    bundle: str
    as_of: str
    needed: int
    approved_by: tuple[str, ...]
    refused_by: str | None
    approval: str
    refusals: tuple[str, ...]
    rollout: str | None = None

    def line(self, pipeline: str) -> str:
        """What a person reads, with what to do where a person is asked."""
        if self.rollout is not None:
            return f"{pipeline}: bundle {self.bundle[:12]} of {self.as_of} is being rolled out: {self.rollout}"
        said = "; ".join((self.approval, *self.refusals))
        asked = (
            len(self.approved_by) < self.needed and self.refused_by is None and not self.refusals
        )
        todo = (
            f"; decide with `evergreen approve {self.bundle[:12]} --pipeline {pipeline} --as NAME --reason WHY`, or reject"
            if asked
            else ""
        )
        return (
            f"{pipeline}: bundle {self.bundle[:12]} of {self.as_of} is not released: {said}{todo}"
        )


def waiting(settings: Settings, pipeline: Pipeline) -> Waiting | None:
    """The newest bundle of a pipeline unless it is released; None too where there is none."""
    from assets.lifecycles import kind_of
    from assets.release.evidence import approvals_needed, examine
    from assets.traffic.entries import entries
    from assets.traffic.rollouts import under_way
    from bundle.manifest import BundleError
    from resources.artifacts import Artifacts
    from resources.keys import Keys
    from resources.reports import Reports

    artifacts, ledger = Artifacts(uri=settings.artifacts_uri), ledger_of(settings)
    digest = artifacts.pointed(pipeline.name, BUNDLE)
    if digest is None or digest == ledger.released(pipeline.name):
        return None
    reports = Reports(uri=settings.reports_uri, url=settings.reports_url)
    try:
        examined = examine(
            kind_of(pipeline),
            digest,
            artifacts,
            reports,
            ledger,
            Keys(path=str(settings.keys_path)),
        )
    except BundleError as error:
        return Waiting(digest, "an unknown day", 0, (), None, str(error), ())
    rollout = under_way(entries(ledger, pipeline.name))
    standing, needed = examined.standing, approvals_needed(pipeline)
    return Waiting(
        digest,
        examined.proposal.day.isoformat(),
        standing.needed(needed),
        tuple(entry.actor for entry in standing.people),
        standing.refusal.actor if standing.refusal else None,
        standing.explain(needed),
        examined.refusals,
        rollout.summary if rollout is not None and rollout.bundle == digest else None,
    )
