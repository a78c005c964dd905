"""Flight delays: will a departing flight arrive 15 or more minutes late?

Flights that left New York in 2013, with hourly weather at the three airports, aircraft and
airports. `feed` lands the public data set as an airline's systems would; a deployment points the
landing folder at its own files instead.
"""

from __future__ import annotations

import math
from datetime import date

from declare import (
    Fairness,
    Gates,
    Label,
    Monitors,
    Source,
    Split,
    Tabular,
    XGBoost,
    category,
    col,
    count,
    days,
    deviation,
    flag,
    hours,
    integer,
    join,
    mean,
    number,
    rate,
    text,
)

ORIGINS = ("EWR", "JFK", "LGA")
CLOCK = {"ge": 0, "le": 2400}  # hhmm, local time of the airport

schedule = Source(
    "schedule",
    keys=["flight_id"],
    lands="the day before",
    volume=(500, 1_200),
    description="Departures of the next day, as planned the day before at noon.",
    columns={
        "flight_id": text(
            pattern=r"^\d{8}-[0-9A-Z]{2}\d{1,4}-[A-Z]{3}$",
            description="local day, carrier and number, origin",
        ),
        "carrier": text(pattern=r"^[0-9A-Z]{2}$", description="IATA code of the airline"),
        "flight": integer(ge=1, le=9999, description="flight number"),
        "tailnum": text(
            nullable=True, pattern=r"^[0-9A-Z]{2,6}$", description="aircraft planned for the flight"
        ),
        "origin": text(values=ORIGINS, description="airport of departure"),
        "dest": text(pattern=r"^[A-Z]{3}$", description="airport of arrival"),
        "sched_dep_time": integer(**CLOCK, description="planned departure, hhmm"),
        "sched_arr_time": integer(**CLOCK, description="planned arrival, hhmm"),
        "distance": number(ge=10, le=6_000, description="miles"),
    },
)

weather = Source(
    "weather",
    keys=["origin"],
    volume=(48, 75),
    description=(
        "Hourly observations at the airport of departure; "
        "each hour is a newer version of the airport's row."
    ),
    columns={
        "origin": text(values=ORIGINS),
        "temp": number(nullable=True, ge=-40, le=130, description="degrees Fahrenheit"),
        "humid": number(nullable=True, ge=0, le=100, description="relative humidity, percent"),
        "wind_speed": number(nullable=True, ge=0, le=150, description="miles per hour"),
        "precip": number(nullable=True, ge=0, le=10, description="inches in the hour"),
        "pressure": number(nullable=True, ge=850, le=1_100, description="millibars at sea level"),
        "visib": number(nullable=True, ge=0, le=10, description="miles"),
    },
)

outcomes = Source(
    "outcomes",
    keys=["flight_id"],
    lands="the day after",
    volume=(500, 1_300),
    description=(
        "What became of the flights of the day before; "
        "late reports and corrections come in later deliveries."
    ),
    columns={
        "flight_id": text(),
        "dep_time": integer(nullable=True, **CLOCK, known="after"),
        "dep_delay": number(nullable=True, ge=-120, le=2_000, known="after", description="minutes"),
        "arr_time": integer(nullable=True, **CLOCK, known="after"),
        "arr_delay": number(
            nullable=True,
            ge=-180,
            le=2_000,
            known="after",
            description="minutes; null when cancelled or diverted",
        ),
        "air_time": number(nullable=True, ge=0, le=1_000, known="after", description="minutes"),
        "cancelled": flag(known="after"),
    },
)

aircraft = Source(
    "aircraft",
    keys=["tailnum"],
    lands="once",
    columns={
        "tailnum": text(),
        "built": integer(nullable=True, ge=1_900, le=2_100, description="year of manufacture"),
        "engines": integer(ge=1, le=8),
        "seats": integer(ge=1, le=1_000),
        "manufacturer": text(nullable=True),
    },
)

