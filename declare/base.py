"""The base of every declaration, and what a mistake in one says. Nothing here knows a subject."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails, InitErrorDetails, PydanticCustomError


class DeclarationError(ValueError):
    """A mistake in a declaration:

    the field (dotted), the value found there, and what would be right.
    """

    def __init__(self, field: str, value: object, text: str) -> None:
        super().__init__(text)
        self.field, self.value = field, value


class Declared(BaseModel):
    """Frozen and strict: a mistake in a declaration fails when it is loaded. Lists become tuples.

    The ValidationError names what was declared and in which file and line, and for each mistake the
    field, the value and what would be right.
    """

    model_config = ConfigDict(
        frozen=True, strict=True, extra="forbid", arbitrary_types_allowed=True
    )

    def __init__(self, **fields: object) -> None:
        frozen = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in fields.items()
        }
        try:
            super().__init__(**frozen)
        except ValidationError as error:
            name = fields.get("name")
            what = type(self).__name__ + (f" {name!r}" if isinstance(name, str) else "")
            raise located(
                error, f"{what} ({_declared_at()})", sorted(type(self).model_fields)
            ) from None


def check_unique(field: str, what: str, names: Sequence[str]) -> None:
    """Refuse names that are declared twice."""
    for name in names:
        if names.count(name) > 1:
            raise DeclarationError(
                field,
                name,
                f"{what} {name!r} is declared {names.count(name)} times; names must differ",
            )


def located(error: ValidationError, title: str, fields: list[str]) -> ValidationError:
    """The same mistakes under a title that says where they are, each at its field."""
    return ValidationError.from_exception_data(
        title, [_detail(one, fields) for one in error.errors(include_url=False)]
    )


def _detail(one: ErrorDetails, fields: list[str]) -> InitErrorDetails:
    place, value, text = tuple(one["loc"]), one["input"], one["msg"]
    cause = (one.get("ctx") or {}).get("error")
    if isinstance(cause, DeclarationError):
        place, value, text = (*place, *cause.field.split(".")), cause.value, str(cause)
    elif isinstance(cause, ValueError):
        text = str(cause)
    elif one["type"] == "extra_forbidden":
        text = f"there is no field {str(place[-1])!r}; fields are {', '.join(fields)}"
    elif one["type"] == "missing":
        text, value = "the field is required", None
    # The text goes in as context: it may hold braces, which a template would interpret.
    return InitErrorDetails(
        type=PydanticCustomError("declaration", "{text}", {"text": text}), loc=place, input=value
    )


def _declared_at() -> str:
    """File and line of the declaration: the first caller outside this package and Pydantic."""
    frame = sys._getframe(1)
    while frame.f_back is not None and (
        "/pydantic/" in frame.f_code.co_filename
        or frame.f_code.co_name == "__init__"
        or frame.f_globals.get("__name__", "").startswith("declare.")
    ):
        frame = frame.f_back
    file = Path(frame.f_code.co_filename)
    if file.is_relative_to(Path.cwd()):
        file = file.relative_to(Path.cwd())
    return f"{file}:{frame.f_lineno}"
