"""A synthetic pipeline with everything that can go wrong in time: deliveries by riders of shops.

Orders are corrected before and after their prediction and postponed to the next day; results come late and are
corrected; keys are null; weather pauses for hours. The clocks change on 10 March 2024.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import polars as pl

from declare import (
    Label,
    Source,
    Tabular,
    category,
    col,
    count,
    days,
    deviation,
    flag,
    hours,
    if_else,
    integer,
    join,
    maximum,
    mean,
    minimum,
    number,
    rate,
    text,
    timestamp,
)

ZONE = "America/New_York"
FIRST, LAST = date(2024, 2, 20), date(2024, 3, 20)
DAY = timedelta(days=1)

orders = Tabular(
    name="orders", owner="team:delivery", purpose="Probability that an order is delivered late.", risk="minimal",
    start=FIRST, end=LAST, timezone=ZONE, request="orders", entity="order_id", lead=hours(2), refresh=hours(4),
    label=Label("late", col("minutes") > 40, source="results"),
    sources=[
        Source("orders", keys=["order_id"], lands="the day before", columns={
            "order_id": text(), "shop": text(), "rider": text(nullable=True), "zone": integer(), "km": number(nullable=True)}),
        Source("weather", keys=["shop"], columns={"shop": text(), "rain": number(nullable=True), "sky": text(nullable=True), "seen": timestamp()}),
        Source("results", keys=["order_id"], lands="the day after", columns={
            "order_id": text(), "minutes": number(nullable=True, known="after"), "broken": flag(nullable=True, known="after")}),
        Source("riders", keys=["rider"], lands="once", columns={"rider": text(), "years": integer(), "licensed": flag()}),
    ],
    features=[
        col("km"), category("shop"), category("rider"), col("event_time").hour().named("hour"), col("event_time").weekday().named("weekday"),
        (col("km") / 3).log1p().named("log_km"), (col("zone") % 7).named("zone_of_week"),
        join("weather", within=hours(6)).rain.named("rain"), join("weather").rain.named("rain_any_age"), join("riders").years,
        (join("riders").years * col("km")).named("effort"),
        rate("late", over=days(1)), rate("late", over=days(7)), rate("late", by="shop", over=days(7)), rate("late", by=("shop", "rider"), over=days(14)),
        count("late", by="rider", over=days(3)), mean("minutes", by="shop", over=days(7)), mean(col("minutes") * col("km"), by="zone", over=days(7)).named("load"),
        deviation("minutes", by="shop", over=days(14)), minimum("minutes", over=days(7)), maximum("minutes", by="zone", over=days(7)),
        rate("broken", by="shop", over=days(14)), rate(col("minutes").is_null(), over=days(14)).named("unknown"),
    ],
)  # fmt: skip
# What the reference need not know: operators are proven by the parity test.
rich = if_else(join("weather").sky == "clear", col("km").fill_null(0), -1).named("clear_km")

Frames = dict[str, pl.DataFrame]


def frames(seed: int = 1, rows: int = 30) -> Frames:
    """Raw rows of all sources for FIRST to LAST."""
    random = np.random.default_rng(seed)
    tables: dict[str, list[dict[str, Any]]] = {
        "orders": [],
        "weather": [],
        "results": [],
        "riders": [],
    }
    shops, riders = ["bakery", "café", "grill"], ["ann", "bob", "cid", None]
    for offset in range((LAST - FIRST).days + 1):
        day = FIRST + offset * DAY
        for index in range(rows):
            at = local(day) + timedelta(
                minutes=int(random.integers(3 * 60, 24 * 60)), seconds=index
            )
            known = local(day - DAY) + timedelta(hours=12, seconds=index)
            row = {
                "order_id": f"{day:%m%d}-{index:03d}", "shop": str(random.choice(shops)), "rider": riders[int(random.integers(4))],
                "zone": int(random.integers(5)), "km": None if random.random() < 0.1 else float(random.normal(4, 2)), "event_time": at, "known_at": known, "date": day - DAY,
            }  # fmt: skip
            tables["orders"].append(row)
            dice = random.random()
            if dice < 0.1:  # corrected before or after the prediction
                fixed = at - timedelta(minutes=int(random.integers(-300, 600)))
                tables["orders"].append(
                    {
                        **row,
                        "km": 9.0,
                        "zone": 1,
                        "known_at": max(fixed, known + timedelta(seconds=1)),
                        "date": local_day(max(fixed, known + timedelta(seconds=1))),
                    }
                )
            elif dice < 0.15:  # postponed to the next day, told before or after the prediction
                told = max(
                    at - timedelta(minutes=int(random.integers(-60, 400))),
                    known + timedelta(seconds=1),
                )
                tables["orders"].append(
                    {**row, "event_time": at + DAY, "known_at": told, "date": local_day(told)}
                )
                at += DAY
            minutes = None if random.random() < 0.05 else float(random.gamma(6, 6))
            delay = int(random.integers(2, 7)) if random.random() < 0.15 else 1
            result = {
                "order_id": row["order_id"],
                "minutes": minutes,
                "broken": None if random.random() < 0.2 else bool(random.random() < 0.1),
                "event_time": at,
            }
            versions = [(delay, result)]
            if random.random() < 0.1:
                versions.append((delay + int(random.integers(1, 6)), {**result, "minutes": 99.0}))
            if random.random() < 0.02:
                versions.append((delay + 7, {**result, "event_time": at - DAY}))
            for later, version in versions:
                arrived = local_day(at) + later * DAY
                # Some come after the refresh of their day and count a day later.
                hour = 3 if random.random() < 0.8 else 9
                tables["results"].append(
                    {
                        **version,
                        "known_at": local(arrived) + timedelta(hours=hour, seconds=index),
                        "date": arrived,
                    }
                )
        for shop in shops:
            for hour in range(24):
                if random.random() < 0.5 or 8 < hour < 17:
                    moment = local(day) + timedelta(hours=hour)
                    if local_day(moment) == day:
                        rain = None if random.random() < 0.2 else float(random.gamma(1, 2))
                        tables["weather"].append(
                            {
                                "shop": shop,
                                "rain": rain,
                                "sky": str(random.choice(["clear", "grey"])),
                                "seen": moment,
                                "event_time": moment,
                                "known_at": moment,
                                "date": day,
                            }
                        )
    epoch = datetime(2024, 1, 1, tzinfo=UTC)
    for years, rider in enumerate(["ann", "bob"]):
        tables["riders"].append(
            {
                "rider": rider,
                "years": years + 1,
                "licensed": True,
                "event_time": epoch,
                "known_at": epoch,
            }
        )
    tables["riders"].append(
        {
            "rider": "ann",
            "years": 9,
            "licensed": False,
            "event_time": epoch,
            "known_at": datetime(2024, 3, 1, 15, tzinfo=UTC),
        }
    )
    stamps = {"event_time": pl.Datetime("us", "UTC"), "known_at": pl.Datetime("us", "UTC")}
    return {
        name: pl.DataFrame(table, infer_schema_length=None, schema_overrides=stamps).filter(
            deliverable(name)
        )
        for name, table in tables.items()
    }


def deliverable(name: str) -> pl.Expr:
    """What comes after the last day is not there yet."""
    return pl.lit(True) if name == "riders" else pl.col("date") <= LAST


def local(day: date) -> datetime:
    return datetime.combine(day, time(), ZoneInfo(ZONE)).astimezone(UTC)


def local_day(moment: datetime) -> date:
    return moment.astimezone(ZoneInfo(ZONE)).date()
