"""What the log holds: a prediction, and what a bundle on trial made of the same request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

import msgspec

Value = bool | int | float | str | None

ANYONE = "anyone"
"""The caller of an endpoint that asks for no keys."""


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """One prediction.

    `day` is the event's local day in the program's time zone (first in the line: readers filter by
    it unparsed), `at` the wall time of the answer, `caller` the id of the key or the subject of the
    token that asked. `row` is the model's input as used (codes for categories, null for missing),
    `output` the probability, `online_as_of` the day of the online snapshot, `latency_us` the time
    from decoding to logging, `ood` the features outside the range of the training set. Columns
    that the pipeline keeps out of its log are not in `request`, and the features that read them are
    null in `row`.
    """

    day: str
    id: str
    at: datetime
    event_time: datetime
    pipeline: str
    bundle: str
    arm: str
    caller: str = ANYONE
    entity: Value
    request: Mapping[str, Value | datetime]
    row: Sequence[float | None]
    output: float
    online_as_of: str | None
    latency_us: int
    ood: tuple[str, ...] = ()


class Stored(Record, frozen=True, kw_only=True):
    """A record as read back: datetimes of the request are ISO 8601 text."""

    request: dict[str, Value]
    row: tuple[float | None, ...]


NO_PROBABILITY = "no probability"
"""The failure of a trial whose output is none; other failures are names of exceptions."""


class Trial(msgspec.Struct, frozen=True, kw_only=True):
    """What a bundle on trial made of a request that the champion answered, under that answer's id.

    `arm` is "shadow", or the name of the challenger that failed to answer. `output` is null where
    the bundle gave no probability, and `failure` says why. `latency_us` is the time of its
    computation alone, `champion_us` that of the champion's for the same row at the same place (null
    where it was not timed).
    """

    day: str
    id: str
    at: datetime
    event_time: datetime
    pipeline: str
    bundle: str
    arm: str
    entity: Value
    output: float | None
    latency_us: int
    champion: str
    champion_output: float
    champion_us: int | None = None
    failure: str | None = None
