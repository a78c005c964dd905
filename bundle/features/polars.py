"""The feature program as lazy Polars expressions over a wide frame.

Every expression for a number is Float64 and holds finite values and nulls alone: columns are brought into that form at
the leaves, and an operation that can leave it is followed by `_finite`. Polars is imported inside functions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from bundle.features.checking import Type, Types, common_type, program_types
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
from bundle.features.program import FeatureProgram, value_name
from bundle.features.row import EARLIEST, FLOAT32_MAX, LATEST, fold

if TYPE_CHECKING:
    import polars as pl


# What a comparison is with its operands the other way round.
_MIRRORED = {"eq": "eq", "ne": "ne", "lt": "gt", "le": "ge", "gt": "lt", "ge": "le"}


def compile_batch(program: FeatureProgram) -> list[pl.Expr]:
    """One expression per feature, named after it: Float64 for numbers, String for categories."""
    compiler = Compiler(program_types(program), program.timezone, program)
    return [
        compiler.feature(feature.expression).alias(feature.name) for feature in program.features
    ]


def compile_values(
    nodes: Mapping[str, Node], columns: Mapping[str, Type], timezone: str
) -> list[pl.Expr]:
    """Trees over plain columns (labels, values of aggregates), named as given; conditions come out as Boolean."""
    compiler = Compiler(Types(columns), timezone)
    return [compiler.value(node).alias(name) for name, node in nodes.items()]


class Compiler:
    def __init__(self, types: Types, timezone: str, program: FeatureProgram | None = None) -> None:
        self._types, self._timezone, self._program = types, timezone, program

    def feature(self, root: Node) -> pl.Expr:
        import polars as pl

        if isinstance(root, Category):
            return self._full(self._as(fold(root.operand), "text"))
        number = self._full(self._as(fold(root), "number"))
        return pl.when(number.abs() <= FLOAT32_MAX).then(number)

    def value(self, root: Node) -> pl.Expr:
        return self._as(fold(root), self._types.of(root))

    @staticmethod
    def _full(expression: pl.Expr) -> pl.Expr:
        """As long as the frame: what reads no column, literals or columns that can only be null, would have one row alone in a select."""
        import polars as pl

        return (
            expression
            if expression.meta.root_names()
            else pl.when(pl.int_range(pl.len()) >= 0).then(expression)
        )

    def _as(self, node: Expression, wanted: Type) -> pl.Expr:
        """The expression of a tree as one type; a literal null takes whatever type is wanted."""
        import polars as pl

        found = self._types.of(node)
        if found == "null":
            return pl.lit(None, dtype=_dtypes()[wanted])
        expression = self._compile(node, found)
        return (
            expression.cast(pl.Float64) if found == "boolean" and wanted == "number" else expression
        )

    def _compile(self, node: Expression, found: Type) -> pl.Expr:
        import polars as pl

        match node:
            case Literal(value=value):
                return pl.lit(value, dtype=_dtypes()[found])
            case Column(name=name):
                return _leaf(pl.col(name), found)
            case Join() | Rolling():
                assert self._program is not None
                column = _leaf(pl.col(self._program.lookup(node).wide(value_name(node))), found)
                # No facts are a count of zero.
                return (
                    column.fill_null(0.0)
                    if isinstance(node, Rolling) and node.function == "count"
                    else column
                )
            case Operation():
                return self._operation(node, found)
        raise ValueError(f"{type(node).__name__} cannot be compiled here")

    def _operation(self, node: Operation, found: Type) -> pl.Expr:
        import polars as pl

        name, operands = node.operator, node.operands
        if name in ("add", "sub", "mul"):
            a, b = self._numbers(operands)
            return _finite({"add": a + b, "sub": a - b, "mul": a * b}[name])
        if name in ("truediv", "floordiv", "mod"):
            a, b = self._as(operands[0], "number"), self._divisor(operands[1])
            return _finite({"truediv": a / b, "floordiv": (a / b).floor(), "mod": a % b}[name])
        if name in ("neg", "abs"):
            (a,) = self._numbers(operands)
            return -a if name == "neg" else a.abs()
        if name in ("log", "log1p", "sqrt", "sin", "cos"):
            (a,) = self._numbers(operands)
            return _finite(getattr(a, name)())
        if name == "clip":
            return _clip(self._numbers(operands), operands)
        if name in _MIRRORED:
            return _compared(name, *self._alike(operands))
        if name in ("and", "or", "not"):
            conditions = [self._as(operand, "boolean") for operand in operands]
            return (
                ~conditions[0]
                if name == "not"
                else conditions[0] & conditions[1]
                if name == "and"
                else conditions[0] | conditions[1]
            )
        if name == "if_else":
            a, b = (self._as(operand, found) for operand in operands[1:])
            return pl.when(self._as(operands[0], "boolean")).then(a).otherwise(b)
        if name == "is_null":
            return self._as(operands[0], self._types.of(operands[0])).is_null()
        if name == "fill_null":
            a, b = (self._as(operand, found) for operand in operands)
            return a.fill_null(b)
        return self._date_part(name, self._as(operands[0], "datetime"))

    def _date_part(self, name: str, moment: pl.Expr) -> pl.Expr:
        import polars as pl

        local = moment.dt.convert_time_zone(self._timezone).dt
        part: pl.Expr = getattr(local, {"day_of_year": "ordinal_day"}.get(name, name))()
        return part.cast(pl.Float64)

    def _numbers(self, operands: tuple[Expression, ...]) -> list[pl.Expr]:
        return [self._as(operand, "number") for operand in operands]

    def _alike(self, operands: tuple[Expression, ...]) -> tuple[pl.Expr, pl.Expr]:
        a, b = operands
        common = common_type(self._types.of(a), self._types.of(b))
        assert common is not None, "checked when the program was made"
        return self._as(a, common), self._as(b, common)

    def _divisor(self, node: Expression) -> pl.Expr:
        """A divisor that Polars does not take for a scalar: it would multiply by the reciprocal, and 49 / 49 be 0.99…9."""
        import polars as pl

        if isinstance(node, Literal) and node.value is not None:
            return pl.int_range(pl.len()).cast(pl.Float64) * 0.0 + float(node.value)
        return self._as(node, "number")


def _dtypes() -> dict[Type, pl.DataType]:
    import polars as pl

    return {
        "number": pl.Float64(),
        "boolean": pl.Boolean(),
        "text": pl.String(),
        "datetime": pl.Datetime("us", "UTC"),
        "null": pl.Boolean(),
    }


def _leaf(column: pl.Expr, found: Type) -> pl.Expr:
    """A column in the form that expressions compute with."""
    import polars as pl

    column = column.cast(_dtypes()[found])
    if found == "number":
        return _finite(column)
    if found == "datetime":
        return pl.when(column.is_between(EARLIEST, LATEST, closed="left")).then(column)
    return column


def _finite(number: pl.Expr) -> pl.Expr:
    # Not when(is_finite): that names the operand twice, and nested trees would grow exponentially.
    return number.replace([math.inf, -math.inf, math.nan], None)


def _compared(name: str, a: pl.Expr, b: pl.Expr) -> pl.Expr:
    # Polars 2.1 takes a column that it knows to be constant for one row when a literal stands on its left.
    if not a.meta.root_names():
        name, a, b = _MIRRORED[name], b, a
    compared: pl.Expr = getattr(a, name)(b)
    return compared


def _clip(numbers: list[pl.Expr], operands: tuple[Expression, ...]) -> pl.Expr:
    value, low, high = numbers
    clipped = value.clip(low, high)
    for bound, node in zip((low, high), operands[1:], strict=True):
        # Polars takes a null bound for no bound; a null operand makes a null.
        if not (isinstance(node, Literal) and node.value is not None):
            clipped = clipped + bound * 0.0
    return clipped
