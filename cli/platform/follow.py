"""What the lifecycle is doing, in plain lines: landed, trained, released, drift seen, retrained."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from resources.settings import Settings

if TYPE_CHECKING:
    import dagster as dg
    from rich.console import Console
    from rich.progress import Progress, TaskID

    from resources.ledger import Entry
    from sensors.event_log import Event, Work


Group = tuple[str, tuple[str, ...]]


class Follower:
    """Reads the event log and the ledger from the moment it was made, and tells what is new."""

    def __init__(self, instance: dg.DagsterInstance, settings: Settings) -> None:
        from resources.keys import Keys
        from resources.ledger import Ledger
        from sensors.event_log import Reader

        self._instance = instance
        self._ledger = Ledger(
            path=str(settings.ledger_path), signer=Keys(path=str(settings.keys_path))
        )
        self._reader = Reader(instance)
        self._open: dict[Group, list[Event]] = {}
        entries = self._ledger.entries()
        self._entry = entries[-1].serial if entries else 0

    def lines(self) -> list[str]:
        """New lines. Partitions of one asset in one run come one by one: they are told as one line once no more come."""
        happened = self._reader.read()
        grown = {_group(event) for event in happened if event.kind == "materialization"}
        for event in happened:
            if event.kind == "materialization":
                self._open.setdefault(_group(event), []).append(event)
        complete = [
            event
            for group in list(self._open)
            if group not in grown
            for event in self._open.pop(group)
        ]
        entries = [entry for entry in self._ledger.entries() if entry.serial > self._entry]
        if entries:
            self._entry = entries[-1].serial
        others = [event for event in happened if event.kind != "materialization"]
        return [*told([*complete, *others]), *(entry_line(entry) for entry in entries)]

    def works(self) -> list[Work]:
        from sensors.event_log import works

        return works(self._instance)

    @contextmanager
    def bars(self, screen: Console) -> Iterator[Bars]:
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            SpinnerColumn,
            TextColumn,
            TimeElapsedColumn,
        )

        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
        )
        with Progress(
            *columns, console=screen, transient=True, disable=not screen.is_terminal
        ) as progress:
            yield Bars(progress)


class Bars:
    """One progress bar for each run under way: steps done of all."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._tasks: dict[str, TaskID] = {}

    def show(self, works: Sequence[Work]) -> None:
        shown = {work.run_id for work in works}
        for gone in [run for run in self._tasks if run not in shown]:
            self._progress.remove_task(self._tasks.pop(gone))
        for work in works:
            if work.run_id not in self._tasks:
                self._tasks[work.run_id] = self._progress.add_task(
                    _title(work), total=work.steps or None
                )
            self._progress.update(
                self._tasks[work.run_id], description=_title(work), completed=work.finished
            )


def _title(work: Work) -> str:
    first, last = (
        work.tags.get(f"dagster/asset_partition_range_{end}") for end in ("start", "end")
    )
    days = "" if not first else f" {first}" if first == last else f" {first} to {last}"
    return f"{work.job}{days} ({work.status.lower()})"


def _group(event: Event) -> Group:
    """What is told together: an asset in a run, the sources of raw data as one."""
    return event.run_id, event.asset if event.asset[1:2] != ("raw",) else event.asset[:2]


def told(events: Sequence[Event]) -> list[str]:
    """Plain lines for events. Partitions of one asset in one run are one line; what an operator need not know is left out."""
    lines: list[str] = []
    grouped: dict[Group, list[Event]] = {}
    for event in events:
        if event.kind == "materialization":
            grouped.setdefault(_group(event), []).append(event)
    for (_, asset), made in grouped.items():
        line = _made(asset, made)
        if line:
            lines.append(line)
    for event in events:
        if event.kind == "check" and event.passed is False:
            lines.append(check_line(event))
        elif event.kind == "run_failure":
            lines.append(f"{event.name}: run {event.run_id[:8]} failed{_first_line(event.text)}")
    return lines


def check_line(event: Event) -> str:
    """A failed check as a line: what kind of check it is, which one, and what it says."""
    word = "check failed"
    if "drift" in event.asset[-1]:
        word = "drift seen"
    elif "validation" in event.asset:
        word = "gate failed"
    check = f"{'/'.join(event.asset[1:])}: {event.name}"
    return f"{event.asset[0]}: {word}: {check}{_first_line(event.text)}"


def _made(asset: tuple[str, ...], made: Sequence[Event]) -> str | None:
    days = sorted({event.partition for event in made if event.partition})
    span = (
        f"{days[0]} to {days[-1]} ({len(days)} days)" if len(days) > 1 else days[0] if days else ""
    )
    newest = made[-1].metadata
    match asset[1:]:
        case ("raw",):
            sources = sorted({event.asset[-1] for event in made})
            return f"{asset[0]}: landed {span}: {', '.join(sources)}".replace(" :", ":")
        case ("candidate",):
            loss = newest.get("test_log_loss")
            shown = f", log loss {loss:.4f} on its test days" if isinstance(loss, float) else ""
            return f"{asset[0]}: trained candidate {str(newest.get('digest'))[:12]} as of {newest.get('as_of')}{shown}"
        case ("retraining_decision",):
            asked = [event for event in made if event.metadata.get("retrain") is True]
            return (
                f"{asset[0]}: decided to retrain ({asked[-1].metadata.get('decision')})"
                if asked
                else None
            )
        case ("features",) | ("bundle",) | ("training_set",):
            return f"{asset[0]}: {asset[-1].replace('_', ' ')} {span}".rstrip()
    return None


def _first_line(text: str) -> str:
    lines = text.strip().splitlines()
    return f" ({lines[0]})" if lines else ""


def _stage(entry: Entry) -> str:
    share = entry.payload.get("share")
    return (
        f"canary {share:.0%} for"
        if isinstance(share, float) and share > 0
        else "tries in the shadow"
    )


def entry_line(entry: Entry) -> str:
    """A ledger entry as a line."""
    bundle = f" bundle {entry.bundle[:12]}" if entry.bundle else ""
    words = {
        "release": "released",
        "rollout": _stage(entry),
        "experiment": f"experiment {entry.payload.get('name')} {entry.payload.get('stage')}, champion is",
        "rollback": "rolled back to",
        "traffic": "now serves",
        "approval": "approved",
        "rejection": "rejected",
        "retrain_request": "retraining requested",
    }
    return f"{entry.pipeline}: {words[entry.kind]}{bundle} on {entry.day}, by {entry.actor} (ledger entry {entry.serial})"
