"""Gates: verdicts follow from numbers and limits alone, and what is missing or altered refuses."""

from __future__ import annotations

from datetime import date

import pytest

from assets.reporting.report import Measure, Report, save_report
from assets.tabular.validation import gates
from declare.gates import Fairness, Gates
from declare.tabular import Tabular
from resources.reports import Reports
from tests.support.tiny import tiny

CANDIDATE, CHAMPION = "c" * 64, "b" * 64
DAY = date(2024, 3, 1)


def _pipeline(**options: object) -> Tabular:
    fairness = options.pop("fairness", [Fairness(column="machine", reason="a test")])
    update = {
        "gates": Gates(min_slice_rows=100, **options),
        "slices": ("machine",),
        "fairness": tuple(fairness),
    }
    return tiny.model_copy(update=update)


def _measure(
    name: str,
    value: float | None,
    low: float | None = None,
    high: float | None = None,
    group: str | None = None,
    n: int = 1_000,
) -> Measure:
    return Measure(name=name, value=value, n=n, low=low, high=high, group=group)


GOOD = {
    gates.PERFORMANCE: [
        _measure("champion", None, group=CHAMPION),
        _measure("log_loss_worse_by", -0.02, -0.03, -0.01, "baseline"),
        _measure("log_loss_worse_by", -0.001, -0.006, 0.004, "champion"),
        _measure("calibration_error", 0.02, 0.01, 0.04, "candidate"),
        _measure("roc_auc", 0.7, 0.68, 0.72, "candidate"),
    ],
    gates.SLICES: [
        _measure("gap", 0.05, 0.01, 0.09, "machine=anvil"),
        _measure("gap", 0.9, 0.5, 1.3, "machine=drill", n=20),
    ],
    gates.FAIRNESS: [
        _measure("equal_opportunity", 0.1, 0.05, 0.15, "machine"),
        _measure("demographic_parity", 0.9, 0.8, 1.0, "machine"),
    ],
    gates.EXPLAINABILITY: [_measure("additivity_error", 1e-6)],
    gates.ROBUSTNESS: [
        _measure("invalid_predictions", 0.0),
        _measure("loss_increase", 0.05, 0.04, 0.06, "missing: load"),
        _measure("loss_increase", 0.03, 0.02, 0.04, "missing source: heat"),
        _measure("loss_increase", 0.01, 0.0, 0.02, "unseen category: machine"),
        _measure("shift", 0.02, 0.01, 0.03, "noise: all numeric features"),
    ],
}


def _changed(report: str, *changes: Measure) -> list[Measure]:
    """Good measures of a report with some replaced (by name and group)."""
    keys = {(change.name, change.group) for change in changes}
    return [
        measure for measure in GOOD[report] if (measure.name, measure.group) not in keys
    ] + list(changes)


def _verdict(report: str, rule: str, measures: list[Measure], pipeline: Tabular | None = None):
    return next(
        verdict
        for verdict in gates.verdicts(pipeline or _pipeline(), report, measures)
        if verdict.rule == rule
    )


def _reports(pipeline: Tabular) -> dict[str, Report | None]:
    return {
        name: Report(
            pipeline=pipeline.name,
            name=name,
            subject=CANDIDATE,
            day=DAY,
            measures=tuple(measures),
            verdicts=gates.verdicts(pipeline, name, measures),
        )
        for name, measures in GOOD.items()
    }


@pytest.mark.parametrize("report", gates.REPORTS)
def test_good_numbers_pass_every_gate(report: str) -> None:
    verdicts = gates.verdicts(_pipeline(), report, GOOD[report])
    assert tuple(verdict.rule for verdict in verdicts) == gates.required_gates(_pipeline())[report]
    assert all(verdict.passed for verdict in verdicts), verdicts
    assert all(
        verdict.n > 0 and verdict.limit is not None and verdict.reason for verdict in verdicts
    )


