"""The table of operators: for each its types, and its form in Polars, NumPy and plain Python.

This is the only place that knows operators by name. The type checker and the back-ends read the
table and know only its columns, so a new operator is one entry here.

A form computes one operator from operands that have the types the table asks for. `polars` and
`numpy` get the library as their first argument (nothing here imports it), `python` is a template
for source. What is common to many operators is left to the back-ends:

- Where an operand is null, the result is null. Forms of operators with `own_nulls` decide that
  themselves: they get values and nulls.
- Where an operator is not `always_finite`, a result that is not finite becomes null.
- `on_the_clock` operators get a moment as the clock of the program's time zone shows it, and their
  integers become floats.

Numbers are IEEE 754 doubles. `a // b` is floor(a / b) and `a % b` is a - floor(a / b) * b; Python's
own differ in the last bits. Texts compare by code point, datetimes by moment.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

Type = Literal["number", "boolean", "text", "datetime", "null"]
"""What an expression computes. "null" is that of a literal null: it stands where any type does."""

Wanted = Type | Literal["alike", "any"]
"""What an operand must be. All operands of an operator that are "alike" have one type."""


class Atom(NamedTuple):
    """A Python expression in the source of a program, and whether its value may be None."""

    text: str
    null: bool = True


@dataclass(frozen=True)
class Operator:
    """One operator. `symbol` is how messages write it, empty where they write its name.

    `fails` names the errors by which the Python form says that a result does not exist.
    `mirrored` is the comparison with its operands the other way round. `divides` says that the
    second operand is a divisor.
    """

    takes: tuple[Wanted, ...]
    gives: Type | Literal["alike"]
    polars: Callable[..., Any]
    numpy: Callable[..., Any]
    python: str | Callable[..., Atom]
    symbol: str = ""
    fails: str = ""
    mirrored: str = ""
    always_finite: bool = True
    divides: bool = False
    on_the_clock: bool = False
    own_nulls: bool = False


def unless_null(operands: Sequence[Atom], expression: str) -> str:
    """The source of an expression that is None where an operand is."""
    conditions = " or ".join(f"{operand.text} is None" for operand in operands if operand.null)
    return f"None if {conditions} else {expression}" if conditions else expression


def _arithmetic(
    symbol: str,
    polars: Callable[..., Any],
    numpy: Callable[..., Any],
    python: str,
    *,
    divides: bool = False,
) -> Operator:
    return Operator(
        takes=("number", "number"),
        gives="number",
        polars=polars,
        numpy=numpy,
        python=python,
        symbol=symbol,
        fails="(ZeroDivisionError, OverflowError, ValueError)" if divides else "",
        always_finite=False,
        divides=divides,
    )


def _function(name: str, numpy: Callable[..., Any] | None = None) -> Operator:
    """A function of one number, from the C library: NumPy's own may differ in the last bit."""
    return Operator(
        takes=("number",),
        gives="number",
        polars=lambda pl, a: getattr(a, name)(),
        numpy=numpy or (lambda np, a: _one_by_one(np, getattr(math, name), a)),
        python=name + "({a})",
        fails="(ValueError, OverflowError)",
        always_finite=False,
    )


def _comparison(symbol: str, mirrored: str, compare: Callable[[Any, Any], Any]) -> Operator:
    return Operator(
        takes=("alike", "alike"),
        gives="boolean",
        polars=lambda pl, a, b: compare(a, b),
        numpy=lambda np, a, b: np.asarray(compare(a, b), dtype=np.bool_),
        python="{a} " + symbol + " {b}",
        symbol=symbol,
        mirrored=mirrored,
    )


def _part_of_date(polars: Callable[..., Any], numpy: Callable[..., Any], python: str) -> Operator:
    return Operator(
        takes=("datetime",),
        gives="number",
        polars=polars,
        numpy=numpy,
        python=python,
        on_the_clock=True,
    )


# Forms in NumPy. A moment is a number of microseconds since 1970; with `own_nulls` an operand is a
# pair of values and a mask of its nulls, and so is the result.

SECOND, DAY = 1_000_000, 86_400_000_000


