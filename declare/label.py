"""The label: what a tabular pipeline predicts."""

from __future__ import annotations

from datetime import timedelta

from pydantic import Field

from bundle.features.expression import Column, Expression, Join, Rolling, walk
from declare.base import DeclarationError, Declared
from declare.source import Source, unknown_column


class Label(Declared):
    """What is predicted: a condition over the rows of one source. Null where the condition is null.

    A label counts only once it is mature: `matures_after` has passed since its event, and its row's
    `known_at` lies in the past of the moment it is used for. Outcomes that are told early for some
    rows and late for others (a loan that defaults, say) need a `matures_after` by which nearly all
    are told; where outcomes come all at once, zero is right.
    """

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    condition: Expression
    source: str
    matures_after: timedelta = timedelta(0)

    def __init__(self, name: str, condition: Expression, **fields: object) -> None:
        super().__init__(name=name, condition=condition, **fields)


def check_label(label: Label, source: Source) -> None:
    """Refuse a label that reads anything but columns of its own source."""
    for node in walk(label.condition):
        if isinstance(node, (Join, Rolling)):
            word = type(node).__name__.lower()
            raise DeclarationError(
                "label.condition",
                word,
                f"label {label.name!r} uses {word}; a label reads columns of its own source alone",
            )
        if isinstance(node, Column) and node.name not in source.columns:
            raise DeclarationError(
                "label.condition",
                node.name,
                unknown_column(f"label {label.name!r}", node.name, source),
            )