@pytest.mark.parametrize(
    ("report", "rule", "bad"),
    [
        (
            gates.PERFORMANCE,
            "beats_baseline",
            _measure("log_loss_worse_by", -0.001, -0.003, 0.001, "baseline"),
        ),
        (
            gates.PERFORMANCE,
            "not_worse_than_champion",
            _measure("log_loss_worse_by", 0.008, 0.004, 0.011, "champion"),
        ),
        (
            gates.PERFORMANCE,
            "calibration_error_is_low",
            _measure("calibration_error", 0.07, 0.06, 0.09, "candidate"),
        ),
        (gates.PERFORMANCE, "roc_auc_is_high", _measure("roc_auc", 0.61, 0.59, 0.63, "candidate")),
        (gates.SLICES, "no_slice_much_worse", _measure("gap", 0.3, 0.16, 0.4, "machine=anvil")),
        (
            gates.FAIRNESS,
            "groups_treated_alike",
            _measure("equal_opportunity", 0.19, 0.1, 0.21, "machine"),
        ),
        (gates.EXPLAINABILITY, "contributions_add_up", _measure("additivity_error", 0.01)),
        (gates.ROBUSTNESS, "predictions_stay_probabilities", _measure("invalid_predictions", 1.0)),
        (
            gates.ROBUSTNESS,
            "missing_input_is_survived",
            _measure("loss_increase", 0.14, 0.1, 0.16, "missing: load"),
        ),
        (
            gates.ROBUSTNESS,
            "lost_source_is_survived",
            _measure("loss_increase", 0.29, 0.2, 0.31, "missing source: heat"),
        ),
        (
            gates.ROBUSTNESS,
            "unseen_category_is_survived",
            _measure("loss_increase", 0.14, 0.1, 0.16, "unseen category: machine"),
        ),
        (
            gates.ROBUSTNESS,
            "noise_moves_little",
            _measure("shift", 0.04, 0.03, 0.06, "noise: all numeric features"),
        ),
    ],
)
def test_an_interval_that_ends_beyond_the_limit_fails_its_gate_alone(
    report: str, rule: str, bad: Measure
) -> None:
    verdicts = gates.verdicts(_pipeline(), report, _changed(report, bad))
    assert [verdict.rule for verdict in verdicts if verdict.passed is False] == [rule]


@pytest.mark.parametrize("report", gates.REPORTS)
def test_no_numbers_leave_every_gate_unknown_and_refuse(report: str) -> None:
    pipeline = _pipeline()
    verdicts = gates.verdicts(pipeline, report, [])
    assert all(verdict.passed is None for verdict in verdicts), verdicts
    empty = Report(
        pipeline=pipeline.name, name=report, subject=CANDIDATE, day=DAY, verdicts=verdicts
    )
    found = gates.refusals(pipeline, _reports(pipeline) | {report: empty}, CANDIDATE, CHAMPION)
    assert sum("is unknown" in refusal for refusal in found) == len(verdicts)


@pytest.mark.parametrize(
    ("report", "measure"),
    [
        (report, measure)
        for report in (gates.PERFORMANCE, gates.SLICES, gates.FAIRNESS, gates.ROBUSTNESS)
        for measure in GOOD[report]
        if measure.low is not None and measure.n >= 100 and measure.name != "demographic_parity"
    ],
    ids=lambda value: value if isinstance(value, str) else f"{value.name} {value.group}",
)
def test_an_estimate_without_its_interval_is_unknown_and_refuses(
    report: str, measure: Measure
) -> None:
    pipeline = _pipeline()
    pointed = measure.model_copy(update={"low": None, "high": None})
    measures = _changed(report, pointed)
    verdicts = gates.verdicts(pipeline, report, measures)
    assert [verdict.passed for verdict in verdicts].count(None) == 1
    shown = Report(
        pipeline=pipeline.name,
        name=report,
        subject=CANDIDATE,
        day=DAY,
        measures=tuple(measures),
        verdicts=verdicts,
    )
    found = gates.refusals(pipeline, _reports(pipeline) | {report: shown}, CANDIDATE, CHAMPION)
    assert len(found) == 1
    assert "is unknown" in found[0]


