"""`evergreen replay`: lands a pipeline's recorded year day by day, and sends its real requests.

The demo uses its feed and its view of the endpoint.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any, Protocol

from assets.names import DAY
from bundle.api_keys import header
from cli.demo.requests import Sent, send
from cli.output import WRONG_USE, CommandError
from resources.settings import Settings

CHAMPION_TIMEOUT = 900.0
DAY_TIMEOUT = 900.0
"""Seconds that a following replay waits for the first champion, and for each day's aggregates.

Then it goes on without them.
"""


class Feed(Protocol):
    """What a pipeline's `feed.py` offers: the days it has, their files, and their requests."""

    first: date
    last: date

    def land(self, day: date) -> list[str]: ...
    def land_once(self) -> list[str]: ...
    def requests(self, day: date) -> list[dict[str, Any]]: ...


@dataclass(frozen=True)
class Options:
    """What to replay, and how.

    `start` is the first day that lands by itself; everything before it lands at once. `speed` is
    days a minute, 0 as fast as possible. With `follow` each day waits for the platform, and its
    requests are sent.
    """

    pipeline: str = "flight_delays"
    start: date | None = None
    end: date | None = None
    speed: float = 0.0
    late: float = 0.05
    corrected: float = 0.01
    seed: int = 0
    follow: bool = False


@dataclass(frozen=True)
class Position:
    """How far a replay came: the last day landed, the last day whose requests were sent, totals."""

    landed: date | None = None
    sent: date | None = None
    requests: int = 0
    failed: int = 0


def open_feed(settings: Settings, options: Options) -> Feed:
    """The feed of a pipeline. Raises CommandError for a pipeline that ships none."""
    from importlib import import_module

    module = f"pipelines.{options.pipeline}.feed"
    try:
        feed: Feed = import_module(module).Feed(
            settings.landing_uri, options.late, options.corrected, options.seed
        )
    except ModuleNotFoundError as error:
        if error.name not in (module, f"pipelines.{options.pipeline}"):
            raise
        raise CommandError(
            f"pipeline {options.pipeline!r} ships no feed ({module}); "
            f"land its files in {settings.landing_uri}",
            WRONG_USE,
        ) from error
    return feed


def replay(
    settings: Settings,
    options: Options,
    say: Callable[[str], None],
    sleep: Callable[[float], None] = time.sleep,
) -> Position:
    """Land history at once, then a day at a time up to `end`.

    A replay that was stopped goes on where it stood. Raises CommandError for days that the feed
    does not have.
    """
    feed = open_feed(settings, options)
    start, end = options.start or default_start(feed), options.end or feed.last
    if not feed.first <= start <= end <= feed.last:
        raise CommandError(
            f"--from {start} --to {end} do not fit the feed, which holds "
            f"{feed.first} to {feed.last}",
            WRONG_USE,
        )

    place = settings.home.absolute() / "replay.json"
    position = load(place)
    landed = position.landed
    if landed is None or landed < start - DAY:
        landed = _land_history(feed, start, landed, say)
        position = replace(position, landed=landed)
        _save(place, position)
    platform = Platform(settings, options.pipeline)
    if options.follow:
        platform.wait_until_serving(CHAMPION_TIMEOUT, say, sleep)
    unsent = (
        options.follow and landed >= start and (position.sent is None or position.sent < landed)
    )
    day = landed if unsent else max(start, landed + DAY)
    while day <= end:
        began = time.monotonic()
        if day > landed:
            feed.land(day)
            landed = day
            position = replace(position, landed=day)
            _save(place, position)
        if options.follow:
            position = _send_day(settings, feed, platform, day, position, say, sleep)
        else:
            say(f"{day}: landed")
        _save(place, position)
        if options.speed > 0:
            sleep(max(0.0, 60.0 / options.speed - (time.monotonic() - began)))
        day += DAY
    return position


def default_start(feed: Feed) -> date:
    """Three months of history, then day by day."""
    return min(feed.first + timedelta(days=90), feed.last)


def _land_history(feed: Feed, start: date, landed: date | None, say: Callable[[str], None]) -> date:
    feed.land_once()
    day = feed.first if landed is None else landed + DAY
    while day < start:
        feed.land(day)
        day += DAY
    say(f"{feed.first} to {start - DAY}: landed as history")
    return start - DAY


