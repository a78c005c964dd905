"""What every server has to do: one trained model and the same rows.

The model is 200 trees of depth 6 over 24 features, without calibration, so that the bundle and `model.ubj` compute one function. The
endpoint is asked as applications ask it: 18 columns, of which it computes 20 features, and it looks up the other four online. Peers
have no features of their own, so they get the 24 numbers ready-made.
"""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import msgspec
import numpy as np
import xgboost

from bundle import api_keys, signing
from bundle.assembly import bundle_files, environment
from bundle.desired import Desired
from bundle.digests import folder_digest
from bundle.features.expression import category, col, days, join, rate
from bundle.features.online import AggregateTable, LatestRows, LatestTable, Refresh, Snapshot
from bundle.features.program import (
    FeatureProgram,
    Lookup,
    RequestColumn,
    aggregate_name,
    aggregate_table,
    latest_table,
)
from bundle.features.row import compile_row
from bundle.files import write_atomically
from bundle.golden import golden_rows
from bundle.manifest import RequestField
from bundle.models.boosted_trees import BoostedTrees
from bundle.models.bounds import learn
from bundle.online_file import sealed
from resources.endpoint import LocalEndpoint

NAME = "departures"
DAY = date(2024, 1, 10)
ROWS, TREES, DEPTH = 10_000, 200, 6
CARRIERS, ORIGINS = tuple(f"c{number:02d}" for number in range(16)), ("east", "north", "west")
# Columns of a request that are features as they are: their range, and the digits that an application would send.
NUMBERS = {
    "distance": (80, 2600, 0), "planned_minutes": (30, 420, 0), "seats": (20, 400, 0), "aircraft_age": (0, 30, 0), "temperature": (-15, 38, 1),
    "dew_point": (-20, 25, 1), "humidity": (10, 100, 1), "wind_speed": (0, 30, 1), "wind_gust": (0, 40, 1), "rain": (0, 12, 2),
    "pressure": (985, 1040, 1), "visibility": (0, 10, 1), "load_factor": (0, 1, 2), "booked_connections": (0, 60, 0),
}  # fmt: skip
CONTRACT = {
    "flight_id": RequestField("string", pattern=r"^f-\d+$"),
    "carrier": RequestField("string"),
    "origin": RequestField("string", values=ORIGINS),
    **{
        name: RequestField("integer" if digits == 0 else "float", ge=low, le=high)
        for name, (low, high, digits) in NUMBERS.items()
    },
    "event_time": RequestField("datetime"),
}


@dataclass(frozen=True)
class Task:
    """`root` is the endpoint's folder with a released bundle, `key` a key that it accepts, `model` the same trees as UBJ.

    `requests` are what the endpoint is asked, `rows` (n, 24) the features of the same rows, `expected` (n,) the probabilities."""

    root: Path
    public_key: Path
    key: str
    model: Path
    names: tuple[str, ...]
    requests: tuple[dict[str, Any], ...]
    rows: tuple[tuple[float, ...], ...]
    expected: tuple[float, ...]


def prepared(folder: Path) -> Task:
    """The task, made in `folder` unless it is there already and nothing that it depends on has changed since."""
    requests = tuple(request(number) for number in range(ROWS))
    matrix = _matrix(requests)
    root, public_key, model, key = (
        folder / "endpoint",
        folder / "keys" / "platform.pub",
        folder / "model.ubj",
        folder / "key",
    )
    stamp, wanted = folder / "stamp", _version()
    if not stamp.exists() or stamp.read_text() != wanted:
        shutil.rmtree(folder, ignore_errors=True)
        _make(folder, requests, matrix)
        write_atomically(stamp, wanted.encode())
    booster = xgboost.Booster(model_file=model, params={"nthread": 1})
    expected = booster.inplace_predict(np.array(matrix, dtype=np.float32))
    return Task(
        root,
        public_key,
        key.read_text(),
        model,
        _program().names,
        requests,
        matrix,
        tuple(float(value) for value in expected),
    )


def request(number: int) -> dict[str, Any]:
    """The request for flight `number`, JSON-ready; equal numbers give equal requests."""
    random = np.random.default_rng(number)
    numbers = {
        name: int(random.integers(low, high + 1))
        if digits == 0
        else round(float(random.uniform(low, high)), digits)
        for name, (low, high, digits) in NUMBERS.items()
    }
    moment = datetime(DAY.year, DAY.month, DAY.day, 10, tzinfo=UTC) + timedelta(
        minutes=number % 720
    )
    return {
        "flight_id": f"f-{number}", "carrier": str(random.choice(CARRIERS)), "origin": str(random.choice(ORIGINS)), **numbers,
        "event_time": moment.isoformat().replace("+00:00", "Z"),
    }  # fmt: skip


def _program() -> FeatureProgram:
    rates = (
        rate("late", by="carrier", over=days(7), source="flights"),
        rate("late", by="carrier", over=days(28), source="flights"),
    )
    by_origin = rate("late", by="origin", over=days(7), source="flights")
    queue = join("runways", on="origin", within=timedelta(days=3)).queue
    names = [aggregate_name(found) for found in rates]
    return FeatureProgram(
        pipeline=NAME, timezone="America/New_York", entity="flight_id", lead_seconds=3600, refresh_seconds=4 * 3600,
        request={name: RequestColumn(field.kind, field.nullable) for name, field in CONTRACT.items()},
        features=(
            *(col(name).named(name) for name in NUMBERS), category("carrier"), category("origin"),
            col("event_time").hour().named("hour"), col("event_time").minute().named("minute"), col("event_time").weekday().named("weekday"),
            (col("distance") / col("planned_minutes")).named("speed"),
            rates[0].named("carrier_late_7"), rates[1].named("carrier_late_28"), by_origin.named("origin_late_7"), queue.named("queue"),
        ),
        lookups=(
            Lookup("runways on origin within 259200s", latest_table("runways", ("origin",)), "latest", "runways", ("origin",), ("origin",), ("queue",), ("float",), 259_200),
            Lookup(aggregate_table("flights", ("carrier",)), aggregate_table("flights", ("carrier",)), "aggregate", "flights", ("carrier",), ("carrier",), tuple(names), ("float", "float")),
            Lookup(aggregate_table("flights", ("origin",)), aggregate_table("flights", ("origin",)), "aggregate", "flights", ("origin",), ("origin",), (aggregate_name(by_origin),), ("float",)),
        ),
        vocabularies={"carrier": CARRIERS, "origin": ORIGINS},
    )  # fmt: skip