def test_without_a_champion_there_is_nothing_to_be_worse_than_and_that_is_said() -> None:
    measures = _changed(gates.PERFORMANCE, _measure("log_loss_worse_by", None, group="champion"))
    measures = [
        _measure("champion", None, group="none"),
        *(m for m in measures if m.name != "champion"),
    ]
    verdict = _verdict(gates.PERFORMANCE, "not_worse_than_champion", measures)
    assert verdict.passed is True
    assert "no champion yet" in verdict.reason


def test_nothing_declared_is_no_gate_and_is_said_loudly() -> None:
    pipeline = _pipeline(fairness=[]).model_copy(update={"slices": ()})
    for report, rule, words in (
        (gates.FAIRNESS, "groups_treated_alike", "NOT examined"),
        (gates.SLICES, "no_slice_much_worse", "no slices are declared"),
    ):
        verdict = _verdict(report, rule, [], pipeline)
        assert verdict.passed is None
        assert words in verdict.reason
        assert gates.required_gates(pipeline)[report] == ()


def test_a_declared_slice_column_without_any_slice_is_unknown() -> None:
    pipeline = _pipeline().model_copy(update={"slices": ("machine", "hour")})
    verdict = _verdict(gates.SLICES, "no_slice_much_worse", GOOD[gates.SLICES], pipeline)
    assert verdict.passed is None
    assert "hour" in verdict.reason


def test_small_slices_are_counted_and_not_judged_but_only_small_ones_are_unknown() -> None:
    verdict = _verdict(gates.SLICES, "no_slice_much_worse", GOOD[gates.SLICES])
    assert verdict.passed is True
    assert "1 slices below 100 rows" in verdict.reason
    small = [_measure("gap", 0.9, 0.5, 1.3, "machine=drill", n=20)]
    assert _verdict(gates.SLICES, "no_slice_much_worse", small).passed is None


def test_only_gaps_that_the_declaration_judges_are_judged() -> None:
    strict = _pipeline(
        fairness=[Fairness(column="machine", reason="a test", judged=("demographic_parity",))]
    )
    assert _verdict(gates.FAIRNESS, "groups_treated_alike", GOOD[gates.FAIRNESS]).passed is True
    assert (
        _verdict(gates.FAIRNESS, "groups_treated_alike", GOOD[gates.FAIRNESS], strict).passed
        is False
    )


def test_margins_move_the_line() -> None:
    lenient = _pipeline(baseline_margin=-0.05)
    bad = _changed(gates.PERFORMANCE, _measure("log_loss_worse_by", 0.02, 0.01, 0.03, "baseline"))
    assert _verdict(gates.PERFORMANCE, "beats_baseline", bad).passed is False
    assert _verdict(gates.PERFORMANCE, "beats_baseline", bad, lenient).passed is True
    assert (
        "up to 0.0500 worse is allowed"
        in _verdict(gates.PERFORMANCE, "beats_baseline", bad, lenient).reason
    )
    demanding = _pipeline(baseline_margin=0.02)
    assert (
        _verdict(gates.PERFORMANCE, "beats_baseline", GOOD[gates.PERFORMANCE], demanding).passed
        is False
    )
    assert (
        "at least 0.0200 better is asked for"
        in _verdict(gates.PERFORMANCE, "beats_baseline", GOOD[gates.PERFORMANCE], demanding).reason
    )


def test_a_rule_that_is_switched_off_is_not_required() -> None:
    off = _pipeline(
        max_calibration_error=None,
        min_roc_auc=None,
        max_slice_gap=None,
        max_fairness_gap=None,
        max_missing_loss=None,
        max_outage_loss=None,
        max_noise_shift=None,
    )
    assert gates.required_gates(off) == {
        gates.PERFORMANCE: ("beats_baseline", "not_worse_than_champion"),
        gates.SLICES: (),
        gates.FAIRNESS: (),
        gates.EXPLAINABILITY: ("contributions_add_up",),
        gates.ROBUSTNESS: ("predictions_stay_probabilities",),
    }


