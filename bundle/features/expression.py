"""Features as data: the nodes of an expression tree, and the words that build them.

A node says *what* a feature is. How it is computed stands in `operators` and in the back-ends.
Trees are immutable, serialize to canonical JSON, and never carry code.

Numbers are IEEE 754 doubles; integers and booleans are converted. A null operand makes the result
null, and so does a result that is not a finite number (0/0, overflow, the logarithm of a negative):
NaN and infinity exist nowhere in a tree, models see them as missing. Comparisons with null are
null; `&` and `|` follow three-valued (Kleene) logic.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import timedelta
from typing import Any, Literal as OneOf

import msgspec

from bundle.features.operators import OPERATORS

Scalar = bool | int | float | str | None
Aggregate = OneOf["rate", "count", "mean", "min", "max", "std"]


class Expression(
    msgspec.Struct, frozen=True, eq=False, tag_field="node", forbid_unknown_fields=True
):
    """Base of all nodes: operators build trees, nothing is computed here."""

    # `==` builds an expression; hashing by identity keeps nodes usable in sets and dictionaries.
    __hash__ = object.__hash__

    def __add__(self, other: Operand) -> Operation:
        return operation("add", self, other)

    def __radd__(self, other: Operand) -> Operation:
        return operation("add", other, self)

    def __sub__(self, other: Operand) -> Operation:
        return operation("sub", self, other)

    def __rsub__(self, other: Operand) -> Operation:
        return operation("sub", other, self)

    def __mul__(self, other: Operand) -> Operation:
        return operation("mul", self, other)

    def __rmul__(self, other: Operand) -> Operation:
        return operation("mul", other, self)

    def __truediv__(self, other: Operand) -> Operation:
        return operation("truediv", self, other)

    def __rtruediv__(self, other: Operand) -> Operation:
        return operation("truediv", other, self)

    def __floordiv__(self, other: Operand) -> Operation:
        return operation("floordiv", self, other)

    def __rfloordiv__(self, other: Operand) -> Operation:
        return operation("floordiv", other, self)

    def __mod__(self, other: Operand) -> Operation:
        return operation("mod", self, other)

    def __rmod__(self, other: Operand) -> Operation:
        return operation("mod", other, self)

    def __neg__(self) -> Operation:
        return operation("neg", self)

    def __abs__(self) -> Operation:
        return operation("abs", self)

    def __eq__(self, other: object) -> Operation:  # type: ignore[override]
        return operation("eq", self, other)  # type: ignore[arg-type]

    def __ne__(self, other: object) -> Operation:  # type: ignore[override]
        return operation("ne", self, other)  # type: ignore[arg-type]

    def __lt__(self, other: Operand) -> Operation:
        return operation("lt", self, other)

    def __le__(self, other: Operand) -> Operation:
        return operation("le", self, other)

    def __gt__(self, other: Operand) -> Operation:
        return operation("gt", self, other)

    def __ge__(self, other: Operand) -> Operation:
        return operation("ge", self, other)

    def __and__(self, other: Operand) -> Operation:
        return operation("and", self, other)

    def __or__(self, other: Operand) -> Operation:
        return operation("or", self, other)

    def __invert__(self) -> Operation:
        return operation("not", self)

    def __bool__(self) -> bool:
        raise TypeError(
            "An expression has no truth value; combine conditions with & | ~ and if_else()."
        )

    def is_null(self) -> Operation:
        return operation("is_null", self)

    def fill_null(self, value: Operand) -> Operation:
        return operation("fill_null", self, value)

    def clip(self, low: Operand, high: Operand) -> Operation:
        """`low` where the value is less, `high` where it is greater, else the value."""
        return operation("clip", self, low, high)

    def log(self) -> Operation:
        """Natural logarithm; null for values that have none."""
        return operation("log", self)

    def log1p(self) -> Operation:
        """log(1 + x), exact for small x; null for x <= -1."""
        return operation("log1p", self)

    def sqrt(self) -> Operation:
        return operation("sqrt", self)

    def sin(self) -> Operation:
        return operation("sin", self)

    def cos(self) -> Operation:
        return operation("cos", self)

    def minute(self) -> Operation:
        """Minute of the hour (0 to 59) of a datetime, in the program's timezone."""
        return operation("minute", self)

    def hour(self) -> Operation:
        """Hour of the day (0 to 23) of a datetime, in the program's timezone."""
        return operation("hour", self)

    def weekday(self) -> Operation:
        """ISO day of the week (Monday 1 to Sunday 7), in the program's timezone."""
        return operation("weekday", self)

    def day(self) -> Operation:
        return operation("day", self)

    def month(self) -> Operation:
        return operation("month", self)

    def day_of_year(self) -> Operation:
        return operation("day_of_year", self)

    def named(self, name: str) -> Feature:
        """Give the feature its name: the column of the feature table and the input of the model."""
        return Feature(name, as_node(self))


