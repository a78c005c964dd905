"""What a candidate must pass before its release: gates, and the groups that are looked at."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Annotated, Literal

from pydantic import Field

from declare.base import DeclarationError, Declared

Metric = Literal["log_loss", "brier", "roc_auc", "pr_auc", "calibration_error"]
FairnessGap = Literal["demographic_parity", "equal_opportunity", "equalised_odds"]


class Gates(Declared):
    """Rules over reports that a release must pass. None switches a rule off.

    Margins are in units of the metric.

    An estimate is judged by the end of its interval that speaks against the candidate: the upper
    end of an error, a loss or a gap, the lower end of `min_roc_auc`. Intervals draw whole test days
    and exist from five days on; a missing number or interval is unknown and refuses the release.

    `primary` is compared on the same test rows with the baseline and with the champion, paired. The
    candidate must not be worse than the champion by more than `champion_margin`. It must beat the
    baseline by `baseline_margin`; a negative margin lets it be that much worse.

    `max_slice_gap` bounds how much worse than overall a slice may surely be (lower end of its
    interval, since with many slices some look bad by chance). `max_missing_loss` bounds what one
    missing feature may cost, `max_outage_loss` what all features of a source that stopped
    delivering may cost together. `max_noise_shift` bounds how far small noise moves predictions.
    """

    primary: Metric = "log_loss"
    champion_margin: float = Field(default=0.01, ge=0)
    baseline_margin: float = 0.0
    max_calibration_error: float | None = Field(default=0.08, gt=0)
    min_roc_auc: float | None = Field(default=0.6, ge=0.5, le=1)
    max_slice_gap: float | None = Field(default=0.15, gt=0)
    min_slice_rows: int = Field(default=200, ge=1)
    max_fairness_gap: float | None = Field(default=0.2, gt=0)
    max_missing_loss: float | None = Field(default=0.15, gt=0)
    max_outage_loss: float | None = Field(default=0.3, gt=0)
    max_noise_shift: float | None = Field(default=0.05, gt=0)
    golden_rows: int = Field(default=50, ge=1)


class Fairness(Declared):
    """Groups between which the model must treat people alike: a column, and why it is looked at.

    `threshold` turns probabilities into the positive decision whose rates are compared. All gaps
    are reported; those in `judged` must stay below `Gates.max_fairness_gap`. Demographic parity is
    judged on request alone: equal selection rates are wrong where the groups' true rates differ for
    good reason.
    """

    column: str
    reason: str
    threshold: Annotated[float, Field(gt=0, lt=1)] = 0.5
    judged: tuple[FairnessGap, ...] = Field(default=("equal_opportunity",), min_length=1)


def check_groups(
    gates: Gates, slices: Sequence[str], fairness: Sequence[Fairness], known: Collection[str]
) -> None:
    """Refuse groups over columns that are not `known`, and gates over groups that none declares."""
    fields = (("slices", slices), ("fairness", [group.column for group in fairness]))
    for field, columns in fields:
        for column in columns:
            _check_known(field, column, known)

    _check_declared(gates, "max_slice_gap", slices, "slices")
    _check_declared(gates, "max_fairness_gap", fairness, "fairness")


def _check_known(field: str, column: str, known: Collection[str]) -> None:
    if column not in known:
        raise DeclarationError(
            field,
            column,
            f"{column!r} is neither a feature nor a request column; "
            f"known are {', '.join(sorted(known))}",
        )


def _check_declared(gates: Gates, gate: str, groups: Sequence[object], what: str) -> None:
    limit = getattr(gates, gate)
    if gate in gates.model_fields_set and limit is not None and not groups:
        raise DeclarationError(
            f"gates.{gate}",
            limit,
            f"gates.{gate}={limit} is a gate over {what}, and the pipeline declares none; "
            f"declare {what}=[...] or leave the gate out",
        )
