"""The validation stage: five reports on the newest candidate, with a warn check for every gate."""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import dagster as dg

from assets.kind import Kind
from assets.names import BASELINE, CANDIDATE, asset_key
from assets.reporting.page import PAGE
from assets.reporting.plots import markdown_image
from assets.reporting.report import Verdict, save_report
from assets.stage import Stage, alone, always
from assets.tabular.validation import gates
from declare.tabular import Tabular
from resources.artifacts import Artifacts
from resources.lake import Lake
from resources.ledger import Ledger
from resources.reports import Reports

if TYPE_CHECKING:
    from assets.tabular.validation.pages.examined import Examined

GROUP = "validation"
Result = Iterator[dg.MaterializeResult[None]]
ABOUT = {
    gates.PERFORMANCE: "How good the candidate is against the baseline and the champion "
    "on the same test rows, with intervals.",
    gates.SLICES: "Where the candidate does worse than overall.",
    gates.FAIRNESS: "Whether the candidate treats the declared groups alike.",
    gates.EXPLAINABILITY: "Which features move the candidate's predictions: "
    "exact SHAP values on a stated sample.",
    gates.ROBUSTNESS: "What happens to predictions when inputs are missing, noisy, unseen "
    "or absurd.",
}
MORE_KINDS = {gates.EXPLAINABILITY: {"xgboost"}, gates.ROBUSTNESS: {"xgboost"}}


def build(pipeline: Tabular) -> list[dg.AssetsDefinition]:
    """The assets of a pipeline's validation stage."""

    def compared(lake: Lake, artifacts: Artifacts, ledger: Ledger) -> "Examined":
        from assets.tabular.validation import evidence as evidences
        from assets.tabular.validation.pages.performance import performance

        evidence = evidences.load(pipeline, lake, artifacts)
        baseline = evidences.baseline_predictions(evidence, artifacts)
        champion = evidences.champion(pipeline, ledger, artifacts)
        if champion is None:
            return performance(evidence, baseline, None, None)
        predicted, notes = evidences.champion_predictions(champion, evidence, lake)
        return performance(evidence, baseline, predicted, champion.digest, notes)

    @_asset(pipeline, gates.PERFORMANCE, BASELINE)
    def compared_performance(
        lake: Lake, artifacts: Artifacts, reports: Reports, ledger: Ledger
    ) -> Result:
        yield _stored(pipeline, reports, compared(lake, artifacts, ledger))

    def alone(name: str) -> dg.AssetsDefinition:
        @_asset(pipeline, name)
        def validation(lake: Lake, artifacts: Artifacts, reports: Reports) -> Result:
            from assets.tabular.validation import evidence as evidences
            from assets.tabular.validation.pages.alone import ALONE

            evidence = evidences.load(pipeline, lake, artifacts)
            yield _stored(pipeline, reports, ALONE[name](evidence))

        return validation

    return [
        compared_performance,
        *(alone(name) for name in gates.REPORTS if name != gates.PERFORMANCE),
    ]


def _asset(
    pipeline: Tabular, name: str, *more: str
) -> Callable[[Callable[..., Result]], dg.AssetsDefinition]:
    key = asset_key(pipeline.name, name)
    return dg.asset(
        key=key,
        deps=[asset_key(pipeline.name, upstream) for upstream in (CANDIDATE, *more)],
        group_name=GROUP,
        kinds={"numpy", *MORE_KINDS.get(name, ())},
        description=ABOUT[name],
        check_specs=[
            dg.AssetCheckSpec(
                rule, asset=key, description=f"Gate: {rule.replace('_', ' ')}. A release needs it."
            )
            for rule in gates.required_gates(pipeline)[name]
        ],
    )


def _stored(
    pipeline: Tabular, reports: Reports, examined: "Examined"
) -> dg.MaterializeResult[None]:
    """Store a report with its page and show it: link, plots, telling numbers, a check per gate."""
    report = examined.report
    link = save_report(reports, report, examined.pages) + PAGE
    numbers = {
        measure.name: measure.value
        for measure in report.measures
        if measure.group in (None, "candidate") and measure.value is not None
    }
    plots = {
        title: dg.MetadataValue.md(markdown_image(content, title))
        for title, content in examined.plots.items()
    }
    required = gates.required_gates(pipeline)[report.name]
    return dg.MaterializeResult(
        metadata={
            "report": dg.MetadataValue.url(link),
            "candidate": report.subject,
            "as of": report.day.isoformat(),
            "passed": all(each.passed for each in report.verdicts if each.rule in required),
            "notes": dg.MetadataValue.md("\n".join(f"- {note}" for note in report.notes)),
            **plots,
            **numbers,
        },
        data_version=dg.DataVersion(report.digest),
        check_results=[
            _checked(verdict, link) for verdict in report.verdicts if verdict.rule in required
        ],
    )


def _checked(verdict: Verdict, link: str) -> dg.AssetCheckResult:
    """A verdict as a warn check. An unknown verdict does not pass: the release refuses on it."""
    numbers = {"number": verdict.value, "limit": verdict.limit}
    known = verdict.passed is not None
    return dg.AssetCheckResult(
        check_name=verdict.rule,
        passed=verdict.passed is True,
        severity=dg.AssetCheckSeverity.WARN,
        description=verdict.reason if known else f"Unknown: {verdict.reason}",
        metadata={
            **{name: float(value) for name, value in numbers.items() if value is not None},
            "n": verdict.n,
            "judged": known,
            "report": dg.MetadataValue.url(link),
        },
    )


def _read(pipeline: Tabular, kind: Kind, asset: str) -> object:
    """What reports read. Of the sources it is which columns they have, not their contracts."""
    columns = [(source.name, list(source.columns)) for source in pipeline.sources]
    groups = pipeline.slices, pipeline.fairness, pipeline.gates
    return groups, kind.outcome, pipeline.features, pipeline.request, columns


STAGE = Stage(
    name="validation",
    group=GROUP,
    build=alone(build),
    reads=_read,
    assets=always({"retrained": gates.REPORTS}),
)
