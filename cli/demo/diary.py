"""The demo's diary: tells what each run brought, and says at the end what the ledger holds."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from assets.names import CANDIDATE
from cli.demo.facts import Arm, Retrain, Rollout, Served
from cli.platform.follow import check_line, entry_line
from resources.settings import Settings
from sensors.requests import AS_OF, CAUSE

if TYPE_CHECKING:
    from collections.abc import Callable

    import dagster as dg

    from assets.traffic.entries import Confirmation, LedgerEntry
    from assets.traffic.rollouts import Rollout as Way
    from cli.demo.driver import Ran
    from resources.ledger import Ledger


class Diary:
    """Notes each run that was executed: failures, checks, retrains, and moves of the traffic."""

    def __init__(
        self,
        settings: Settings,
        pipeline: str,
        ledger: Ledger,
        instance: dg.DagsterInstance,
        say: Callable[[str], None],
    ) -> None:
        from resources.artifacts import Artifacts

        self._settings, self._pipeline, self._ledger = settings, pipeline, ledger
        self._instance, self._say = instance, say
        self._artifacts = Artifacts(uri=settings.artifacts_uri)
        self._champion: str | None = None
        self._entries_read = 0
        self._failing: set[tuple[tuple[str, ...], str]] = set()
        self._retrains: list[Retrain] = []
        self.failures: list[str] = []

    def note(self, ran: Ran) -> None:
        """Tell what a run brought."""
        if not ran.success:
            self.failures.append(f"{ran.job} ({ran.failure})")
            self._say(f"run of {ran.job} failed: {ran.failure}")
        self._note_checks(ran)
        if ran.job.endswith("_retrain"):
            self._note_retrain(ran)
        self._note_moves()

    def _note_checks(self, ran: Ran) -> None:
        """Tell of a check when it begins to fail, and when it passes again."""
        from sensors.event_log import events_of_run

        for event in events_of_run(self._instance, ran.run_id):
            if event.kind != "check":
                continue
            check = (event.asset, event.name)
            if not event.passed and check not in self._failing:
                self._failing.add(check)
                self._say(check_line(event))
            elif event.passed and check in self._failing:
                self._failing.remove(check)
                self._say(
                    f"{event.asset[0]}: {'/'.join(event.asset[1:])}: {event.name} passes again"
                )

    def _note_retrain(self, ran: Ran) -> None:
        candidate = self._artifacts.pointed(self._pipeline, CANDIDATE)
        retrain: Retrain = {
            "as_of": ran.tags.get(AS_OF),
            "cause": ran.tags.get(CAUSE),
            "candidate": candidate,
            "champion_before": self._champion,
            "released": False,
        }
        self._retrains.append(retrain)

        way = next((each for each in reversed(self._ways()) if each.candidate == candidate), None)
        outcome = "released nothing: the champion serves on"
        if way is not None:
            outcome = f"bundle {way.bundle[:12]} is {way.summary}"
        self._say(f"retrained as of {retrain['as_of']} ({retrain['cause']}): {outcome}")

    def _note_moves(self) -> None:
        """Tell the steps of rollouts since the last run."""
        from assets.traffic.moves import MOVES, released

        entries = self._entries()
        for entry in entries[self._entries_read :]:
            if isinstance(entry, MOVES):
                self._say(entry_line(entry))
        self._entries_read = len(entries)
        self._champion = released(entries)

    def _ways(self) -> list[Way]:
        from assets.traffic.rollouts import rollouts

        return list(rollouts(self._entries()))

    def _entries(self) -> list[LedgerEntry]:
        from assets.traffic.entries import entries

        return entries(self._ledger, self._pipeline)

    def retrains(self) -> list[Retrain]:
        """The retrains, each with whether its candidate got all traffic in the end."""
        from assets.traffic.entries import Release

        candidates = {e.candidate for e in self._entries() if isinstance(e, Release)}
        return [
            {**retrain, "released": retrain["candidate"] in candidates}
            for retrain in self._retrains
        ]

    def served(self) -> list[Served]:
        """Who answered from when on, of each confirmation."""
        from assets.traffic.entries import Confirmation

        return [served(entry) for entry in self._entries() if isinstance(entry, Confirmation)]

    def rollouts(self) -> list[Rollout]:
        """Every bundle's way to the traffic."""
        return [_rollout(way) for way in self._ways()]

    def answering(self) -> str | None:
        """Digest of the bundle that the endpoint itself says it serves."""
        from resources.endpoint import LocalEndpoint

        local = self._settings
        target = LocalEndpoint(path=str(local.endpoint_path), url=local.endpoint_url)
        actual = target.actual(self._pipeline)
        return actual.bundles[0] if actual is not None and actual.bundles else None

    def verified(self) -> tuple[int, bool]:
        """Entries of the ledger, and whether it verifies."""
        from resources.ledger import LedgerError

        try:
            return self._ledger.verify(), True
        except LedgerError as error:
            sys.stderr.write(f"evergreen: demo: {error}\n")
            return 0, False


def served(entry: Confirmation) -> Served:
    """What a confirmation says: who answered from when on, with which share."""
    answering: list[Arm] = [{"bundle": bundle, "share": share} for bundle, share in entry.arms]
    answering += [{"bundle": bundle, "share": 0.0} for bundle in entry.shadows]
    return {"day": entry.day.isoformat(), "bundle": entry.bundle, "arms": answering}


def _rollout(way: Way) -> Rollout:
    return {
        "bundle": way.bundle,
        "steps": [
            {"stage": step.stage, "share": step.share, "day": step.day.isoformat()}
            for step in way.steps
        ],
        "outcome": way.outcome,
        "reason": way.reason if way.outcome == "rolled_back" else "",
    }
