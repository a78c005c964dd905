"""The validations that need the candidate's evidence alone, by the report that they make."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from assets.tabular.validation import gates
from assets.tabular.validation.evidence import Evidence
from assets.tabular.validation.pages.examined import Examined
from assets.tabular.validation.pages.explainability import explainability
from assets.tabular.validation.pages.fairness import fairness
from assets.tabular.validation.pages.robustness import robustness
from assets.tabular.validation.pages.slices import slices

ALONE: Mapping[str, Callable[[Evidence], Examined]] = {
    gates.SLICES: slices,
    gates.FAIRNESS: fairness,
    gates.EXPLAINABILITY: explainability,
    gates.ROBUSTNESS: robustness,
}
