"""What the rows of a request are answered, as columns, and the names of their predictions."""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from bundle.records.record import Record

if TYPE_CHECKING:
    from numpy.typing import NDArray

NUMBER_DIGITS = 12
"""Hexadecimal digits of the number at the end of an id."""

_WORD_DIGITS = 16
_json = msgspec.json.Encoder().encode


@dataclass(frozen=True)
class Answers:
    """The answers in the order of the rows.

    An id is `prefix` and a number. `ood` are the features of each row outside the training range.
    """

    prefix: str
    numbers: NDArray[np.int64]
    outputs: list[float]
    bundles: list[str]
    arms: list[str]
    ood: Sequence[tuple[str, ...]]
    online_as_of: str | None

    def __len__(self) -> int:
        return len(self.outputs)

    @cached_property
    def ids(self) -> list[str]:
        # All numbers at once take half the time of formatting each.
        digits, prefix = self.numbers.astype(">i8").tobytes().hex(), self.prefix
        ends = range(_WORD_DIGITS, len(digits) + 1, _WORD_DIGITS)
        return [prefix + digits[end - NUMBER_DIGITS : end] for end in ends]

    @staticmethod
    def of(records: Sequence[Record]) -> Answers:
        numbers = [int(record.id[-NUMBER_DIGITS:], 16) for record in records]
        return Answers(
            records[0].id[:-NUMBER_DIGITS],
            np.array(numbers, dtype=np.int64),
            [record.output for record in records],
            [record.bundle for record in records],
            [record.arm for record in records],
            [record.ood for record in records],
            records[0].online_as_of,
        )

    def json(self) -> bytes:
        """`{"predictions": [...]}`, each with id, prediction, bundle, arm, online_as_of and ood."""
        # What follows a prediction is the same for nearly all of them.
        tails = {
            key: self._tail(*key)
            for key in set(zip(self.bundles, self.arms, self.ood, strict=True))
        }

        # Ids are hexadecimal; no number holds a comma.
        outputs = _json(self.outputs)[1:-1].split(b",")
        ids = ",".join(self.ids).encode().split(b",")
        ends = map(tails.__getitem__, zip(self.bundles, self.arms, self.ood, strict=True))
        parts = zip(
            itertools.repeat(b',{"id":"'), ids, itertools.repeat(b'","prediction":'), outputs, ends
        )
        return b'{"predictions":[' + b"".join(itertools.chain.from_iterable(parts))[1:] + b"]}"

    def _tail(self, bundle: str, arm: str, ood: tuple[str, ...]) -> bytes:
        """The JSON of an answer from its bundle on."""
        parts = tuple(_json(part) for part in (bundle, arm, self.online_as_of, ood))
        return b',"bundle":%b,"arm":%b,"online_as_of":%b,"ood":%b}' % parts


class Numbering:
    """Ids of predictions of few rows: a prefix of this process, and a number."""

    def __init__(self) -> None:
        self.prefix = new_prefix()
        self.numbers = itertools.count(1)


def new_prefix() -> str:
    """80 random bits as text: whoever counts under it counts alone."""
    return secrets.token_hex(10)
