"""Bundles that are not released, and what is missing: examined anew, as a release would."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from assets.names import BUNDLE
from cli.stored import ledger_of
from resources.settings import Settings

if TYPE_CHECKING:
    from declare.pipeline import Pipeline


class Waiting(NamedTuple):
    """A pipeline's newest bundle that is not released.

    `approval` says in one line what people decided and what is missing, `refusals` why its evidence
    carries no release whatever they decide. `rollout` says where it is on its way, if it is.
    """

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
        short = self.bundle[:12]
        which = f"{pipeline}: bundle {short} of {self.as_of}"
        if self.rollout is not None:
            return f"{which} is being rolled out: {self.rollout}"

        said = "; ".join((self.approval, *self.refusals))
        line = f"{which} is not released: {said}"
        missing = len(self.approved_by) < self.needed
        if missing and self.refused_by is None and not self.refusals:
            line += (
                f"; decide with `evergreen approve {short} --pipeline {pipeline} --as NAME "
                "--reason WHY`, or reject"
            )
        return line


def waiting(settings: Settings, pipeline: Pipeline) -> Waiting | None:
    """The newest bundle of a pipeline unless it is released; None too where there is none."""
    from assets.lifecycles import kind_of
    from assets.release.evidence import approvals_needed, examine
    from assets.traffic.entries import entries
    from assets.traffic.moves import released
    from assets.traffic.rollouts import under_way
    from bundle.manifest import BundleError
    from resources.artifacts import Artifacts
    from resources.keys import Keys
    from resources.reports import Reports

    artifacts, ledger = Artifacts(uri=settings.artifacts_uri), ledger_of(settings)
    digest = artifacts.pointed(pipeline.name, BUNDLE)
    if digest is None or digest == released(entries(ledger, pipeline.name)):
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
        said = "its files do not verify"
        return Waiting(digest, "an unknown day", 0, (), None, said, (str(error),))
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
