"""A decision for people: the evidence and the causes as Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from assets.reporting.tables import markdown_table
from assets.retraining.decide import Decision

_DRIFTED = {True: "drifted", False: "no", None: "?"}


def causes(decision: Decision) -> str:
    """Every cause that was weighed, whether it holds, and why."""
    words = {True: "**holds**", False: "no", None: "not judged"}
    return markdown_table(
        ["cause", "holds", "reason"],
        [
            [each.cause.replace("_", " "), words[each.holds], each.reason]
            for each in decision.considered
        ],
    )


def evidence(decision: Decision) -> str:
    """What the decision read."""
    known = decision.evidence
    champion, live = known.champion, known.performance
    drift = ", ".join(
        f"{seen.day:%m-%d} {_DRIFTED[seen.drifted]} (n={seen.n})" for seen in known.drift
    )
    rows: list[list[object]] = [
        [
            "champion",
            f"{champion.bundle[:12]}, trained as of {champion.as_of}" if champion else "none",
        ],
        [
            "test log loss",
            f"{_number(champion.test_log_loss)} (n={champion.test_rows:,})" if champion else "–",
        ],
        [
            "live log loss",
            f"{_number(live.log_loss)} ({_number(live.low)} to {_number(live.high)}, n={live.n:,})"
            if live
            else "–",
        ],
        ["drift", drift or "–"],
        ["open data faults", "; ".join(known.data_faults) or "none"],
        [
            "last retrain",
            f"{known.last_retrain}, {known.unreleased} in a row released nothing"
            if known.last_retrain
            else "none",
        ],
        ["declared features", known.features[:12]],
        ["request", f"{known.request.by}: {known.request.reason}" if known.request else "none"],
    ]
    return markdown_table(["evidence", "value"], rows)


def days(decisions: Sequence[Decision]) -> str:
    """Decisions of several days, newest first."""
    rows = [
        [made.day, "retrain" if made.retrain else "keep", made.cause or "–", made.reason]
        for made in reversed(decisions)
    ]
    return markdown_table(["day", "decision", "cause", "reason"], rows)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"