class Column(Expression, frozen=True, eq=False, tag="column"):
    """A column of the request: known when the prediction is made."""

    name: str


class Literal(Expression, frozen=True, eq=False, tag="literal"):
    value: Scalar

    def __post_init__(self) -> None:
        value = self.value
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{value} cannot stand in a feature; write None for a missing value")
        if isinstance(value, int) and not -(2**63) <= value < 2**63:
            raise ValueError(f"{value} does not fit 64 bits; write it as a float")


class Operation(Expression, frozen=True, eq=False, tag="operation"):
    operator: str
    operands: tuple[Node, ...]

    def __post_init__(self) -> None:
        operator = OPERATORS.get(self.operator)
        if operator is None:
            raise ValueError(
                f"unknown operator {self.operator!r}; known are {', '.join(sorted(OPERATORS))}"
            )
        if len(operator.takes) != len(self.operands):
            raise ValueError(
                f"operator {self.operator!r} takes {len(operator.takes)} operands, "
                f"not {len(self.operands)}"
            )


class Category(Expression, frozen=True, eq=False, tag="category"):
    """A text column as an integer code of a vocabulary learned in training; 0 for unseen texts."""

    operand: Node


class Join(Expression, frozen=True, eq=False, tag="join"):
    """The newest row of another source known when the prediction is made, found by key.

    `on` names the request columns that hold the source's keys, in the order of the keys; empty
    means the keys that the request has under the same name. Rows that were known longer than
    `within` seconds before do not count.
    """

    source: str
    column: str
    on: tuple[str, ...] = ()
    within: int | None = None


class Rolling(Expression, frozen=True, eq=False, tag="rolling"):
    """An aggregate over the facts of the last `days` days before the day of the prediction.

    A fact is a row of `source` (the label's source when empty) in the version known at the daily
    refresh; corrections that came later do not count. `by` names the columns that group facts and
    select the value for a request.
    """

    function: Aggregate
    value: Node
    by: tuple[str, ...]
    days: int
    source: str = ""


Node = Column | Literal | Operation | Category | Join | Rolling
Operand = Expression | bool | int | float | str | None


