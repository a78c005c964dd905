"""Expression trees as Python source: the statements that compute a tree, each node once.

Names in the source are generated, and what a tree brings (texts, time zone) is bound as an object
or written as a literal, so a tree can compute but not say anything else. A value is None, a finite
float, a bool, a text, or a UTC datetime.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

import msgspec

from bundle.features.expression import Expression, Literal, Node, Operation, mapped
from bundle.features.operators import OPERATORS, Atom, Operator, unless_null
from bundle.features.program import EARLIEST, HIGHEST, LATEST, LOWEST

# What source may name beside the objects that are bound for it.
_NAMESPACE: dict[str, Any] = {
    "EARLIEST": EARLIEST,
    "LATEST": LATEST,
    "NAN": math.nan,
    "UTC": UTC,
    "datetime": datetime,
    "floor": math.floor,
    "log": math.log,
    "log1p": math.log1p,
    "sqrt": math.sqrt,
    "sin": math.sin,
    "cos": math.cos,
}


class Statements:
    """Source that computes nodes, each once.

    `objects` are the values that the source names, `known` the places of what is computed so far.
    """

    def __init__(self, zone: ZoneInfo) -> None:
        self.lines: list[str] = []
        self.objects: dict[str, Any] = {"zone": zone}
        self.known: dict[str, Atom] = {}
        self._numbers = itertools.count()

    def name(self) -> str:
        return f"v{next(self._numbers)}"

    def bind(self, value: Any) -> str:
        """The name of an object in the source."""
        name = self.name()
        self.objects[name] = value
        return name

    def let(self, expression: str, null: bool = True) -> Atom:
        """A new variable with the value of an expression."""
        name = self.name()
        self.lines.append(f"{name} = {expression}")
        return Atom(name, null)

    def compute(self, node: Expression) -> Atom:
        """Where a node's value is."""
        if isinstance(node, Literal):
            return _literal(node.value)

        key = identity(node)
        if key not in self.known:
            if not isinstance(node, Operation):
                raise ValueError(f"{type(node).__name__} cannot be compiled here")
            operands = [self.compute(operand) for operand in node.operands]
            self.known[key] = self._operation(OPERATORS[node.operator], operands)
        return self.known[key]

    def _operation(self, operator: Operator, operands: list[Atom]) -> Atom:
        if not isinstance(operator.python, str):
            computed = operator.python(*operands)
            return computed if computed in operands else self.let(*computed)

        if operator.on_the_clock:
            operands = [self._local(operands[0])]
        texts = dict(zip("abc", (operand.text for operand in operands), strict=False))
        expression = operator.python.format(**texts)
        if operator.on_the_clock:
            expression = f"float({expression})"

        if operator.always_finite:
            null = any(operand.null for operand in operands)
            return self.let(unless_null(operands, expression), null)
        return self._attempt(expression, operands, operator.fails)

    def _local(self, moment: Atom) -> Atom:
        """A moment as the clock of the time zone shows it."""
        key = f"local {moment.text}"
        if key not in self.known:
            shown = unless_null([moment], f"{moment.text}.astimezone(zone)")
            self.known[key] = self.let(shown, moment.null)
        return self.known[key]

    def _attempt(self, expression: str, operands: Sequence[Atom], errors: str) -> Atom:
        """A number; null where an operand is, where computing fails, and where not finite."""
        name = self.name()
        self.lines.append(f"{name} = None")

        conditions = [f"{operand.text} is not None" for operand in operands if operand.null]
        indent = " " if conditions else ""
        if conditions:
            self.lines.append(f"if {' and '.join(conditions)}:")

        finite = f"{LOWEST!r} <= {name} <= {HIGHEST!r}"
        if errors:
            self.lines += [
                f"{indent}try: {name} = {expression}",
                f"{indent}except {errors}: pass",
                f"{indent}if {name} is not None and not {finite}: {name} = None",
            ]
        else:
            self.lines += [
                f"{indent}{name} = {expression}",
                f"{indent}if not {finite}: {name} = None",
            ]
        return Atom(name)

    def function(self, parameters: str, result: str) -> tuple[str, Callable[..., Any]]:
        """The statements as a function, and its source."""
        body = "\n".join(f" {line}" for line in [*self.lines, f"return {result}"])
        source = f"def computed({parameters}):\n{body}\n"

        namespace = {**_NAMESPACE, **self.objects}
        # The source is our own words, made from a checked tree.
        exec(compile(source, "<feature program>", "exec"), namespace)  # noqa: S102
        function: Callable[..., Any] = namespace["computed"]
        return source, function


def identity(node: Expression) -> str:
    """Equal for equal trees."""
    return msgspec.json.encode(node).decode()


def fold(node: Node) -> Node:
    """The tree with parts that read nothing replaced by their value."""
    folded = mapped(node, fold)
    if not isinstance(folded, Operation):
        return folded
    if not all(isinstance(operand, Literal) for operand in folded.operands):
        return folded

    # There are no literal datetimes, so the time zone is of no matter.
    statements = Statements(ZoneInfo("UTC"))
    _, function = statements.function("", statements.compute(folded).text)
    return Literal(function())


def _literal(value: bool | int | float | str | None) -> Atom:
    """A literal in the source. Numbers are floats: arithmetic is that of doubles."""
    if value is None:
        return Atom("None")
    if isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    return Atom(repr(value), False)