def _send_day(
    settings: Settings,
    feed: Feed,
    platform: Platform,
    day: date,
    position: Position,
    say: Callable[[str], None],
    sleep: Callable[[float], None],
) -> Position:
    if not platform.wait_for(day, DAY_TIMEOUT, sleep):
        say(
            f"{day}: the platform has not published its aggregates within {DAY_TIMEOUT:.0f} s; "
            "going on with older ones"
        )
    if not platform.serves():
        say(f"{day}: no champion serves; the day's requests are not sent")
        return replace(position, sent=day)
    sent = send(
        settings.endpoint_url,
        platform.pipeline,
        feed.requests(day),
        headers=header(settings.endpoint_key_path),
        trusted=settings.endpoint_certificate,
    )
    say(described(day, sent))
    return replace(
        position,
        sent=day,
        requests=position.requests + sent.requests,
        failed=position.failed + sent.failed,
    )


def described(day: date, sent: Sent) -> str:
    """What became of a day's requests, as a line."""
    rate = sent.requests / sent.seconds if sent.seconds else 0.0
    line = f"{day}: {sent.requests} requests, {sent.failed} failed, {rate:,.0f} a second"
    return f"{line}; {sent.errors[0]}" if sent.errors else line


class Platform:
    """The running platform as a replay sees it: what its endpoint says that it serves."""

    def __init__(self, settings: Settings, pipeline: str) -> None:
        self.pipeline = pipeline
        # Dagster comes with them; a replay that is only described does without.
        from resources.keys import Keys
        from resources.online_store import OnlineStore

        keys = Keys(path=str(settings.keys_path))
        self._store = OnlineStore(path=str(settings.endpoint_path), signer=keys)
        self._url = f"{settings.endpoint_admin_url}/v2/models/{pipeline}/actual"
        self._key = settings.endpoint_key_path

    def serves(self) -> bool:
        return self._actual()[0]

    def wait_until_serving(
        self, timeout: float, say: Callable[[str], None], sleep: Callable[[float], None]
    ) -> None:
        """Wait for the first champion, `timeout` seconds at most.

        Where a gate refused it, only newer data can bring another.
        """
        if self.serves():
            return
        say(f"waiting for the first champion of {self.pipeline}")
        end = time.monotonic() + timeout
        while not self.serves() and time.monotonic() < end:
            sleep(1.0)

    def wait_for(self, day: date, timeout: float, sleep: Callable[[float], None]) -> bool:
        """Wait until the aggregates of `day` are published and, where a champion serves, in use.

        False when that took longer than `timeout`.
        """
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            ready, newest = self._actual()
            if not ready:
                newest = self._published()
            if newest is not None and newest >= day:
                return True
            sleep(0.5)
        return False

    def _published(self) -> date | None:
        """Day of the newest published snapshot."""
        snapshot = self._store.newest(self.pipeline)
        return None if snapshot is None else snapshot.as_of

    def _actual(self) -> tuple[bool, date | None]:
        """Whether a bundle is served, and the day of the online snapshot in use."""
        from cli.platform.health import get

        try:
            actual = get(self._url, headers=header(self._key))
        except (OSError, ValueError):
            return False, None
        day = actual.get("snapshot_as_of")
        return bool(actual.get("ready")), date.fromisoformat(day) if day else None


def load(place: Path) -> Position:
    """The stored position, an empty one where there is none."""
    try:
        stored = json.loads(place.read_text())
    except FileNotFoundError:
        return Position()
    days = {
        name: date.fromisoformat(stored[name]) if stored.get(name) else None
        for name in ("landed", "sent")
    }
    return Position(
        days["landed"], days["sent"], stored.get("requests", 0), stored.get("failed", 0)
    )


def _save(place: Path, position: Position) -> None:
    from resources.files import write_atomically

    days = {
        name: day.isoformat() if day else None
        for name, day in (("landed", position.landed), ("sent", position.sent))
    }
    write_atomically(
        str(place),
        json.dumps({**days, "requests": position.requests, "failed": position.failed}).encode(),
    )
