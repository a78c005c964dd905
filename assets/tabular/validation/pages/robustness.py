"""The page of the robustness report: missing, noisy, unseen and extreme inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from assets.reporting.page import Image, Section, Table
from assets.reporting.tables import estimate, number
from assets.tabular.validation import gates
from assets.tabular.validation.evidence import Evidence
from assets.tabular.validation.examinations import robustness as examination
from assets.tabular.validation.examinations.robustness import Effect, Robustness
from assets.tabular.validation.pages import figures
from assets.tabular.validation.pages.examined import Examined, drawn, report_of, with_page
from declare.gates import Gates


def robustness(evidence: Evidence) -> Examined:
    """Missing, noisy, unseen and extreme inputs."""
    limits, program = evidence.pipeline.gates, evidence.program
    sources = gates.feature_sources(evidence.pipeline)
    found = examination.robustness(
        evidence.model.predict,
        evidence.matrix,
        evidence.y,
        evidence.days,
        program.names,
        program.categorical,
        sources,
        limits.primary,
    )
    measures = examination.measures(found)
    report = report_of(evidence, gates.ROBUSTNESS, measures, _notes(found, sources))

    plots = _plots(found, limits)
    facts = [
        ("Rows perturbed", f"{found.n:,} of {found.of:,}"),
        ("Perturbations", str(len(found.effects))),
        (figures.TITLES[found.loss], number(found.baseline_loss)),
    ]
    lead = "What happens when inputs are missing, noisy, unknown or absurd?"
    sections = _sections(found, plots)
    return with_page(evidence, report, "Robustness", lead, facts, sections, plots)


def _notes(found: Robustness, sources: Mapping[str, Sequence[str]]) -> list[str]:
    groups = [f"{source}: {', '.join(names)}" for source, names in sources.items()]
    return [
        f"Measured on a seeded sample of {found.n:,} of {found.of:,} test rows; "
        f"loss is {figures.TITLES[found.loss].lower()}.",
        f"Noise is Gaussian with a standard deviation of {examination.NOISE_SD:g} of the "
        f"feature's own; extreme is ±{examination.EXTREME:.0e}, by turns.",
        f"Source groups: {'; '.join(groups) or 'no feature reads another source'}.",
    ]


def _of(found: Robustness, *kinds: str) -> list[Effect]:
    return [effect for effect in found.effects if effect.kind in kinds]


def _plots(found: Robustness, limits: Gates) -> dict[str, bytes]:
    missing, lost = _of(found, "missing", "unseen category"), _of(found, "missing source")
    drawings = {
        "missing and unseen": figures.effects(
            missing, "Missing and unseen inputs", "loss increase", limits.max_missing_loss
        ),
        "noise": figures.effects(
            _of(found, "noise"),
            "Noise",
            "mean change of the prediction",
            limits.max_noise_shift,
            shift=True,
        ),
    }
    if lost:
        drawings["lost sources"] = figures.effects(
            lost, "Lost sources", "loss increase", limits.max_outage_loss
        )
    return drawn(drawings)


def _sections(found: Robustness, plots: Mapping[str, bytes]) -> list[Section]:
    increase = "Loss increase with 95 % intervals; dashed is the limit."
    sections = [
        Section(
            "Missing and unseen",
            "Each feature missing in turn, each category never seen before.",
            [Image(plots["missing and unseen"], increase, 760)],
            [_table(_of(found, "missing", "unseen category"))],
        )
    ]
    if "lost sources" in plots:
        text = (
            "All features of a source missing together: the source stopped delivering, "
            "and what the endpoint knew of it is too old."
        )
        image = Image(plots["lost sources"], increase, 760)
        table = _table(_of(found, "missing source"))
        sections.append(Section("Lost sources", text, [image], [table]))

    caption = "Mean change of the prediction; dashed is the limit for all features together."
    noise, extreme = _table(_of(found, "noise")), _table(_of(found, "extreme"))
    return [
        *sections,
        Section(
            "Noise",
            "Sensors drift and clocks round: how far do predictions move?",
            [Image(plots["noise"], caption, 760)],
            [noise],
        ),
        Section("Extreme values", "Absurd numbers must still give probabilities.", (), [extreme]),
    ]


def _table(effects: Sequence[Effect]) -> Table:
    ordered = sorted(effects, key=lambda effect: (-effect.loss_increase, effect.group))
    rows = [
        [
            effect.group,
            estimate(effect.loss_increase, *effect.loss_interval, sign=True),
            estimate(effect.shift, *effect.shift_interval),
            f"{effect.n:,}",
        ]
        for effect in ordered
    ]
    return Table(["perturbation", "loss increase", "mean change of prediction", "n"], rows)
