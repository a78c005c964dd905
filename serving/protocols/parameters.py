"""Parameters and ids of requests by the Open Inference Protocol, over REST and gRPC alike.

Heeded are `timeout` of a request and the flags that ask for raw bytes. What would change the
meaning of an answer is refused: an answer that ignores it would be wrong. Others, such as hints on
content types, change nothing and are ignored, as the protocol allows. Source: Triton's
protocol/extension_{binary_data,classification,parameters,sequence,shared_memory}.md.
"""

from __future__ import annotations

from collections.abc import Mapping

from serving.contract.refusal import Refusal

Parameter = bool | int | float | str

BINARY = "binary_data"
BINARY_SIZE = "binary_data_size"
BINARY_OUTPUT = "binary_data_output"
TIMEOUT = "timeout"

UNSUPPORTED = {
    "classification": "outputs are not turned into classes",
    "sequence_id": "requests are independent of each other",
    "sequence_start": "requests are independent of each other",
    "sequence_end": "requests are independent of each other",
    "shared_memory_region": "tensors travel in the message",
    "shared_memory_byte_size": "tensors travel in the message",
    "shared_memory_offset": "tensors travel in the message",
}

ID_LIMIT = 200
"""Characters of a request's own id, which the answer repeats."""

_MICROSECONDS = 1e6


def check(parameters: Mapping[str, Parameter], place: str = "") -> None:
    """Raises Refusal for a parameter that would change what the answer means."""
    for name, why in UNSUPPORTED.items():
        if parameters.get(name):
            raise Refusal(
                422,
                "parameter",
                f"The parameter {name} is not supported: {why}. Leave it out.",
                f"{place}.parameters.{name}".removeprefix("."),
            )


def check_id(given: str | None) -> None:
    """Raises Refusal for a request id that is too long to be repeated."""
    if given is not None and len(given) > ID_LIMIT:
        raise Refusal(422, "id", f"id must have up to {ID_LIMIT} characters.", "id")


def flag(parameters: Mapping[str, Parameter], name: str, default: bool, place: str = "") -> bool:
    """A parameter that is true or false. Raises Refusal."""
    value = parameters.get(name, default)
    if not isinstance(value, bool):
        field = f"{place}.parameters.{name}".removeprefix(".")
        raise Refusal(422, "boolean", f"{name} must be true or false.", field)

    return value


def seconds(parameters: Mapping[str, Parameter]) -> float | None:
    """How long the answer may take, from `timeout` in microseconds; None or 0 say nothing.

    Raises Refusal.
    """
    value = parameters.get(TIMEOUT)
    if value is None:
        return None

    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise Refusal(
            422,
            "timeout",
            "timeout must be a whole number of microseconds.",
            f"parameters.{TIMEOUT}",
        )
    return value / _MICROSECONDS or None
