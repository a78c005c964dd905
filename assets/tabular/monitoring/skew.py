"""Training-serving skew: what the endpoint computed against what the lake computes.

Both for the same rows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from assets.reporting.report import Measure, Verdict
from declare.monitors import Monitors

if TYPE_CHECKING:
    import polars as pl

EXAMPLES = 5


class Skew(NamedTuple):
    """Values compared feature by feature.

    `examples` are rows (prediction, feature, online, offline) that differ.
    """

    compared: int
    unmatched: int
    different: dict[str, int]
    examples: tuple[tuple[str, str, object, object], ...]


def compare(
    online: pl.DataFrame,
    offline: pl.DataFrame,
    entity: str,
    features: dict[str, frozenset[str] | None],
) -> Skew:
    """Compare the features of predictions with those of the feature table, by the column `entity`.

    `features` maps the names to None (a number, equal as float32) or to the vocabulary (text: what
    lies outside of it is one unseen value). Rows whose entity the feature table does not know are
    counted as `unmatched`.
    """
    import polars as pl

    names = [name for name in features if name in online.columns and name in offline.columns]
    table = offline.select(
        entity, *(pl.col(name).alias(f"offline {name}") for name in names)
    ).with_columns(known=pl.lit(True))
    joined = online.select("prediction_id", entity, *names).join(
        table, on=entity, how="left", maintain_order="left"
    )
    matched = joined.filter(pl.col("known"))
    different: dict[str, int] = {}
    examples: list[tuple[str, str, object, object]] = []
    for name in names:
        unequal = _unequal(matched[name], matched[f"offline {name}"], features[name])
        different[name] = int(unequal.sum())
        shown = np.flatnonzero(unequal)[: max(EXAMPLES - len(examples), 0)].tolist()
        examples += [
            (
                str(matched["prediction_id"][row]),
                name,
                matched[name][row],
                matched[f"offline {name}"][row],
            )
            for row in shown
        ]
    return Skew(matched.height, joined.height - matched.height, different, tuple(examples))


def report(
    found: Skew, limits: Monitors
) -> tuple[tuple[Measure, ...], tuple[Verdict, ...], tuple[str, ...]]:
    """Measures, verdicts and notes. Rule: `skew`, the share of equal values."""
    n, features = found.compared, len(found.different)
    unequal = sum(found.different.values())
    share = 1 - unequal / (n * features) if n and features else None
    measures = [Measure(name="equal_share", value=share, n=n * features)]
    measures += [
        Measure(name="equal_share", value=1 - count / n if n else None, n=n, group=name)
        for name, count in found.different.items()
    ]
    measures.append(
        Measure(name="unmatched_rows", value=float(found.unmatched), n=n + found.unmatched)
    )
    notes = []
    if found.unmatched:
        notes.append(
            f"{found.unmatched} predictions are for entities that the feature table of the day "
            "does not know."
        )
    notes += [
        f"{name} of prediction {key}: {online!r} online, {offline!r} in the lake."
        for key, name, online, offline in found.examples
    ]
    if share is None:
        return (
            tuple(measures),
            (
                _verdict(
                    None, None, n, limits, "no prediction could be compared with the feature table"
                ),
            ),
            tuple(notes),
        )
    named = ", ".join(
        f"{name} ({count})"
        for name, count in sorted(found.different.items(), key=lambda item: -item[1])
        if count
    )
    reason = f"{share:.4%} of {n * features} values are equal" + (
        f"; different in {named}" if named else ""
    )
    return (
        tuple(measures),
        (_verdict(share >= limits.skew_share, share, n, limits, reason),),
        tuple(notes),
    )


def _verdict(
    passed: bool | None, share: float | None, n: int, limits: Monitors, reason: str
) -> Verdict:
    return Verdict(
        rule="skew", passed=passed, value=share, limit=limits.skew_share, n=n, reason=reason
    )


def _unequal(
    online: pl.Series, offline: pl.Series, vocabulary: frozenset[str] | None
) -> NDArray[np.bool_]:
    import polars as pl

    if vocabulary is not None:
        known = sorted(vocabulary)
        unseen = pl.lit("\0")

        def folded(series: pl.Series) -> pl.Expr:
            text = pl.lit(series.cast(pl.String))
            return (
                pl.when(text.is_null())
                .then(None)
                .when(text.is_in(known))
                .then(text)
                .otherwise(unseen)
            )

        return pl.select(different=folded(online).ne_missing(folded(offline)))[
            "different"
        ].to_numpy()
    first = online.cast(pl.Float64).fill_null(float("nan")).to_numpy().astype(np.float32)
    second = offline.cast(pl.Float64).fill_null(float("nan")).to_numpy().astype(np.float32)
    return np.asarray(~((first == second) | (np.isnan(first) & np.isnan(second))))
