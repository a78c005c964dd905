"""Gathering a decision's evidence, as the day knew it.

It comes from stored reports, the ledger and earlier decisions. Nothing of a later data day is read.
Deciding a day again, however much later, gathers the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from typing import TYPE_CHECKING

from assets.names import DAY, quarantine_table, raw_table
from assets.reporting.report import Report, load_report
from assets.retraining.decide import (
    Champion,
    Decision,
    DriftDay,
    Evidence,
    LivePerformance,
    Request,
    load_decision,
)
from assets.traffic.entries import LedgerEntry, RetrainRequest, entries as read_entries
from assets.traffic.moves import candidate_of, released

if TYPE_CHECKING:
    from assets.kind import Kind
    from assets.reporting.report import Report, Verdict
    from declare.pipeline import Pipeline
    from resources.artifacts import Artifacts
    from resources.lake import Lake
    from resources.ledger import Ledger
    from resources.reports import Reports


def gather(
    kind: Kind,
    day: date,
    lake: Lake,
    artifacts: Artifacts,
    ledger: Ledger,
    reports: Reports,
    request: Request | None = None,
) -> Evidence:
    """The evidence of one day.

    `request` is a person's wish given with the run. The ledger's requests are read as well.
    """
    pipeline = kind.pipeline
    entries = [entry for entry in read_entries(ledger, pipeline.name) if entry.day <= day]
    last = last_retrain(previous(pipeline, reports, day))
    champion = _champion(kind, artifacts, entries)
    of_day = _ReportsOf(kind, reports, champion)

    return Evidence(
        pipeline=pipeline.name,
        day=day,
        features=kind.definition(),
        champion=champion,
        performance=of_day.performance(day),
        drift=of_day.drift(day),
        data_faults=(*of_day.faults(day), *quarantined(pipeline, lake, day)),
        last_retrain=last,
        unreleased=0 if last is None else unreleased(pipeline, reports, last, champion),
        request=request or _requested(entries, last),
    )


def previous(pipeline: Pipeline, reports: Reports, day: date) -> Decision | None:
    """The newest decision before a day.

    Days are decided in order: nearly always it is that of the day before. After a gap one looks
    back as far as any rule of the policy does.
    """
    policy = pipeline.retraining
    longest_rest = policy.cooldown_days << (policy.attempts - 1)
    reach = max(policy.every_days or 0, longest_rest, policy.drift_window) + 1

    for offset in range(1, reach + 1):
        found = load_decision(reports, pipeline.name, day - offset * DAY)
        if found is not None:
            return found
    return None


def last_retrain(earlier: Decision | None) -> date | None:
    """The day of the newest decision to retrain, as the decision before tells it."""
    if earlier is None:
        return None
    return earlier.day if earlier.retrain else earlier.evidence.last_retrain


def unreleased(pipeline: Pipeline, reports: Reports, last: date, champion: Champion | None) -> int:
    """Retrains in a row, up to that decided on `last`, that changed nothing served.

    A retrain trains as of the day after its decision. The champion is its work when it was trained
    as of a later day than the decision's.
    """
    if champion is not None and champion.as_of > last:
        return 0
    decided = load_decision(reports, pipeline.name, last)
    return 1 + (decided.evidence.unreleased if decided else 0)


def quarantined(pipeline: Pipeline, lake: Lake, day: date) -> tuple[str, ...]:
    """Sources whose delivery on a day came near to being refused whole.

    That is: the share of rows that broke the contract exceeds half of `Source.refuses_above`.
    """
    faults = []
    for source in pipeline.sources:
        if not source.daily:
            continue
        broken = _rows(lake, quarantine_table(pipeline.name, source.name), day)
        if not broken:
            continue

        delivered = broken + _rows(lake, raw_table(pipeline.name, source.name), day)
        if broken / delivered > source.refuses_above / 2:
            faults.append(f"{broken} of {delivered} rows of {source.name} broke its contract")
    return tuple(faults)


def _rows(lake: Lake, table: str, day: date) -> int:
    """How many rows a table holds of a day. None at all where there is no such table."""
    import polars as pl

    try:
        return int(lake.scan(table, day, day).select(pl.len()).collect().item())
    except FileNotFoundError:
        return 0


def _champion(kind: Kind, artifacts: Artifacts, entries: Sequence[LedgerEntry]) -> Champion | None:
    """The champion of these entries, with what its candidate says of itself.

    Raises LookupError for a bundle whose release no entry names, FileNotFoundError or ValueError
    for artifacts that are gone or altered.
    """
    bundle = released(entries)
    if bundle is None:
        return None

    candidate = candidate_of(entries, bundle)
    if candidate is None:
        raise LookupError(
            f"bundle {bundle} is released, but no release entry names its candidate; "
            "the ledger was tampered with"
        )
    facts = kind.facts(artifacts.get("candidates", candidate))
    return Champion(
        bundle=bundle,
        as_of=facts.as_of,
        test_log_loss=facts.test_loss,
        test_rows=facts.test_rows,
        features=facts.definition,
    )


class _ReportsOf:
    """What the stored daily reports say of the champion. Nothing where there is none.

    Days on which another bundle answered most have no report on this one and say nothing of it.
    """

    def __init__(self, kind: Kind, reports: Reports, champion: Champion | None) -> None:
        self._pipeline, self._watched = kind.pipeline, kind.watched
        self._reports, self._champion = reports, champion

    def performance(self, day: date) -> LivePerformance | None:
        name, measure = self._watched.loss
        report = self._report(name, day)
        live = report.measure(measure) if report else None
        if live is None:
            return None
        return LivePerformance(log_loss=live.value, low=live.low, high=live.high, n=live.n)

    def drift(self, day: date) -> tuple[DriftDay, ...]:
        """Verdicts over the policy's window, oldest first."""
        found = []
        for offset in reversed(range(self._pipeline.retraining.drift_window)):
            seen = day - offset * DAY
            verdict = self._verdict(*self._watched.drift, seen)
            if verdict is not None:
                drifted = None if verdict.passed is None else not verdict.passed
                found.append(DriftDay(day=seen, drifted=drifted, share=verdict.value, n=verdict.n))
        return tuple(found)

    def faults(self, day: date) -> tuple[str, ...]:
        verdicts = [self._verdict(name, rule, day) for name, rule in self._watched.faults]
        return tuple(each.reason for each in verdicts if each is not None and each.passed is False)

    def _report(self, name: str, day: date) -> Report | None:
        if self._champion is None:
            return None
        return load_report(self._reports, self._pipeline.name, name, day, self._champion.bundle)

    def _verdict(self, name: str, rule: str, day: date) -> Verdict | None:
        report = self._report(name, day)
        verdicts = report.verdicts if report else ()
        return next((each for each in verdicts if each.rule == rule), None)


def _requested(entries: Sequence[LedgerEntry], last: date | None) -> Request | None:
    """The newest request of the ledger that no retrain has answered yet."""
    for entry in reversed(entries):
        if isinstance(entry, RetrainRequest) and (last is None or entry.day > last):
            return Request(by=entry.actor, reason=entry.reason, day=entry.day)
    return None
