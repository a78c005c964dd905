"""A second, tiny pipeline with its own synthetic source: the proof that nothing is wired to flights.

Jobs run on machines; a job fails more often under load, in heat, and on old machines. `land` writes deliveries through
the same landing layout as any feed.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from typing import TYPE_CHECKING

import numpy as np

from declare import (
    Fairness,
    Gates,
    Label,
    Monitors,
    ReleasePolicy,
    RetrainingPolicy,
    Source,
    Split,
    Tabular,
    XGBoost,
    category,
    col,
    days,
    flag,
    hours,
    join,
    mean,
    number,
    rate,
    text,
)

if TYPE_CHECKING:
    from resources.landing import Landing

MACHINES = ("anvil", "bellows", "crane", "drill")
FIRST = date(2024, 1, 1)
DAY = timedelta(days=1)

tiny = Tabular(
    name="tiny",
    owner="team:workshop",
    purpose="Probability that a job fails on its machine.",
    risk="minimal",
    start=FIRST,
    end=FIRST + 119 * DAY,
    sources=[
        Source("jobs", keys=["job_id"], lands="the day before",
               columns={"job_id": text(), "machine": text(), "load": number(ge=0, le=100)}),
        Source("heat", keys=["machine"], columns={"machine": text(), "degrees": number(nullable=True, ge=-50, le=90)}),
        Source("results", keys=["job_id"], lands="the day after",
               columns={"job_id": text(), "failed": flag(nullable=True, known="after"), "minutes": number(nullable=True, ge=0, known="after")}),
        Source("machines", keys=["machine"], lands="once", columns={"machine": text(values=MACHINES), "age": number(ge=0)}),
    ],
    request="jobs", entity="job_id",
    label=Label("fails", col("failed") == True, source="results"),  # noqa: E712
    features=[col("load"), category("machine"), col("event_time").hour().named("hour"), join("heat", within=hours(48)).degrees,
              join("machines").age, rate("fails", by="machine", over=days(7)), mean("minutes", over=days(3))],
    model=XGBoost(trials=2, rounds=60, early_stopping=10, tuning_rows=1_000),
    split=Split(test_days=10, validation_days=10, minimum_rows=200),
    slices=["machine"], fairness=[Fairness(column="machine", reason="Machines are no people; the column exercises the report.")],
    gates=Gates(champion_margin=0.2, baseline_margin=-0.1, max_calibration_error=0.3, max_slice_gap=0.5, min_slice_rows=20, max_fairness_gap=None, max_missing_loss=1.0, max_noise_shift=0.5),
    release=ReleasePolicy(strategy="all_at_once"),
    monitors=Monitors(minimum_rows=20), retraining=RetrainingPolicy(minimum_rows=50),
)  # fmt: skip


def land(
    landing: Landing,
    first: date = FIRST,
    last: date = FIRST + 69 * DAY,
    *,
    rows: int = 40,
    drift_from: date | None = None,
    seed: int = 7,
) -> None:
    """Land the deliveries of `first` to `last`, `rows` jobs a day; what has landed already stays as it is.

    From `drift_from` on loads are far higher and what makes jobs fail is reversed. Equal arguments land equal bytes.
    """
    if first == FIRST:
        ages = [
            f"{machine},{2 + 4 * index},{_iso(FIRST - DAY, 0)},{_iso(FIRST - DAY, 0)}"
            for index, machine in enumerate(MACHINES)
        ]
        landing.put(
            "tiny", "machines", None, "machines.csv", _csv("machine,age,event_time,known_at", ages)
        )
    for offset in range((last - first).days + 1):
        day = first + offset * DAY
        for of in (day, day + DAY) if day == FIRST else (day + DAY,):
            landing.put(
                "tiny",
                "jobs",
                day,
                f"jobs-{of}.csv",
                _csv("job_id,machine,load,event_time,known_at", _jobs(of, rows, drift_from, seed)),
            )
        landing.put(
            "tiny",
            "heat",
            day,
            f"heat-{day}.csv",
            _csv("machine,degrees,event_time,known_at", _heat(day, seed)),
        )
        results = _results(day - DAY, rows, drift_from, seed) if day > FIRST else []
        landing.put(
            "tiny",
            "results",
            day,
            f"results-{day - DAY}.csv",
            _csv("job_id,failed,minutes,event_time,known_at", results),
        )


def requests(
    day: date, *, rows: int = 40, drift_from: date | None = None, seed: int = 7
) -> list[dict[str, object]]:
    """The prediction requests of a day, JSON-ready."""
    parts = [line.split(",") for line in _jobs(day, rows, drift_from, seed)]
    return [
        {"job_id": job, "machine": machine, "load": float(load), "event_time": moment}
        for job, machine, load, moment, _ in parts
    ]


def _day(
    day: date, rows: int, drift_from: date | None, seed: int
) -> list[tuple[str, int, float, float, float, bool]]:
    """(job, machine, load, hour, degrees, failed) of a day, drawn from the seed and the day alone."""
    random = np.random.default_rng([seed, day.toordinal()])
    drifted = drift_from is not None and day >= drift_from
    degrees = _degrees(day, seed)
    jobs = []
    for number_ in range(rows):
        machine = int(random.integers(len(MACHINES)))
        load = float(np.clip(random.normal(75 if drifted else 45, 18), 0, 100).round(1))
        margin = (load - 50) / 10 + 0.6 * (machine - 1.5) + (degrees[machine] - 20) / 8
        failed = bool(random.random() < 1 / (1 + np.exp(margin if drifted else -margin)))
        jobs.append(
            (
                f"{day:%Y%m%d}-{number_:04d}",
                machine,
                load,
                6 + 16 * number_ / rows,
                degrees[machine],
                failed,
            )
        )
    return jobs


def _degrees(day: date, seed: int) -> list[float]:
    random = np.random.default_rng([seed, day.toordinal(), 1])
    return [float(value) for value in random.normal(20, 6, len(MACHINES)).round(1)]


def _jobs(day: date, rows: int, drift_from: date | None, seed: int) -> list[str]:
    return [
        f"{job},{MACHINES[machine]},{load},{_iso(day, hour)},{_iso(day - DAY, 12)}"
        for job, machine, load, hour, _, _ in _day(day, rows, drift_from, seed)
    ]


def _heat(day: date, seed: int) -> list[str]:
    return [
        f"{machine},{degrees},{_iso(day, 3)},{_iso(day, 3)}"
        for machine, degrees in zip(MACHINES, _degrees(day, seed), strict=True)
    ]


def _results(day: date, rows: int, drift_from: date | None, seed: int) -> list[str]:
    return [
        f"{job},{str(failed).lower()},{20 + load / 2},{_iso(day, hour)},{_iso(day + DAY, 2)}"
        for job, _, load, hour, _, failed in _day(day, rows, drift_from, seed)
    ]


def _iso(day: date, hour: float) -> str:
    moment = datetime.combine(day, time(), UTC) + timedelta(minutes=round(hour * 60))
    return f"{moment:%Y-%m-%dT%H:%M:%SZ}"


def _csv(header: str, lines: list[str]) -> bytes:
    return ("\n".join([header, *lines]) + "\n").encode()