class Feature(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A named expression."""

    name: str
    expression: Node


def operation(operator: str, *operands: Operand) -> Operation:
    """Build an operation; plain values become literals."""
    return Operation(operator, tuple(as_node(operand) for operand in operands))


def as_node(operand: Operand | Feature) -> Any:
    """The node that stands for a value. Raises TypeError for values that no feature can hold."""
    if isinstance(operand, Feature):
        return operand.expression
    if isinstance(operand, Expression):
        return operand
    if operand is None or isinstance(operand, (bool, int, float, str)):
        return Literal(operand)
    raise TypeError(
        f"{operand!r} ({type(operand).__name__}) cannot stand in a feature; "
        "use a column, number, text or null"
    )


def col(name: str) -> Column:
    """A column of the request (or, in a label or an aggregate, of its source)."""
    return Column(name)


def lit(value: Scalar) -> Literal:
    return Literal(value)


def if_else(condition: Operand, then: Operand, otherwise: Operand) -> Operation:
    """`then` where the condition is true, `otherwise` where it is false or null."""
    return operation("if_else", condition, then, otherwise)


def category(column: str) -> Feature:
    """A text column of the request as a learned category."""
    return Category(Column(column)).named(column)


class JoinedSource:
    """`join("weather").temp`: columns of another source, looked up for the request."""

    def __init__(self, source: str, on: tuple[str, ...], within: timedelta | None) -> None:
        self._source, self._on = source, on
        self._within = None if within is None else int(within.total_seconds())

    def __getitem__(self, column: str) -> Join:
        return Join(self._source, column, self._on, self._within)

    def __getattr__(self, column: str) -> Join:
        if column.startswith("_"):
            raise AttributeError(column)
        return self[column]


def join(
    source: str, on: str | tuple[str, ...] = (), within: timedelta | None = None
) -> JoinedSource:
    """Look another source up by its keys: `join("airports", on="dest").lat`."""
    return JoinedSource(source, (on,) if isinstance(on, str) else tuple(on), within)


def _rolling(
    function: Aggregate, value: Operand, by: str | tuple[str, ...], over: timedelta, source: str
) -> Rolling:
    days, rest = divmod(over, timedelta(days=1))
    if rest:
        raise ValueError(
            f"over={over} is no whole number of days; "
            "rolling windows are counted in days, such as over=days(7)"
        )
    keys = (by,) if isinstance(by, str) else tuple(by)
    operand = Column(value) if isinstance(value, str) else as_node(value)
    return Rolling(function, operand, keys, days, source)


def rate(
    value: Operand, *, by: str | tuple[str, ...] = (), over: timedelta, source: str = ""
) -> Rolling:
    """Share of facts for which `value` is true: `rate("late", by="carrier", over=days(7))`."""
    return _rolling("rate", value, by, over, source)


def count(
    value: Operand, *, by: str | tuple[str, ...] = (), over: timedelta, source: str = ""
) -> Rolling:
    """Number of facts for which `value` is known."""
    return _rolling("count", value, by, over, source)


def mean(
    value: Operand, *, by: str | tuple[str, ...] = (), over: timedelta, source: str = ""
) -> Rolling:
    return _rolling("mean", value, by, over, source)


def minimum(
    value: Operand, *, by: str | tuple[str, ...] = (), over: timedelta, source: str = ""
) -> Rolling:
    return _rolling("min", value, by, over, source)


def maximum(
    value: Operand, *, by: str | tuple[str, ...] = (), over: timedelta, source: str = ""
) -> Rolling:
    return _rolling("max", value, by, over, source)


def deviation(
    value: Operand, *, by: str | tuple[str, ...] = (), over: timedelta, source: str = ""
) -> Rolling:
    """Standard deviation (n - 1); null for fewer than two facts."""
    return _rolling("std", value, by, over, source)


def mapped(node: Node, change: Callable[[Node], Node]) -> Node:
    """The node with its direct operands changed."""
    match node:
        case Operation(operator=operator, operands=operands):
            return Operation(operator, tuple(change(operand) for operand in operands))
        case Category(operand=operand):
            return Category(change(operand))
        case _:
            return node


def walk(node: Expression) -> list[Expression]:
    """The node and all nodes below it, parents first.

    What a rolling aggregate reads of its facts is not entered.
    """
    nodes = [node]
    match node:
        case Operation(operands=operands):
            for operand in operands:
                nodes += walk(operand)
        case Category(operand=operand):
            nodes += walk(operand)
    return nodes


def natural_name(node: Expression) -> str | None:
    """The name of a feature that needs none given: a column, category, lookup or aggregate."""
    match node:
        case Column(name=name) | Category(operand=Column(name=name)):
            return name
        case Join(source=source, column=column):
            return f"{source}_{column}"
        case Rolling(function=function, value=Column(name=value), by=by, days=days):
            return f"{value}_{function}" + (f"_by_{'_'.join(by)}" if by else "") + f"_{days}d"
        case _:
            return None


def days(number: int) -> timedelta:
    return timedelta(days=number)


def hours(number: float) -> timedelta:
    return timedelta(hours=number)