def test_complete_and_passing_reports_refuse_nothing() -> None:
    pipeline = _pipeline()
    assert gates.refusals(pipeline, _reports(pipeline), CANDIDATE, CHAMPION) == []


@pytest.mark.parametrize("name", gates.REPORTS)
def test_a_missing_report_refuses(name: str) -> None:
    pipeline = _pipeline()
    assert (
        f"report {name} is missing"
        in gates.refusals(pipeline, _reports(pipeline) | {name: None}, CANDIDATE, CHAMPION)[0]
    )
    rest = {other: report for other, report in _reports(pipeline).items() if other != name}
    assert len(gates.refusals(pipeline, rest, CANDIDATE, CHAMPION)) == 1


@pytest.mark.parametrize("name", gates.REPORTS)
def test_a_missing_verdict_refuses(name: str) -> None:
    pipeline, reports = _pipeline(), _reports(_pipeline())
    report = reports[name]
    assert report is not None
    found = gates.refusals(
        pipeline,
        reports | {name: report.model_copy(update={"verdicts": report.verdicts[1:]})},
        CANDIDATE,
        CHAMPION,
    )
    assert "holds no verdict" in found[0]


def test_a_forged_verdict_refuses() -> None:
    pipeline, bad = (
        _pipeline(),
        _changed(gates.SLICES, _measure("gap", 0.3, 0.16, 0.4, "machine=anvil")),
    )
    honest = Report(
        pipeline=pipeline.name,
        name=gates.SLICES,
        subject=CANDIDATE,
        day=DAY,
        measures=tuple(bad),
        verdicts=gates.verdicts(pipeline, gates.SLICES, bad),
    )
    forged = honest.model_copy(
        update={
            "verdicts": tuple(
                verdict.model_copy(update={"passed": True}) for verdict in honest.verdicts
            )
        }
    )
    for report, told in ((honest, "failed"), (forged, "not what its numbers")):
        found = gates.refusals(
            pipeline, _reports(pipeline) | {gates.SLICES: report}, CANDIDATE, CHAMPION
        )
        assert len(found) == 1
        assert told in found[0]


def test_stricter_limits_since_the_report_refuse() -> None:
    found = gates.refusals(_pipeline(min_roc_auc=0.75), _reports(_pipeline()), CANDIDATE, CHAMPION)
    assert len(found) == 1
    assert "today's limits" in found[0]


def test_reports_of_another_candidate_or_another_champion_refuse() -> None:
    pipeline = _pipeline()
    assert len(gates.refusals(pipeline, _reports(pipeline), "d" * 64, CHAMPION)) == len(
        gates.REPORTS
    )
    for champion in ("e" * 64, None):
        found = gates.refusals(pipeline, _reports(pipeline), CANDIDATE, champion)
        assert len(found) == 1
        assert "released now" in found[0]


def test_a_report_that_does_not_name_its_champion_refuses() -> None:
    pipeline = _pipeline()
    measures = [measure for measure in GOOD[gates.PERFORMANCE] if measure.name != "champion"]
    report = Report(
        pipeline=pipeline.name, name=gates.PERFORMANCE, subject=CANDIDATE, day=DAY, measures=tuple(measures),
        verdicts=gates.verdicts(pipeline, gates.PERFORMANCE, measures),
    )  # fmt: skip
    found = gates.refusals(
        pipeline, _reports(pipeline) | {gates.PERFORMANCE: report}, CANDIDATE, CHAMPION
    )
    assert "does not say which" in found[0]


def test_verdicts_survive_storage(tmp_path) -> None:
    pipeline, store = _pipeline(), Reports(uri=str(tmp_path), url="http://localhost")
    for report in _reports(pipeline).values():
        assert report is not None
        save_report(store, report)
    stored = gates.stored(store, pipeline, DAY, CANDIDATE)
    assert gates.refusals(pipeline, stored, CANDIDATE, CHAMPION) == []


def test_an_unknown_report_has_no_gates() -> None:
    with pytest.raises(ValueError, match="validation/performance"):
        gates.verdicts(_pipeline(), "validation/luck", [])
