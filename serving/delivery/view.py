"""What one request needs of its pipeline: the arms that may answer it, its contract and the online
features."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from zoneinfo import ZoneInfo

from bundle.desired import Desired
from bundle.features.online import Snapshot
from bundle.manifest import Bundle, Manifest
from serving.contract.contract import Contract
from serving.delivery.failures import FailureLog


@dataclass(frozen=True)
class Arm:
    """A bundle with its share of the traffic."""

    name: str
    bundle: Bundle
    share: float


@dataclass(frozen=True)
class View:
    """All that one request needs; never changed once published.

    `day` gives the local day of an event time, as ISO 8601.
    """

    desired: Desired
    arms: tuple[Arm, ...]
    shadows: tuple[Arm, ...]
    contract: Contract
    day: Callable[[datetime], str]
    online: Snapshot
    online_as_of: str | None
    golden_ms: float
    failures: FailureLog

    @property
    def manifest(self) -> Manifest:
        return self.arms[0].bundle.manifest

    @property
    def key(self) -> str:
        """The column of a request whose value decides which arm answers."""
        return self.desired.key or self.manifest.entity

    @property
    def version(self) -> str:
        """Digest of the champion's bundle."""
        return self.arms[0].bundle.digest


def local_day(zone: ZoneInfo) -> Callable[[datetime], str]:
    """The local day of a moment. Requests ask for the same few moments, and a look-up is faster
    than formatting."""

    @lru_cache(maxsize=4096)
    def day(moment: datetime) -> str:
        return moment.astimezone(zone).date().isoformat()

    return day
