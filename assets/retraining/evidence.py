"""Gathering a decision's evidence: from stored reports, the ledger and earlier decisions, as the day knew them.

Nothing of a later data day is read, so that deciding a day again, however much later, gathers the same evidence.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from typing import TYPE_CHECKING

import msgspec

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
from assets.tabular.monitoring import champion as champions
from assets.tabular.monitoring.monitors import DATA_DRIFT, PERFORMANCE, SKEW

if TYPE_CHECKING:
    from assets.tabular.monitoring.champion import Served
    from bundle.features.program import FeatureProgram
    from declare.pipeline import Pipeline
    from resources.artifacts import Artifacts
    from resources.lake import Lake
    from resources.ledger import Entry, Ledger
    from resources.reports import Reports

FAULTS = (DATA_DRIFT, "missing_values"), (SKEW, "skew")


def gather(
    pipeline: Pipeline,
    day: date,
    lake: Lake,
    artifacts: Artifacts,
    ledger: Ledger,
    reports: Reports,
    request: Request | None = None,
) -> Evidence:
    """The evidence of one day. `request` is a person's wish given with the run; the ledger's requests are read as well."""
    from assets.tabular.features.declared_program import program

    entries = [entry for entry in ledger.entries(pipeline.name) if entry.day <= day]
    earlier = previous(pipeline, reports, day)
    last = last_retrain(earlier)
    entry = champions.released(entries, day)
    served = champions.load(artifacts, entries, entry.bundle) if entry and entry.bundle else None
    champion = None if served is None else _champion(served)
    return Evidence(
        pipeline=pipeline.name,
        day=day,
        features=features_digest(program(pipeline)),
        champion=champion,
        performance=None
        if champion is None
        else _performance(load_report(reports, pipeline.name, PERFORMANCE, day, champion.bundle)),
        drift=() if champion is None else _drift(pipeline, reports, day, champion.bundle),
        data_faults=(*_faults(pipeline, reports, day, champion), *quarantined(pipeline, lake, day)),
        last_retrain=last,
        unreleased=0 if last is None else unreleased(pipeline, reports, last, champion),
        request=request or _requested(entries, last),
    )


def features_digest(program: FeatureProgram) -> str:
    """Digest of what a program computes, whatever vocabularies it learned."""
    return msgspec.structs.replace(program, vocabularies={}).digest


def previous(pipeline: Pipeline, reports: Reports, day: date) -> Decision | None:
    """The newest decision before a day. Days are decided in order, so it is nearly always that of the day before; after a
    gap one looks back as far as any rule of the policy does."""
    policy = pipeline.retraining
    reach = (
        max(
            policy.every_days or 0,
            policy.cooldown_days << (policy.attempts - 1),
            policy.drift_window,
        )
        + 1
    )
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
    """Retrains in a row, up to that decided on `last`, that changed nothing served. A retrain trains as of the day after its
    decision; the champion is its work when it was trained as of a later day than the decision's."""
    if champion is not None and champion.as_of > last:
        return 0
    decided = load_decision(reports, pipeline.name, last)
    return 1 + (decided.evidence.unreleased if decided else 0)


def quarantined(pipeline: Pipeline, lake: Lake, day: date) -> tuple[str, ...]:
    """Sources of whose delivery on a day more than half as many rows broke the contract as would have refused it whole."""
    import polars as pl

    faults = []
    for source in pipeline.sources:
        if not source.daily:
            continue
        try:
            broken = (
                lake.scan(quarantine_table(pipeline.name, source.name), day, day)
                .select(pl.len())
                .collect()
                .item()
            )
        except FileNotFoundError:
            continue
        if not broken:
            continue
        kept = (
            lake.scan(raw_table(pipeline.name, source.name), day, day)
            .select(pl.len())
            .collect()
            .item()
        )
        share = broken / (broken + kept)
        if share > source.refuses_above / 2:
            faults.append(f"{broken} of {broken + kept} rows of {source.name} broke its contract")
    return tuple(faults)


def _champion(served: Served) -> Champion:
    return Champion(
        bundle=served.bundle,
        as_of=served.as_of,
        test_log_loss=served.test.get("log_loss"),
        test_rows=served.test_rows,
        features=features_digest(served.program),
    )


def _performance(report: Report | None) -> LivePerformance | None:
    found = report.measure("log_loss") if report else None
    return (
        None
        if found is None
        else LivePerformance(log_loss=found.value, low=found.low, high=found.high, n=found.n)
    )


def _drift(pipeline: Pipeline, reports: Reports, day: date, bundle: str) -> tuple[DriftDay, ...]:
    """Verdicts over the policy's window; days on which another bundle answered most say nothing about this one."""
    found = []
    for offset in reversed(range(pipeline.retraining.drift_window)):
        seen = day - offset * DAY
        report = load_report(reports, pipeline.name, DATA_DRIFT, seen, bundle)
        verdict = (
            next((each for each in report.verdicts if each.rule == "drift_share"), None)
            if report
            else None
        )
        if verdict is not None:
            drifted = None if verdict.passed is None else not verdict.passed
            found.append(DriftDay(day=seen, drifted=drifted, share=verdict.value, n=verdict.n))
    return tuple(found)


def _faults(
    pipeline: Pipeline, reports: Reports, day: date, champion: Champion | None
) -> tuple[str, ...]:
    if champion is None:
        return ()
    found = []
    for name, rule in FAULTS:
        report = load_report(reports, pipeline.name, name, day, champion.bundle)
        failed = (
            next(
                (each for each in report.verdicts if each.rule == rule and each.passed is False),
                None,
            )
            if report
            else None
        )
        if failed is not None:
            found.append(failed.reason)
    return tuple(found)


def _requested(entries: Sequence[Entry], last: date | None) -> Request | None:
    """The newest request of the ledger that no retrain has answered yet."""
    for entry in reversed(entries):
        if entry.kind == "retrain_request" and (last is None or entry.day > last):
            return Request(
                by=entry.actor, reason=str(entry.payload.get("reason", "")), day=entry.day
            )
    return None
