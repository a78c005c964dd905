"""Evidently's own drift report of a day: the page that people look at weekly, on an alarm and on request.

It costs three to four seconds a day for two dozen features, nearly all of it for drawing, so it is not for every day, and it is drawn in
a run of its own, after the decisions of the night; the verdicts come from `assets.tabular.monitoring.drift` alone.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, NamedTuple

from assets.tabular.monitoring.drift import NumberReference, Reference, sampled_rows

if TYPE_CHECKING:
    import polars as pl

PAGE = "evidently.html"
CURRENT_ROWS = 2_000


class Rendered(NamedTuple):
    """The page, and what Evidently found: its statistic by feature, the share of drifted features and the rows compared."""

    html: bytes
    statistics: dict[str, float]
    drifted_share: float
    rows: int
    reference_rows: int


def render(
    frame: pl.DataFrame, against: Reference, psi: float, jensen_shannon: float
) -> Rendered | None:
    """Evidently's drift preset over at most 2,000 rows of a day and the reference's sample (at most 2,000 rows).

    Columns without any value on either side are left out: Evidently refuses them. None where no column is left.
    """
    # Evidently reports its use over the network unless told not to, and reads this when it is imported.
    os.environ["DO_NOT_TRACK"] = "1"
    import pandas as pd
    from evidently import DataDefinition, Dataset, Report
    from evidently.legacy.metrics import DataDriftTable
    from evidently.presets import DataDriftPreset

    current = frame[sampled_rows(frame.height).tolist()] if frame.height > CURRENT_ROWS else frame
    reference = pd.DataFrame(
        {name: pd.Series(list(known.sample)) for name, known in against.features.items()}
    )
    shown = [name for name in reference.columns if name in current.columns]
    numbers = [name for name in shown if isinstance(against.features[name], NumberReference)]
    now = pd.DataFrame({name: current[name].to_list() for name in shown})
    texts = [name for name in shown if name not in numbers]
    for frame_of in (reference, now):
        frame_of[numbers] = frame_of[numbers].astype("float64")
        frame_of[texts] = frame_of[texts].astype("object")
    shown = [name for name in shown if reference[name].notna().any() and now[name].notna().any()]
    if not shown:
        return None
    numbers = [name for name in shown if name in numbers]
    texts = [name for name in shown if name not in numbers]
    definition = DataDefinition(numerical_columns=numbers, categorical_columns=texts)
    found: dict[str, float] = {}

    class Table(DataDriftPreset):  # type: ignore[misc]
        """The preset without its metrics of single columns: it draws their plots, and then shows those of its table alone."""

        def generate_metrics(self, context: Any) -> list[Any]:
            return list(super().generate_metrics(context))[:1]

        def render(self, context: Any, child_widgets: Any = None) -> list[Any]:
            shown_widgets = super().render(context, child_widgets)
            # Asked for again, the table's numbers come from Evidently's memory.
            table, _ = context.get_legacy_metric(DataDriftTable(**methods), None, None)
            found.update(
                {name: float(column.drift_score) for name, column in table.drift_by_columns.items()}
            )
            return list(shown_widgets)

    methods = {
        "num_stattest": "psi",
        "num_stattest_threshold": psi,
        "cat_stattest": "jensenshannon",
        "cat_stattest_threshold": jensen_shannon,
    }
    preset = Table(
        num_method="psi",
        num_threshold=psi,
        cat_method="jensenshannon",
        cat_threshold=jensen_shannon,
    )
    snapshot = Report([preset]).run(
        Dataset.from_pandas(now[shown], data_definition=definition),
        Dataset.from_pandas(reference[shown], data_definition=definition),
    )
    (count,) = snapshot.dict()["metrics"]
    html = snapshot.get_html_str(as_iframe=False).encode()
    return Rendered(html, found, float(count["value"]["share"]), len(now), len(reference))
