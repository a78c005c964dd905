"""Types of expressions: text + number fails where a pipeline is declared, not while it runs.

Here are the rules for trees over any columns. What a whole program must fulfil stands in
`bundle.features.program`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from bundle.features.expression import (
    Category,
    Column,
    Expression,
    Join,
    Literal,
    Operation,
    Rolling,
)
from bundle.features.operators import OPERATORS, Type

NUMBERS = frozenset({"number", "boolean", "null"})

# What may stand where an operand of a type is wanted.
_ACCEPTED: dict[str, frozenset[str]] = {
    "number": NUMBERS,
    "boolean": frozenset({"boolean", "null"}),
    "datetime": frozenset({"datetime", "null"}),
}
# How messages name one such operand, and several.
_NAMES = {
    "number": ("a number", "numbers"),
    "boolean": (
        "a condition (write x != 0 for a number)",
        "conditions (write x != 0 for a number)",
    ),
    "datetime": ("a datetime", "datetimes"),
}
_ARTICLES: dict[Type, str] = {
    "number": "a number",
    "boolean": "a condition",
    "text": "text",
    "datetime": "a datetime",
    "null": "null",
}


class Types:
    """Types of trees over given columns.

    `looked_up` gives the type of a join or an aggregate; without it a tree may have none.
    """

    def __init__(
        self, columns: Mapping[str, Type], looked_up: Callable[[Join | Rolling], Type] | None = None
    ) -> None:
        self._columns, self._looked_up = columns, looked_up

    def of(self, node: Expression) -> Type:
        """Type of a tree. Raises ValueError naming the part that does not fit."""
        match node:
            case Literal(value=value):
                return _of_literal(value)

            case Column(name=name):
                if name not in self._columns:
                    known = ", ".join(sorted(self._columns))
                    raise ValueError(f"column {name!r} is unknown here; known are {known}")
                return self._columns[name]

            case Category(operand=operand):
                found = self.of(operand)
                if found not in ("text", "null"):
                    raise ValueError(
                        f"{show(node)} needs text; a number needs no category, "
                        f"but {show(operand)} is {article(found)}"
                    )
                return "text"

            case Join() | Rolling():
                if self._looked_up is None:
                    raise ValueError(f"{show(node)} cannot stand here")
                return self._looked_up(node)

            case Operation(operator=name):
                _, common = self._checked(node)
                gives = OPERATORS[name].gives
                return common if gives == "alike" else gives

        raise ValueError(f"unknown node {type(node).__name__}")

    def operands(self, node: Operation) -> tuple[Type, ...]:
        """The type as which each operand is computed."""
        found, common = self._checked(node)
        types: list[Type] = []
        for wanted, own in zip(OPERATORS[node.operator].takes, found, strict=True):
            if wanted == "alike":
                types.append(common)
            elif wanted == "any":
                types.append(own)
            else:
                types.append(wanted)
        return tuple(types)

    def _checked(self, node: Operation) -> tuple[list[Type], Type]:
        """Types of the operands, and the one that holds all that must be alike."""
        takes = OPERATORS[node.operator].takes
        found = [self.of(operand) for operand in node.operands]

        for operand, wanted, own in zip(node.operands, takes, found, strict=True):
            if wanted in _ACCEPTED and own not in _ACCEPTED[wanted]:
                name = _NAMES[wanted][takes.count(wanted) > 1]
                raise ValueError(
                    f"{show(node)} needs {name}, but {show(operand)} is {article(own)}"
                )

        alike = [place for place, wanted in enumerate(takes) if wanted == "alike"]
        if not alike:
            return found, "null"
        return found, _common(node, [(node.operands[place], found[place]) for place in alike])


def _common(node: Operation, operands: Sequence[tuple[Expression, Type]]) -> Type:
    (a, first), (b, second) = operands
    common = common_type(first, second)
    if common is None:
        raise ValueError(
            f"{show(node)} needs two values of one type, but {show(a)} is {article(first)} "
            f"and {show(b)} is {article(second)}"
        )
    return common


def common_type(first: Type, second: Type) -> Type | None:
    """The type that holds both, None where there is none."""
    if first == second or second == "null":
        return first
    if first == "null":
        return second
    return "number" if {first, second} <= NUMBERS else None


def article(kind: Type) -> str:
    """A type as messages name it."""
    return _ARTICLES[kind]


def show(node: Expression) -> str:
    """A tree as it would be written, for messages."""
    match node:
        case Literal(value=value):
            return repr(value)
        case Column(name=name):
            return f"col({name!r})"
        case Category(operand=operand):
            return f"category({show(operand)})"
        case Join(source=source, column=column):
            return f"join({source!r}).{column}"
        case Rolling(function=function, value=value, by=by, days=number):
            return f"{function}({show(value)}, by={by}, over=days({number}))"
        case Operation(operator=name, operands=operands):
            symbol = OPERATORS[name].symbol
            if symbol:
                return f"({show(operands[0])} {symbol} {show(operands[1])})"
            return f"{name}({', '.join(show(operand) for operand in operands)})"
    return type(node).__name__


def _of_literal(value: bool | int | float | str | None) -> Type:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    return "text" if isinstance(value, str) else "number"
