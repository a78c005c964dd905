"""What a pipeline declares about releasing."""

from __future__ import annotations

from pydantic import Field

from assets.declared import Declared


class ReleasePolicy(Declared):
    """`approvals`: how many people must approve a bundle; 0 lets the platform's own key approve what passes all gates
    (risk tiers `minimal` and `limited` only). `canary` are the shares of traffic that a new bundle passes through."""

    approvals: int = Field(default=0, ge=0, le=5)
    canary: tuple[float, ...] = (1.0,)
