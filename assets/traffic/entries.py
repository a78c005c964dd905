"""What ledger entries say: one struct for each kind, decoded and encoded here and nowhere else.

The ledger (`resources.ledger`) stores, chains, signs and verifies entries; it does not know what
their payloads mean. This module gives each payload its type. What follows from the entries of a
pipeline (who approved, what serves, where a rollout stands) belongs to the modules beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime
from functools import cache
from typing import TYPE_CHECKING, ClassVar, Literal, TypeVar

import msgspec

from resources.ledger import Kind, LedgerError

if TYPE_CHECKING:
    from resources.ledger import Entry, Json, Ledger

Arms = tuple[tuple[str, float], ...]
"""(bundle digest, share of the traffic), champion first."""

NOT_APPENDED = datetime.min.replace(tzinfo=UTC)


class EntryError(LedgerError):
    """A ledger entry is signed, but this release cannot read it. Nothing is changed on its word."""

    def __init__(self, serial: int, kind: str, field: str, value: object, problem: str) -> None:
        super().__init__(
            f"ledger entry {serial} ({kind}): {field}={value!r} {problem}; a newer release may "
            "have written it: run that release, or restore the ledger from a backup"
        )
        self.serial, self.kind, self.field, self.value = serial, kind, field, value
        self.problem = problem


class TypedEntry(msgspec.Struct, frozen=True, kw_only=True):
    """What all entries have. `day` is the data day that the entry speaks of.

    `serial`, `moment` (UTC) and `digest` come from the ledger. A draft that is not appended yet has
    serial 0.
    """

    kind: ClassVar[Kind]

    pipeline: str
    day: date
    actor: str
    bundle: str | None
    serial: int = 0
    moment: datetime = NOT_APPENDED
    digest: str = ""


class _Verdict(TypedEntry, frozen=True, kw_only=True):
    """A decision over a bundle on exactly this evidence (report name to report digest)."""

    bundle: str
    candidate: str
    evidence: dict[str, str]
    reason: str


class Approval(_Verdict, frozen=True, kw_only=True):
    """A person, or the policy, approves a bundle."""

    kind: ClassVar[Kind] = "approval"


class Rejection(_Verdict, frozen=True, kw_only=True):
    """A person rejects a bundle; earlier approvals of its candidate are void."""

    kind: ClassVar[Kind] = "rejection"


class RolloutStep(TypedEntry, frozen=True, kw_only=True):
    """A bundle enters the shadow, or answers a share of the traffic from `day` on.

    The first step names the gates that passed, the rules that nothing could be said of and the run.
    Later steps name the first one (`first_step`), the report that they rest on, and why.
    """

    kind: ClassVar[Kind] = "rollout"

    bundle: str
    candidate: str
    evidence: dict[str, str]
    stage: Literal["shadow", "canary"]
    share: float
    champion: str
    arms: Arms
    shadows: tuple[str, ...] = ()
    key: str = ""
    salt: str = ""
    gates: tuple[str, ...] | None = None
    unjudged: tuple[str, ...] | None = None
    dagster_run: str | None = None
    first_step: int | None = msgspec.field(default=None, name="rollout")
    report: str | None = None
    reason: str | None = None


class Release(TypedEntry, frozen=True, kw_only=True):
    """A bundle gets all traffic and is the champion.

    `first_step` and `report` are given where a rollout ends so, `gates`, `unjudged` and
    `dagster_run` where the bundle takes over at once.
    """

    kind: ClassVar[Kind] = "release"

    bundle: str
    candidate: str
    evidence: dict[str, str]
    gates: tuple[str, ...] | None = None
    unjudged: tuple[str, ...] | None = None
    dagster_run: str | None = None
    first_step: int | None = msgspec.field(default=None, name="rollout")
    report: str | None = None
    reason: str | None = None


class Rollback(TypedEntry, frozen=True, kw_only=True):
    """All traffic goes back to `bundle`, away from `left`."""

    kind: ClassVar[Kind] = "rollback"

    bundle: str
    candidate: str | None = None
    left: str = msgspec.field(name="from")
    left_candidate: str | None = msgspec.field(default=None, name="from_candidate")
    reason: str
    first_step: int | None = msgspec.field(default=None, name="rollout")
    report: str | None = None


class Confirmation(TypedEntry, frozen=True, kw_only=True):
    """The endpoint was seen to serve what entry `decision` asks for, and predicted golden rows."""

    kind: ClassVar[Kind] = "traffic"

    bundle: str
    decision: int
    arms: Arms
    shadows: tuple[str, ...] = ()
    golden_rows: int
    golden_difference: float


class ExperimentStart(TypedEntry, frozen=True, kw_only=True):
    """An experiment gets its traffic. `names` are those of `arms`, champion first."""

    kind: ClassVar[Kind] = "experiment"

    bundle: str
    name: str
    stage: Literal["running"] = "running"
    names: tuple[str, ...]
    arms: Arms
    key: str = ""
    salt: str = ""
    reason: str


class ExperimentStop(TypedEntry, frozen=True, kw_only=True):
    """An experiment ends, and the champion gets all traffic back."""

    kind: ClassVar[Kind] = "experiment"

    bundle: str
    name: str
    stage: Literal["stopped"] = "stopped"
    arms: Arms
    reason: str
    report: str | None = None


class RetrainRequest(TypedEntry, frozen=True, kw_only=True):
    """A person asks for a retrain."""

    kind: ClassVar[Kind] = "retrain_request"

    bundle: None = None
    reason: str


Move = RolloutStep | Release | Rollback | ExperimentStart | ExperimentStop
"""Entries that say what is to be served. The newest one holds."""

LedgerEntry = Approval | Rejection | Move | Confirmation | RetrainRequest

_ONE_STRUCT: dict[str, type[LedgerEntry]] = {
    struct.kind: struct
    for struct in (
        Approval,
        Rejection,
        RolloutStep,
        Release,
        Rollback,
        Confirmation,
        RetrainRequest,
    )
}
_EXPERIMENTS: dict[object, type[LedgerEntry]] = {
    "running": ExperimentStart,
    "stopped": ExperimentStop,
}
_ENVELOPE = frozenset(TypedEntry.__struct_fields__)

Draft = TypeVar("Draft", bound=LedgerEntry)


def entries(ledger: Ledger, pipeline: str | None = None) -> list[LedgerEntry]:
    """The entries of one pipeline, or of all, in order.

    Raises LedgerError for a ledger that was altered, EntryError for an entry that cannot be read.
    """
    return [decode(raw) for raw in ledger.entries(pipeline)]


def record(
    ledger: Ledger,
    draft: Draft,
    unless: Callable[[Sequence[LedgerEntry]], LedgerEntry | None] | None = None,
) -> LedgerEntry:
    """Append a draft and return the entry.

    `unless` sees the pipeline's entries under the ledger's write lock. Where it returns one,
    nothing is appended and that one is returned; where it raises, nothing is appended.
    """

    def guard(raw: Sequence[Entry]) -> Entry | None:
        assert unless is not None
        known = unless([decode(each) for each in raw])

        return None if known is None else next(e for e in raw if e.serial == known.serial)

    appended = ledger.append(
        draft.pipeline,
        draft.kind,
        bundle=draft.bundle,
        day=draft.day,
        actor=draft.actor,
        payload=payload(draft),
        unless=None if unless is None else guard,
    )
    return decode(appended)


def payload(entry: LedgerEntry) -> dict[str, Json]:
    """What an entry says beside the fields that all entries have, as the ledger stores it."""
    found: dict[str, Json] = {}
    for field in _fields(type(entry)).values():
        value = getattr(entry, field.name)
        if field.name not in _ENVELOPE and value is not None:
            found[field.encode_name] = msgspec.to_builtins(value)

    return found


def document(entry: LedgerEntry) -> dict[str, Json]:
    """An entry as a JSON document, as commands print it."""
    return {
        "serial": entry.serial,
        "pipeline": entry.pipeline,
        "kind": entry.kind,
        "bundle": entry.bundle,
        "actor": entry.actor,
        "day": entry.day.isoformat(),
        "moment": entry.moment.isoformat(timespec="microseconds"),
        "payload": payload(entry),
        "digest": entry.digest,
    }


def decode(raw: Entry) -> LedgerEntry:
    """The typed form of a stored entry. Raises EntryError, naming the serial and the field."""
    struct = _struct_of(raw)
    fields = _fields(struct)
    values: dict[str, object] = {
        "serial": raw.serial,
        "pipeline": raw.pipeline,
        "day": raw.day,
        "actor": raw.actor,
        "bundle": _convert(raw, "bundle", raw.bundle, fields["bundle"].type),
        "moment": raw.moment,
        "digest": raw.digest,
    }

    for name, value in raw.payload.items():
        if name in _ENVELOPE or name not in fields:
            raise EntryError(raw.serial, raw.kind, name, value, "is no field of such an entry")
        values[fields[name].name] = _convert(raw, name, value, fields[name].type)

    for name, field in fields.items():
        if field.required and field.name not in values:
            raise EntryError(raw.serial, raw.kind, name, None, "is missing")

    # Each value was converted to the type of its field.
    return struct(**values)  # type: ignore[arg-type]


@cache
def _fields(struct: type[LedgerEntry]) -> dict[str, msgspec.structs.FieldInfo]:
    """The fields of a struct by the name that they have in a payload."""
    return {field.encode_name: field for field in msgspec.structs.fields(struct)}


def _struct_of(raw: Entry) -> type[LedgerEntry]:
    if raw.kind == "experiment":
        stage = raw.payload.get("stage")
        struct = _EXPERIMENTS.get(stage) if isinstance(stage, str) else None
        if struct is None:
            known = " or ".join(map(repr, _EXPERIMENTS))
            raise EntryError(raw.serial, raw.kind, "stage", stage, f"must be {known}")
        return struct

    if raw.kind not in _ONE_STRUCT:
        raise EntryError(raw.serial, raw.kind, "kind", raw.kind, "is no kind of entry")
    return _ONE_STRUCT[raw.kind]


def _convert(raw: Entry, name: str, value: object, wanted: object) -> object:
    try:
        return msgspec.convert(value, wanted)
    except msgspec.ValidationError as error:
        raise EntryError(raw.serial, raw.kind, name, value, f"is wrong: {error}") from error
