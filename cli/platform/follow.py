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

    from assets.traffic.entries import Confirmation, LedgerEntry
    from resources.ledger import Ledger
    from sensors.event_log import Event, Work


Group = tuple[str, tuple[str, ...]]


class LedgerReader:
    """Tells what is new in the ledger, and once and loudly when it cannot be believed.

    A broken ledger stops every move, and nothing else: reading goes on, and so does the platform.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._told: int | None = None
        """The serial up to which entries were told; None until the ledger could be read."""
        self._problem: str | None = None
        self._unheard = self._read()

    def lines(self) -> list[str]:
        """A line for each new entry, or what is wrong with the ledger where that is news."""
        unheard, self._unheard = self._unheard, []
        return unheard + self._read()

    def _read(self) -> list[str]:
        from assets.endpoint.alarm import WAY_OUT
        from assets.traffic.entries import entries as read
        from resources.ledger import LedgerError

        try:
            entries = read(self._ledger)
        except LedgerError as error:
            problem = str(error)
            news, self._problem = problem != self._problem, problem
            return [f"THE LEDGER IS BROKEN: {problem}", f"{WAY_OUT}."] if news else []

        lines = ["the ledger is sound again: releases and rollouts go on"] if self._problem else []
        self._problem = None

        newest = entries[-1].serial if entries else 0
        told = newest if self._told is None else self._told
        self._told = newest
        return [*lines, *(entry_line(entry) for entry in entries if entry.serial > told)]


class Follower:
    """Reads the event log and the ledger from the moment it was made, and tells what is new."""

    def __init__(self, instance: dg.DagsterInstance, settings: Settings) -> None:
        from resources.keys import Keys
        from resources.ledger import Ledger
        from sensors.event_log import Reader

        self._instance = instance
        self._reader = Reader(instance)
        self._open: dict[Group, list[Event]] = {}
        keys = Keys(path=str(settings.keys_path))
        self._entries = LedgerReader(Ledger(path=str(settings.ledger_path), signer=keys))

    def lines(self) -> list[str]:
        """New lines.

        Partitions of one asset in one run come one by one. They are one line once no more come.
        """
        happened = self._reader.read()
        grown = {_group(event) for event in happened if event.kind == "materialization"}
        for event in happened:
            if event.kind == "materialization":
                self._open.setdefault(_group(event), []).append(event)
        complete: list[Event] = []
        for group in [each for each in self._open if each not in grown]:
            complete += self._open.pop(group)
        others = [event for event in happened if event.kind != "materialization"]
        return [*event_lines([*complete, *others]), *self._entries.lines()]

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


def event_lines(events: Sequence[Event]) -> list[str]:
    """Plain lines for events, without what an operator need not know.

    Partitions of one asset in one run are one line.
    """
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
    from assets import names

    days = sorted({event.partition for event in made if event.partition})
    span = (
        f"{days[0]} to {days[-1]} ({len(days)} days)" if len(days) > 1 else days[0] if days else ""
    )
    newest = made[-1].metadata
    match asset[1:]:
        case (names.RAW,):
            sources = sorted({event.asset[-1] for event in made})
            return f"{asset[0]}: landed {span}: {', '.join(sources)}".replace(" :", ":")
        case (names.CANDIDATE,):
            loss = newest.get("test_log_loss")
            shown = f", log loss {loss:.4f} on its test days" if isinstance(loss, float) else ""
            candidate = str(newest.get("digest"))[:12]
            return f"{asset[0]}: trained candidate {candidate} as of {newest.get('as_of')}{shown}"
        case (names.RETRAINING_DECISION,):
            asked = [event for event in made if event.metadata.get("retrain") is True]
            return (
                f"{asset[0]}: decided to retrain ({asked[-1].metadata.get('decision')})"
                if asked
                else None
            )
        case (names.FEATURES,) | (names.BUNDLE,) | (names.TRAINING_SET,):
            return f"{asset[0]}: {asset[-1].replace('_', ' ')} {span}".rstrip()
    return None


def _first_line(text: str) -> str:
    lines = text.strip().splitlines()
    return f" ({lines[0]})" if lines else ""


def entry_line(entry: LedgerEntry) -> str:
    """A ledger entry as a line."""
    said = _said(entry)
    return (
        f"{entry.pipeline}: {said} on {entry.day}, by {entry.actor} (ledger entry {entry.serial})"
    )


def _said(entry: LedgerEntry) -> str:
    """What an entry decides or confirms, in a few words."""
    from assets.traffic import entries as kinds

    match entry:
        case kinds.Approval():
            return f"approved bundle {_short(entry.bundle)}"
        case kinds.Rejection():
            return f"rejected bundle {_short(entry.bundle)}"
        case kinds.RolloutStep(stage="shadow"):
            return f"bundle {_short(entry.bundle)} is to be scored in the shadow of the champion"
        case kinds.RolloutStep():
            return f"bundle {_short(entry.bundle)} is to answer {entry.share:.0%} of the traffic"
        case kinds.Release():
            return f"released bundle {_short(entry.bundle)}"
        case kinds.Rollback():
            return f"rolled back to bundle {_short(entry.bundle)} from {_short(entry.left)}"
        case kinds.Confirmation():
            return _confirmed(entry)
        case kinds.ExperimentStart():
            return f"experiment {entry.name} begins: {', '.join(entry.names)}"
        case kinds.ExperimentStop():
            return f"experiment {entry.name} ends; bundle {_short(entry.bundle)} is to answer alone"
        case kinds.RetrainRequest():
            return f"retraining requested ({entry.reason})"


def _confirmed(entry: Confirmation) -> str:
    """Who answers now, and who is scored beside the answers."""
    (champion, share), *others = entry.arms
    if others:
        parts = [f"{_short(champion)} {share:.0%}"]
        parts += [f"{_short(bundle)} {part:.0%}" for bundle, part in others]
        return f"the endpoint divides the traffic: bundles {', '.join(parts)}"
    if entry.shadows:
        tried = ", ".join(map(_short, entry.shadows))
        return f"the endpoint scores bundle {tried} in the shadow of {_short(champion)}"
    return f"the endpoint serves bundle {_short(champion)}"


def _short(bundle: str) -> str:
    return bundle[:12]