# No feature reads it: where a destination lies told the model nothing beyond its name and the
# delays of its flights. With latitude and longitude the log loss of ten test days moved by -0.005
# to +0.005 at five moments of the year, by +0.0003 on average; with the altitude as well by -0.007
# to +0.005, by -0.0003 on average. Puerto Rico and the Virgin Islands are not in it. It lands as a
# system of record does.
airports = Source(
    "airports",
    keys=["faa"],
    lands="once",
    columns={
        "faa": text(),
        "lat": number(ge=-90, le=90),
        "lon": number(ge=-180, le=180),
        "alt": number(ge=-1_500, le=30_000, description="feet"),
    },
)

minute_of_day = (col("sched_dep_time") // 100 * 60 + col("sched_dep_time") % 100).named(
    "minute_of_day"
)
angle = minute_of_day.expression * (2 * math.pi / 1440)
sky = join("weather", within=hours(24))

pipeline = Tabular(
    name="flight_delays",
    owner="team:network-operations",
    purpose=(
        "Probability that a departing flight arrives 15 or more minutes late, "
        "an hour before it leaves."
    ),
    risk="limited",
    start=date(2013, 1, 1),
    end=date(2013, 12, 31),
    timezone="America/New_York",
    sources=[schedule, weather, outcomes, aircraft, airports],
    request="schedule",
    entity="flight_id",
    lead=hours(1),
    # The last flights of a day have landed by the refresh of the next one, which is at four.
    label=Label("late", col("arr_delay") >= 15, source="outcomes", matures_after=hours(4)),
    features=[
        minute_of_day,
        angle.sin().named("departure_sin"),
        angle.cos().named("departure_cos"),
        col("event_time").weekday().named("weekday"),
        col("distance"),
        category("carrier"),
        category("origin"),
        category("dest"),
        join("aircraft").seats,
        join("aircraft").built,  # its age, as far as one year of data can tell
        sky.temp,
        sky.humid,
        sky.wind_speed,
        sky.precip,
        sky.pressure,
        sky.visib,
        rate("late", over=days(1)),
        rate("late", over=days(7)),
        rate("late", over=days(28)),
        rate("late", by="carrier", over=days(1)),
        rate("late", by="carrier", over=days(7)),
        rate("late", by="carrier", over=days(28)),
        rate("late", by="origin", over=days(1)),
        rate("late", by="origin", over=days(7)),
        rate("late", by="dest", over=days(7)),
        rate("late", by="dest", over=days(28)),
        mean("dep_delay", by="origin", over=days(1)),
        mean("dep_delay", by=("carrier", "origin"), over=days(28)),
        deviation("arr_delay", by="dest", over=days(28)),
        rate("cancelled", by="origin", over=days(1)),
        count("late", by="tailnum", over=days(7)),
    ],
    model=XGBoost(
        increasing=("dep_delay_mean_by_origin_1d", "dep_delay_mean_by_carrier_origin_28d")
    ),
    split=Split(
        test_days=10, validation_days=10
    ),  # delays change by the week: what is trained should not be older than needed
    slices=["origin", "carrier"],
    fairness=[
        Fairness(
            column="origin",
            reason=(
                "Flights are no people; travellers choose their airport by where they live, "
                "so warnings should be as good at each."
            ),
            threshold=0.4,
        )
    ],
    # Every limit follows from weekly candidates of January to March 2013 by the rule that
    # `python -m benchmarks.limits` states and prints: a quarter beyond the worst of them. Ten test
    # days say little about other days, so most of these intervals, and limits, are wide.
    gates=Gates(
        primary="log_loss",
        baseline_margin=-0.085,
        champion_margin=0.04,
        max_calibration_error=0.25,
        min_roc_auc=0.52,
        max_slice_gap=0.15,
        max_fairness_gap=0.76,
        max_missing_loss=0.17,
        max_outage_loss=0.41,
        max_noise_shift=0.04,
    ),
    # On the worst of 204 days after a training set of these months 3 of 31 features drifted.
    monitors=Monitors(drift_share=0.12),
)