def _snapshot() -> Snapshot:
    """What is looked up: queues and rates of late flights, of two refreshes."""
    program = _program()
    runways, carriers, origins = program.lookups
    moments = tuple(
        datetime(day.year, day.month, day.day, 9, tzinfo=UTC)
        for day in (DAY - timedelta(days=1), DAY)
    )

    def rates(lookup: Lookup, texts: tuple[str, ...], first: float) -> AggregateTable:
        width = len(lookup.values)
        refreshes = (
            Refresh(
                moment,
                tuple(
                    (
                        (text,),
                        tuple(
                            round(first + 0.02 * index + 0.005 * later + 0.01 * value, 3)
                            for value in range(width)
                        ),
                    )
                    for index, text in enumerate(texts)
                ),
            )
            for later, moment in enumerate(moments)
        )
        return AggregateTable(lookup.keys, lookup.values, tuple(refreshes))

    queues = LatestTable(
        ("origin",),
        ("queue",),
        tuple(((text,), LatestRows(moments[:1], ((3.0 + i,),))) for i, text in enumerate(ORIGINS)),
    )
    tables = {
        runways.table: queues,
        carriers.table: rates(carriers, CARRIERS, 0.08),
        origins.table: rates(origins, ORIGINS, 0.15),
    }
    return Snapshot(NAME, DAY, moments[-1], tables)


def _matrix(requests: tuple[dict[str, Any], ...]) -> tuple[tuple[float, ...], ...]:
    """The features of requests, computed as the endpoint does."""
    row_of, online = compile_row(_program()), _snapshot()
    return tuple(
        tuple(
            float(value)
            for value in row_of(
                {**found, "event_time": datetime.fromisoformat(found["event_time"])}, online
            )
        )
        for found in requests
    )


def _make(
    folder: Path, requests: tuple[dict[str, Any], ...], matrix: tuple[tuple[float, ...], ...]
) -> None:
    """Train, compile, sign, install and release; make a key."""
    program, online, features = _program(), _snapshot(), np.array(matrix, dtype=np.float32)
    random = np.random.default_rng(0)
    place = {name: index for index, name in enumerate(program.names)}
    centred = (features - features.mean(axis=0)) / (features.std(axis=0) + 1e-9)
    hidden = centred[
        :,
        [
            place[name]
            for name in ("wind_gust", "rain", "hour", "carrier_late_7", "queue", "load_factor")
        ],
    ]
    late = (
        hidden @ np.array([0.5, 0.6, 0.4, 0.5, 0.3, 0.3])
        - 0.4 * hidden[:, 0] * hidden[:, 1]
        + random.logistic(size=len(features))
        > 1
    )
    # No names of features in the trees: some peers predict arrays, others frames.
    parameters = {
        "objective": "binary:logistic",
        "max_depth": DEPTH,
        "eta": 0.1,
        "nthread": 1,
        "seed": 0,
    }
    booster = xgboost.train(
        parameters, xgboost.QuantileDMatrix(features, label=late.astype(float)), TREES
    )
    model = BoostedTrees.from_booster(booster, program.names)
    private = signing.new_key()
    files = bundle_files(
        pipeline=NAME, created_as_of=DAY.isoformat(), program=program, model=model, label="late", risk="minimal", request=CONTRACT,
        golden=golden_rows(program, model, [{**found, "event_time": datetime.fromisoformat(found["event_time"])} for found in requests[:50]], online),
        golden_online=online, table=model.table(), candidate="c" * 64, training_set="t" * 64,
        sign=lambda content: signing.sign(private, content), bounds=learn(features, program.names, program.categorical),
    )  # fmt: skip
    public_key = folder / "keys" / "platform.pub"
    write_atomically(public_key, signing.public_key(private))
    root, digest = folder / "endpoint", folder_digest(files)
    endpoint = LocalEndpoint(path=str(root), url="http://127.0.0.1:1")
    endpoint.install(digest, files)
    write_atomically(
        root / NAME / "online.msgpack",
        sealed(online, lambda content: signing.sign(private, content)),
    )
    desired = Desired(
        pipeline=NAME,
        serial=1,
        arms=((digest, 1.0),),
        shadows=(),
        key="",
        ledger_entry="1",
        issued=datetime.now(UTC).isoformat(),
    )
    endpoint.desire(desired, signing.sign(private, desired.content))
    write_atomically(folder / "model.ubj", model.ubj)
    stored, text = api_keys.new("benchmark", ("predict",), datetime.now(UTC))
    api_keys.write(public_key.parent / api_keys.FILE, api_keys.KeyFile((stored,)))
    write_atomically(folder / "key", text.encode())


def _version() -> str:
    """Changes with this module, with the code that makes bundles, and with the packages that they depend on."""
    sources = [Path(__file__), *sorted(Path(cast(str, signing.__file__)).parent.glob("*.py"))]
    digest = hashlib.sha256(msgspec.json.encode(environment()))
    for source in sources:
        digest.update(source.read_bytes())
    return digest.hexdigest()
