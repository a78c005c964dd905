"""In which words a pipeline is declared: `from declare import Tabular, Source, Label, col, ...`.

Everything here is a pure, frozen, strict Pydantic model, or a word that builds a feature. Nothing
here reads, computes, or knows Dagster. The checks of a declaration stand beside what they check.
"""

from bundle.features.expression import (
    category,
    col,
    count,
    days,
    deviation,
    hours,
    if_else,
    join,
    lit,
    maximum,
    mean,
    minimum,
    rate,
)
from declare.gates import Fairness, Gates
from declare.label import Label
from declare.log import LogPolicy
from declare.models import (
    HistGradientBoosting,
    LogisticRegression,
    RandomForest,
    Split,
    XGBoost,
)
from declare.monitors import Monitors
from declare.pipeline import Pipeline
from declare.release import Experiment, ReleasePolicy
from declare.retraining import RetrainingPolicy
from declare.source import Source, flag, integer, number, text, timestamp
from declare.tabular import Tabular

__all__ = [
    "Experiment",
    "Fairness",
    "Gates",
    "HistGradientBoosting",
    "Label",
    "LogPolicy",
    "LogisticRegression",
    "Monitors",
    "Pipeline",
    "RandomForest",
    "ReleasePolicy",
    "RetrainingPolicy",
    "Source",
    "Split",
    "Tabular",
    "XGBoost",
    "category",
    "col",
    "count",
    "days",
    "deviation",
    "flag",
    "hours",
    "if_else",
    "integer",
    "join",
    "lit",
    "maximum",
    "mean",
    "minimum",
    "number",
    "rate",
    "text",
    "timestamp",
]