def _one_by_one(np: Any, function: Callable[[float], float], values: Any) -> Any:
    def one(value: float) -> float:
        try:
            return function(value)
        except (ValueError, OverflowError):
            return math.nan

    computed = [one(value) for value in np.atleast_1d(values).tolist()]
    return np.array(computed).reshape(np.shape(values))


def _numpy_and(np: Any, a: Any, b: Any) -> Any:
    """Three-valued: one operand that is false settles it, whatever the other is."""
    settled = (~a.values & ~a.null) | (~b.values & ~b.null)
    return ~settled, (a.null | b.null) & ~settled


def _numpy_or(np: Any, a: Any, b: Any) -> Any:
    settled = (a.values & ~a.null) | (b.values & ~b.null)
    return settled, (a.null | b.null) & ~settled


def _numpy_if_else(np: Any, condition: Any, a: Any, b: Any) -> Any:
    holds = condition.values & ~condition.null
    return np.where(holds, a.values, b.values), np.where(holds, a.null, b.null)


def _numpy_fill_null(np: Any, a: Any, b: Any) -> Any:
    return np.where(a.null, b.values, a.values), a.null & b.null


def _numpy_clip(np: Any, value: Any, low: Any, high: Any) -> Any:
    return np.where(value < low, low, np.where(value > high, high, value))


