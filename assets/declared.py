"""Base of everything a pipeline declares."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Declared(BaseModel):
    """Frozen and strict: a mistake in a declaration fails when it is loaded, naming the field."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", arbitrary_types_allowed=True)
