"""The feature program as Polars expressions over a wide frame: the back-end of batches.

The frame has the request's columns, `event_time`, and a column for each `Lookup.wide`. An
expression for a number is Float64 and holds finite values and nulls alone: columns are brought into
that form, and an operator that can leave it is followed by `_finite`. Polars is imported inside
functions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from bundle.features.checking import Types
from bundle.features.expression import (
    Category,
    Column,
    Expression,
    Join,
    Literal,
    Node,
    Operation,
    Rolling,
)
from bundle.features.operators import OPERATORS, Operator, Type
from bundle.features.program import EARLIEST, FLOAT32_MAX, LATEST, FeatureProgram, value_name
from bundle.features.statements import fold

if TYPE_CHECKING:
    import polars as pl


def compile_batch(program: FeatureProgram) -> list[pl.Expr]:
    """One expression per feature, named after it: Float64 for numbers, String for categories."""
    compiler = _Compiler(program.types(), program.timezone, program)
    return [
        compiler.feature(feature.expression).alias(feature.name) for feature in program.features
    ]


def compile_values(
    nodes: Mapping[str, Node], columns: Mapping[str, Type], timezone: str
) -> list[pl.Expr]:
    """Trees over plain columns (labels, values of aggregates), named as given.

    Conditions come out as Boolean.
    """
    compiler = _Compiler(Types(columns), timezone)
    return [compiler.value(node).alias(name) for name, node in nodes.items()]


class _Compiler:
    """Turns trees over columns of given types into expressions."""

    def __init__(self, types: Types, timezone: str, program: FeatureProgram | None = None) -> None:
        self._types, self._timezone, self._program = types, timezone, program

    def feature(self, root: Node) -> pl.Expr:
        import polars as pl

        if isinstance(root, Category):
            return _as_long_as_the_frame(self._as(fold(root.operand), "text"))
        number = _as_long_as_the_frame(self._as(fold(root), "number"))
        return pl.when(number.abs() <= FLOAT32_MAX).then(number)

    def value(self, root: Node) -> pl.Expr:
        return self._as(fold(root), self._types.of(root))

    def _as(self, node: Expression, wanted: Type) -> pl.Expr:
        """The expression of a tree as one type; a literal null takes whatever type is wanted."""
        import polars as pl

        own = self._types.of(node)
        if own == "null":
            return pl.lit(None, dtype=_dtypes()[wanted])

        expression = self._compile(node, own)
        return expression.cast(pl.Float64) if (own, wanted) == ("boolean", "number") else expression

    def _compile(self, node: Expression, own: Type) -> pl.Expr:
        import polars as pl

        match node:
            case Literal(value=value):
                return pl.lit(value, dtype=_dtypes()[own])

            case Column(name=name):
                return _leaf(pl.col(name), own)

            case Join() | Rolling():
                assert self._program is not None, "only a program looks values up"
                name = self._program.lookup(node).wide(value_name(node))
                column = _leaf(pl.col(name), own)
                counts = isinstance(node, Rolling) and node.function == "count"
                # No facts are a count of zero.
                return column.fill_null(0.0) if counts else column

            case Operation():
                return self._operation(node)

        raise ValueError(f"{type(node).__name__} cannot be compiled here")

    def _operation(self, node: Operation) -> pl.Expr:
        import polars as pl

        operator = OPERATORS[node.operator]
        operands = [
            self._as(operand, wanted)
            for operand, wanted in zip(node.operands, self._types.operands(node), strict=True)
        ]
        if operator.on_the_clock:
            [moment] = operands
            local = moment.dt.convert_time_zone(self._timezone)
            part: pl.Expr = operator.polars(pl, local)
            return part.cast(pl.Float64)

        if operator.divides:
            operands[1] = _divisor(operands[1], node.operands[1])
        if operator.mirrored:
            operator, operands = _without_leading_constant(operator, operands)

        computed: pl.Expr = operator.polars(pl, *operands)
        return computed if operator.always_finite else _finite(computed)


def _divisor(operand: pl.Expr, node: Expression) -> pl.Expr:
    """A divisor that Polars does not take for a scalar.

    It would multiply by the reciprocal, and 49 / 49 be 0.99…9.
    """
    import polars as pl

    if isinstance(node, Literal) and node.value is not None:
        return pl.int_range(pl.len()).cast(pl.Float64) * 0.0 + float(node.value)
    return operand


def _without_leading_constant(
    operator: Operator, operands: list[pl.Expr]
) -> tuple[Operator, list[pl.Expr]]:
    """The comparison with its operands the other way round where the first reads no column.

    Polars 2.1 takes a column that it knows to be constant for one row when a literal stands on its
    left.
    """
    if operands[0].meta.root_names():
        return operator, operands
    return OPERATORS[operator.mirrored], operands[::-1]


def _as_long_as_the_frame(expression: pl.Expr) -> pl.Expr:
    """An expression that reads no column would have one row alone in a select."""
    import polars as pl

    if expression.meta.root_names():
        return expression
    return pl.when(pl.int_range(pl.len()) >= 0).then(expression)


def _dtypes() -> dict[Type, pl.DataType]:
    import polars as pl

    return {
        "number": pl.Float64(),
        "boolean": pl.Boolean(),
        "text": pl.String(),
        "datetime": pl.Datetime("us", "UTC"),
        "null": pl.Boolean(),
    }


def _leaf(column: pl.Expr, own: Type) -> pl.Expr:
    """A column in the form that expressions compute with."""
    import polars as pl

    column = column.cast(_dtypes()[own])
    if own == "number":
        return _finite(column)
    if own == "datetime":
        return pl.when(column.is_between(EARLIEST, LATEST, closed="left")).then(column)
    return column


def _finite(number: pl.Expr) -> pl.Expr:
    # Not when(is_finite): that names the operand twice, and nested trees would grow exponentially.
    return number.replace([math.inf, -math.inf, math.nan], None)