def _numpy_days(np: Any, moments: Any) -> Any:
    return (moments // DAY).view(np.dtype("datetime64[D]"))


def _numpy_day_of(np: Any, unit: str, moments: Any) -> Any:
    """Number of the day in its month or year, from 1."""
    days = _numpy_days(np, moments)
    first = days.astype(f"datetime64[{unit}]").astype("datetime64[D]")
    return (days - first).astype(np.int64) + 1


def _numpy_month(np: Any, moments: Any) -> Any:
    return _numpy_days(np, moments).astype("datetime64[M]").astype(np.int64) % 12 + 1


# Forms in Python where a template does not do: whether an operand may be None decides the source.


def _python_and(a: Atom, b: Atom) -> Atom:
    both = unless_null((a, b), "True")
    return Atom(f"False if {a.text} is False or {b.text} is False else {both}", a.null or b.null)


def _python_or(a: Atom, b: Atom) -> Atom:
    neither = unless_null((a, b), "False")
    return Atom(f"True if {a.text} is True or {b.text} is True else {neither}", a.null or b.null)


def _python_is_null(a: Atom) -> Atom:
    return Atom(f"{a.text} is None" if a.null else "False", False)


def _python_fill_null(a: Atom, b: Atom) -> Atom:
    return Atom(f"{b.text} if {a.text} is None else {a.text}", b.null) if a.null else a


def _python_if_else(condition: Atom, a: Atom, b: Atom) -> Atom:
    return Atom(f"{a.text} if {condition.text} is True else {b.text}", a.null or b.null)


def _polars_clip(pl: Any, value: Any, low: Any, high: Any) -> Any:
    # Polars takes a null bound for no bound; adding nothing times the bound makes it a null.
    return value.clip(low, high) + low * 0.0 + high * 0.0


OPERATORS: dict[str, Operator] = {
    "add": _arithmetic("+", lambda pl, a, b: a + b, lambda np, a, b: a + b, "{a} + {b}"),
    "sub": _arithmetic("-", lambda pl, a, b: a - b, lambda np, a, b: a - b, "{a} - {b}"),
    "mul": _arithmetic("*", lambda pl, a, b: a * b, lambda np, a, b: a * b, "{a} * {b}"),
    "truediv": _arithmetic(
        "/", lambda pl, a, b: a / b, lambda np, a, b: a / b, "{a} / {b}", divides=True
    ),
    "floordiv": _arithmetic(
        "//",
        polars=lambda pl, a, b: (a / b).floor(),
        numpy=lambda np, a, b: np.floor(a / b),
        python="float(floor({a} / {b}))",
        divides=True,
    ),
    "mod": _arithmetic(
        "%",
        polars=lambda pl, a, b: a % b,
        numpy=lambda np, a, b: a - np.floor(a / b) * b,
        python="{a} - floor({a} / {b}) * {b}",
        divides=True,
    ),
    "neg": Operator(
        takes=("number",),
        gives="number",
        polars=lambda pl, a: -a,
        numpy=lambda np, a: -a,
        python="-{a}",
    ),
    "abs": Operator(
        takes=("number",),
        gives="number",
        polars=lambda pl, a: a.abs(),
        numpy=lambda np, a: np.abs(a),
        python="abs({a})",
    ),
    "clip": Operator(
        takes=("number", "number", "number"),
        gives="number",
        polars=_polars_clip,
        numpy=_numpy_clip,
        python="{b} if {a} < {b} else {c} if {a} > {c} else {a}",
    ),
    "log": _function("log"),
    "log1p": _function("log1p"),
    # Every library rounds a square root correctly.
    "sqrt": _function("sqrt", numpy=lambda np, a: np.sqrt(a)),
    "sin": _function("sin"),
    "cos": _function("cos"),
    "eq": _comparison("==", "eq", lambda a, b: a == b),
    "ne": _comparison("!=", "ne", lambda a, b: a != b),
    "lt": _comparison("<", "gt", lambda a, b: a < b),
    "le": _comparison("<=", "ge", lambda a, b: a <= b),
    "gt": _comparison(">", "lt", lambda a, b: a > b),
    "ge": _comparison(">=", "le", lambda a, b: a >= b),
    "and": Operator(
        takes=("boolean", "boolean"),
        gives="boolean",
        polars=lambda pl, a, b: a & b,
        numpy=_numpy_and,
        python=_python_and,
        symbol="&",
        own_nulls=True,
    ),
    "or": Operator(
        takes=("boolean", "boolean"),
        gives="boolean",
        polars=lambda pl, a, b: a | b,
        numpy=_numpy_or,
        python=_python_or,
        symbol="|",
        own_nulls=True,
    ),
    "not": Operator(
        takes=("boolean",),
        gives="boolean",
        polars=lambda pl, a: ~a,
        numpy=lambda np, a: ~a,
        python="not {a}",
    ),
    "is_null": Operator(
        takes=("any",),
        gives="boolean",
        polars=lambda pl, a: a.is_null(),
        numpy=lambda np, a: (a.null, np.array(False)),
        python=_python_is_null,
        own_nulls=True,
    ),
    "fill_null": Operator(
        takes=("alike", "alike"),
        gives="alike",
        polars=lambda pl, a, b: a.fill_null(b),
        numpy=_numpy_fill_null,
        python=_python_fill_null,
        own_nulls=True,
    ),
    "if_else": Operator(
        takes=("boolean", "alike", "alike"),
        gives="alike",
        polars=lambda pl, condition, a, b: pl.when(condition).then(a).otherwise(b),
        numpy=_numpy_if_else,
        python=_python_if_else,
        own_nulls=True,
    ),
    "minute": _part_of_date(
        polars=lambda pl, at: at.dt.minute(),
        numpy=lambda np, at: at // (60 * SECOND) % 60,
        python="{a}.minute",
    ),
    "hour": _part_of_date(
        polars=lambda pl, at: at.dt.hour(),
        numpy=lambda np, at: at // (3600 * SECOND) % 24,
        python="{a}.hour",
    ),
    "weekday": _part_of_date(
        polars=lambda pl, at: at.dt.weekday(),
        # 1970 began on a Thursday.
        numpy=lambda np, at: (at // DAY + 3) % 7 + 1,
        python="{a}.isoweekday()",
    ),
    "day": _part_of_date(
        polars=lambda pl, at: at.dt.day(),
        numpy=lambda np, at: _numpy_day_of(np, "M", at),
        python="{a}.day",
    ),
    "month": _part_of_date(
        polars=lambda pl, at: at.dt.month(),
        numpy=_numpy_month,
        python="{a}.month",
    ),
    "day_of_year": _part_of_date(
        polars=lambda pl, at: at.dt.ordinal_day(),
        numpy=lambda np, at: _numpy_day_of(np, "Y", at),
        python="{a}.timetuple().tm_yday",
    ),
}
