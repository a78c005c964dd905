"""Numbers and tables as text, the same on pages, in the Dagster UI and in the terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence

from assets.reporting.report import Verdict


def number(value: float | None, digits: int = 4, sign: bool = False) -> str:
    """A number for people; an en dash where there is none."""
    if value is None or not math.isfinite(value):
        return "–"

    plus = "+" if sign else ""
    if digits >= 4 and value == int(value):
        return f"{value:{plus},.0f}"  # a count, or nothing at all

    # Four digits tell small numbers apart: one that is not zero must not look like zero.
    if value and digits >= 4 and abs(value) < 0.5 * 10.0**-digits:
        return f"{value:{plus}.1e}"
    return f"{value:{plus}.{digits}f}"


def estimate(
    value: float | None, low: float | None, high: float | None, digits: int = 4, sign: bool = False
) -> str:
    """An estimate with its interval: `0.4512 (0.4467 to 0.4558)`."""
    middle = number(value, digits, sign)
    if low is None or high is None or not (math.isfinite(low) and math.isfinite(high)):
        return middle
    return f"{middle} ({number(low, digits, sign)} to {number(high, digits, sign)})"


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table; floats have four significant digits."""
    lines = [list(header), ["---"] * len(header), *(list(map(_cell, row)) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def verdict_table(verdicts: Sequence[Verdict]) -> str:
    """Verdicts as a Markdown table: rule, number, limit, n and reason."""
    rows = [
        [v.rule, verdict_word(v), number(v.value), number(v.limit), f"{v.n:,}", v.reason]
        for v in verdicts
    ]
    return markdown_table(["rule", "verdict", "number", "limit", "n", "reason"], rows)


def verdict_word(verdict: Verdict) -> str:
    """What a verdict says, in Markdown."""
    return {True: "passed", False: "**failed**", None: "not judged"}[verdict.passed]


def _cell(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
