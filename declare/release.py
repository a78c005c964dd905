"""How a bundle is released: approvals, rollout, and experiments on live traffic."""

from __future__ import annotations

from collections.abc import Collection
from itertools import pairwise
from typing import Literal

from pydantic import Field, field_validator, model_validator

from declare.base import DeclarationError, Declared
from declare.log import LogPolicy
from declare.source import Source, unknown_column

Strategy = Literal["progressive", "blue_green", "all_at_once"]


class ReleasePolicy(Declared):
    """How a bundle is approved, and how it takes over from the one that serves.

    `approvals` is how many people must approve a bundle. 0 lets the platform's own key approve what
    passes all gates (risk tiers `minimal` and `limited` only).

    `strategy` is one of three. `progressive`: the bundle is scored in the shadow of the champion,
    then answers the shares `canary` of the traffic one after the other, then everything.
    `blue_green`: shadow, then everything at once. `all_at_once`: everything, unseen. The first
    bundle of a pipeline has nothing to be compared with.

    Requests are divided by a hash of the request column `split_by` (default: the entity), so that a
    caller stays on its arm. A step ends no sooner than after `bake_days` days of data and
    `shadow_requests` scored, or `minimum_requests` answered, requests.

    A step goes back when the candidate's median latency exceeds the champion's by more than the
    share `latency_margin` (and 0.2 ms), its share of failures the champion's by more than
    `error_margin`, or the PSI between both arms' outputs `prediction_shift` (retrained flight
    models moved it by 0.07 to 0.29 in 2013). It also goes back when its loss on matured labels is
    worse by `quality_margin`, with error probability `alpha` over the whole rollout however often
    it is looked at. Fewer than `minimum_labels` matured labels judge nothing. After a candidate
    went back, no other one is rolled out for `cooldown_days`.
    """

    approvals: int = Field(default=0, ge=0, le=5)
    strategy: Strategy = "progressive"
    canary: tuple[float, ...] = (0.1, 0.5)
    split_by: str | None = None
    shadow_requests: int = Field(default=200, ge=1)
    minimum_requests: int = Field(default=50, ge=1)
    bake_days: int = Field(default=1, ge=1)
    cooldown_days: int = Field(default=2, ge=0)
    latency_margin: float = Field(default=0.5, ge=0)
    error_margin: float = Field(default=0.005, ge=0, lt=1)
    prediction_shift: float = Field(default=0.5, gt=0)
    quality_margin: float = Field(default=0.02, ge=0)
    alpha: float = Field(default=0.05, gt=0, lt=0.5)
    minimum_labels: int = Field(default=100, ge=30)

    @field_validator("canary")
    @classmethod
    def _grows(cls, canary: tuple[float, ...]) -> tuple[float, ...]:
        if any(not 0 < share < 1 for share in canary) or any(
            later <= share for share, later in pairwise(canary)
        ):
            raise ValueError(
                f"canary={list(canary)} must grow from step to step, between 0 and 1; "
                "everything comes after the last one by itself"
            )
        return canary


class Experiment(Declared):
    """A comparison of several bundles on live traffic.

    `arms` maps each arm to its share: "champion", "candidate" (the newest bundle that was
    approved), or a bundle's digest. The champion must be one of them. Shares add up to 1.

    `metric` is the primary metric: a loss of each row on matured labels. The experiment stops by
    itself as soon as the interval of every difference to the champion excludes zero or lies within
    the `minimum_effect` around it, or after `days`. `alpha` is the probability that any of these
    intervals is ever wrong, however often it is looked at. An experiment promotes nothing: a
    release may rest on what it says.
    """

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    arms: dict[str, float]
    metric: Literal["log_loss", "brier"] = "log_loss"
    minimum_effect: float = Field(default=0.01, gt=0)
    alpha: float = Field(default=0.05, gt=0, lt=0.5)
    days: int = Field(default=28, ge=1)
    split_by: str | None = None

    @model_validator(mode="after")
    def _divides(self) -> Experiment:
        if "champion" not in self.arms or len(self.arms) < 2:
            raise DeclarationError(
                "arms",
                list(self.arms),
                f"arms={list(self.arms)} must name 'champion' and at least one other arm",
            )
        if (
            any(not 0 < share < 1 for share in self.arms.values())
            or abs(sum(self.arms.values()) - 1) > 1e-9
        ):
            raise DeclarationError(
                "arms",
                self.arms,
                f"the shares {list(self.arms.values())} must lie between 0 and 1 and add up to 1",
            )
        return self


def check_split(
    field: str, split_by: str | None, request: Source, columns: Collection[str], log: LogPolicy
) -> None:
    """Refuse to divide callers by what a request does not have, or what the log leaves out."""
    if split_by is None:
        return
    if split_by not in columns:
        raise DeclarationError(field, split_by, unknown_column(field, split_by, request))
    if split_by in log.omit:
        raise DeclarationError(
            field,
            split_by,
            f"{field} names {split_by!r}, which log.omit keeps out of the log; "
            "callers are counted by it, so leave it in",
        )
