"""Refused requests: what is wrong, in which field, by which rule.

A refusal never repeats the value, which may be private or hostile.
"""

from __future__ import annotations

import re

PLAIN_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_ .-]{0,63}")


class Refusal(Exception):  # noqa: N818  it is an answer, not a fault
    """An answer other than success.

    `field` is a path such as `instances[3].hour`, or None where no single field is to blame. `rule`
    is a short code. `wait` is the number of seconds after which asking again may help.
    """

    def __init__(
        self, status: int, rule: str, error: str, field: str | None = None, *, wait: float = 1.0
    ) -> None:
        super().__init__(error)
        self.status = status
        self.rule = rule
        self.error = error
        self.field = field
        self.wait = wait


class MethodRefusal(Refusal):
    """A route was asked by a method that it does not take; `allowed` is the one that it takes."""

    def __init__(self, allowed: str) -> None:
        super().__init__(405, "method", f"This route takes {allowed}.")
        self.allowed = allowed


def shown(name: str) -> str:
    """A field's name as it may be repeated in an answer: names that are no plain names are not."""
    return name if PLAIN_NAME.fullmatch(name) else "(a name that is not plain)"


def unlogged() -> Refusal:
    """Nothing is predicted that cannot be logged."""
    return Refusal(
        503, "log", "The prediction cannot be logged now, so it is not given; try again later."
    )
