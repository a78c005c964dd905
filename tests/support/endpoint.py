"""A real endpoint for tests: a tiny bundle with a real model, and the server process on a port of its own.

place = Place.new(tmp_path)                 # root folder and the platform's keys
digest = place.release(seed=1)              # builds, signs, installs and desires a bundle; publishes a snapshot
with place.server() as server: server.client.post("/predict/toy", json=request(0))
"""

from __future__ import annotations

import json
import os
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from bundle import signing
from bundle.assembly import bundle_files
from bundle.desired import Actual, Desired
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
from bundle.files import write_atomically
from bundle.golden import golden_rows
from bundle.manifest import RequestField
from bundle.models.boosted_trees import BoostedTrees
from bundle.models.bounds import learn
from bundle.models.model import Calibration, Model
from bundle.online_file import sealed
from resources.endpoint import LocalEndpoint
from tests.support.ports import free_ports

TREE = Path(__file__).resolve().parent.parent.parent
NAME = "toy"
DAY = date(2024, 1, 10)
SHOPS = ("east", "north", "west")
CONTRACT = {
    "order_id": RequestField("string", pattern=r"^[a-z0-9-]+$"),
    "shop": RequestField("string"),
    "method": RequestField("string", values=("card", "cash", "coin")),
    "amount": RequestField("float", ge=0, le=1000),
    "items": RequestField("integer", nullable=True, ge=0, le=50),
    "express": RequestField("boolean"),
    "promised": RequestField("datetime", nullable=True),
    "event_time": RequestField("datetime"),
}


@lru_cache(maxsize=1)
def program() -> FeatureProgram:
    """Columns, arithmetic, categories, date parts, a join and a rolling rate: one of each."""
    rolling = rate("late", by="shop", over=days(7), source="orders")
    joined = join("stock", on="shop", within=timedelta(days=3)).level
    features = (
        col("amount").named("amount"),
        (col("amount") / (col("items").fill_null(0) + 1)).named("amount_per_item"),
        category("shop"), category("method"),
        col("express").named("express"),
        col("event_time").hour().named("hour"),
        col("promised").is_null().named("unpromised"),
        joined.named("stock_level"), rolling.named("late_rate"),
    )  # fmt: skip
    lookups = (
        Lookup("stock on shop within 259200s", latest_table("stock", ("shop",)), "latest", "stock", ("shop",), ("shop",), ("level",), ("float",), 259_200),
        Lookup(aggregate_table("orders", ("shop",)), aggregate_table("orders", ("shop",)), "aggregate", "orders", ("shop",), ("shop",), (aggregate_name(rolling),), ("float",)),
    )  # fmt: skip
    return FeatureProgram(
        pipeline=NAME, timezone="America/New_York", entity="order_id", lead_seconds=3600, refresh_seconds=4 * 3600,
        request={name: RequestColumn(found.kind, found.nullable) for name, found in CONTRACT.items()}, features=features, lookups=lookups,
        vocabularies={"shop": ("east", "north", "south"), "method": ("card", "cash")},
    )  # fmt: skip


def snapshot(day: date = DAY, level: float = 5.0) -> Snapshot:
    """What the toy looks up: stock of each shop, and its late rate."""
    moments = [
        datetime(d.year, d.month, d.day, 9, tzinfo=UTC) for d in (day - timedelta(days=1), day)
    ]
    stock = LatestTable(
        ("shop",),
        ("level",),
        tuple(
            ((shop,), LatestRows((moments[0],), ((level + index,),)))
            for index, shop in enumerate(SHOPS)
        ),
    )
    name = program().lookups[1].values[0]
    rates = AggregateTable(
        ("shop",),
        (name,),
        tuple(
            Refresh(
                m, tuple(((shop,), (0.1 * (1 + i) + 0.01 * k,)) for i, shop in enumerate(SHOPS))
            )
            for k, m in enumerate(moments)
        ),
    )
    return Snapshot(
        NAME,
        day,
        moments[-1],
        {program().lookups[0].table: stock, program().lookups[1].table: rates},
    )


def request(number: int, day: date = DAY) -> dict[str, Any]:
    """The prediction request of order `number`, JSON-ready; equal numbers give equal requests."""
    random = np.random.default_rng(number)
    return {
        "order_id": f"order-{number}", "shop": str(random.choice([*SHOPS, "nowhere"])), "method": str(random.choice(["card", "cash", "coin"])),
        "amount": float(random.uniform(0, 1000).__round__(2)), "items": None if number % 7 == 0 else int(random.integers(0, 50)),
        "express": bool(number % 2), "promised": None if number % 3 else f"{day}T18:00:00Z",
        "event_time": f"{day}T{10 + number % 12:02d}:{number % 60:02d}:00Z",
    }  # fmt: skip


@lru_cache(maxsize=8)
def model(seed: int = 0, rounds: int = 40) -> Model:
    """A small model over the toy's features; seeds make different ones."""
    import xgboost

    matrix = training_matrix(seed)
    random = np.random.default_rng(seed)
    y = (
        matrix[:, 0] / 500 + matrix[:, 2] - matrix[:, 5] / 12 + random.normal(size=2000) > 0.5
    ).astype(float)
    types = ["c" if categorical else "q" for categorical in program().categorical]
    data = xgboost.QuantileDMatrix(
        matrix,
        label=y,
        feature_names=list(program().names),
        feature_types=types,
        enable_categorical=True,
    )
    booster = xgboost.train(
        {"objective": "binary:logistic", "max_depth": 5, "nthread": 1, "seed": seed}, data, rounds
    )
    return BoostedTrees.from_booster(booster, program().names, Calibration(1.1, -0.2))


def training_matrix(seed: int = 0) -> np.ndarray:
    """The rows that the toy's model is trained on: stock of 5 and more, amounts up to 1000."""
    random = np.random.default_rng(seed)
    matrix = np.column_stack([
        random.uniform(0, 1000, 2000), random.uniform(0, 500, 2000), random.integers(0, 4, 2000), random.integers(0, 3, 2000),
        random.integers(0, 2, 2000), random.integers(0, 24, 2000), random.integers(0, 2, 2000), random.normal(5, 2, 2000), random.uniform(0, 0.5, 2000),
    ]).astype(np.float32)  # fmt: skip
    matrix[random.random(2000) < 0.1, 7] = np.nan
    return matrix


@lru_cache(maxsize=8)
def table(seed: int = 0, rounds: int = 40) -> bytes:
    """The table of the small model's trees."""
    return model(seed, rounds).table()


def files(
    private_key: bytes, seed: int = 0, rounds: int = 40, with_online: bool = True, **changes: Any
) -> dict[str, bytes]:
    """The files of a signed toy bundle."""
    online = snapshot()
    found: dict[str, Any] = {
        "pipeline": NAME, "created_as_of": DAY.isoformat(), "program": program(), "model": model(seed, rounds), "label": "late", "risk": "minimal",
        "request": CONTRACT, "golden": golden_rows(program(), model(seed, rounds), [request(n) for n in range(20)], online),
        "golden_online": online if with_online else None, "table": table(seed, rounds), "candidate": "c" * 64, "training_set": "t" * 64,
        "sign": lambda content: signing.sign(private_key, content), "purpose": "Probability that an order is late.", "owner": "team:orders", "metrics": {"test_log_loss": 0.4},
        "bounds": learn(training_matrix(seed), program().names, program().categorical),
    }  # fmt: skip
    return bundle_files(**{**found, **changes})


@dataclass
class Running:
    """A running server process."""

    process: subprocess.Popen[bytes]
    url: str
    client: httpx.Client
    log: Path
    admin: httpx.Client
    """The loopback port with metrics, pages and descriptions."""

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(15)


@dataclass
class Place:
    """An endpoint's root folder with the keys of a platform."""

    root: Path
    private_key: bytes
    public_key_path: Path
    serial: int = 0
    url: str = field(default="http://127.0.0.1:1")

    @classmethod
    def new(cls, folder: Path) -> Place:
        private = signing.new_key()
        place = folder / "keys" / "platform.pub"
        write_atomically(place, signing.public_key(private))
        root = folder / "endpoint"
        root.mkdir()
        return cls(root, private, place)

    @property
    def endpoint(self) -> LocalEndpoint:
        return LocalEndpoint(path=str(self.root), url=self.url)

    @property
    def trials(self) -> Path:
        return self.root / NAME / "trials"

    @property
    def predictions(self) -> Path:
        return self.root / NAME / "predictions"

    def install(self, seed: int = 0, **changes: Any) -> str:
        """Install a bundle and return its digest."""
        contents = files(self.private_key, seed, **changes)
        digest = folder_digest(contents)
        self.endpoint.install(digest, contents)
        return digest

    def publish(self, online: Snapshot | None = None) -> None:
        content = sealed(
            online or snapshot(), lambda content: signing.sign(self.private_key, content)
        )
        write_atomically(self.root / NAME / "online.msgpack", content)

    def desire(
        self,
        *arms: tuple[str, float],
        serial: int | None = None,
        key: bytes | None = None,
        shadows: tuple[str, ...] = (),
        split_by: str = "",
    ) -> Desired:
        """Write a signed desired state, with the next serial."""
        self.serial = self.serial + 1 if serial is None else max(self.serial, serial)
        desired = Desired(
            pipeline=NAME,
            serial=self.serial if serial is None else serial,
            arms=arms,
            shadows=shadows,
            key=split_by,
            ledger_entry="1",
            issued="2024-01-10T00:00:00Z",
        )
        self.endpoint.desire(desired, signing.sign(key or self.private_key, desired.content))
        return desired

    def release(self, seed: int = 0, **changes: Any) -> str:
        """Publish a snapshot, install a bundle and desire it alone; returns its digest."""
        if not (self.root / NAME / "online.msgpack").exists():
            self.publish()
        digest = self.install(seed, **changes)
        self.desire((digest, 1.0))
        return digest

    def wait(self, digest: str, timeout: float = 20) -> Actual:
        """Wait until a bundle answers."""
        end = time.monotonic() + timeout
        while True:
            actual = self.endpoint.actual(NAME)
            if actual is not None and actual.ready and digest in actual.bundles:
                return actual
            assert time.monotonic() < end, f"bundle {digest} does not answer: {actual}"
            time.sleep(0.05)

    def wait_for_serial(self, timeout: float = 20) -> Actual:
        """Wait until the newest desired state is served."""
        end = time.monotonic() + timeout
        while True:
            actual = self.endpoint.actual(NAME)
            if actual is not None and actual.serial == self.serial:
                return actual
            assert time.monotonic() < end, f"serial {self.serial} is not served: {actual}"
            time.sleep(0.05)

    def wait_for_error(self, words: str, timeout: float = 15) -> Actual:
        """Wait until the endpoint reports an error that contains these words."""
        return self.wait_until(
            lambda actual: words in f"{actual.error} {actual.snapshot_error}", timeout
        )

    def wait_until(self, holds: Callable[[Actual], bool], timeout: float = 15) -> Actual:
        """Wait until a condition holds for what the endpoint reports."""
        end = time.monotonic() + timeout
        while True:
            actual = self.endpoint.actual(NAME)
            if actual is not None and holds(actual):
                return actual
            assert time.monotonic() < end, f"waited in vain; the endpoint reports {actual}"
            time.sleep(0.05)

    def wait_for_workers(self, count: int, timeout: float = 30) -> None:
        """Wait until so many workers serve."""
        end = time.monotonic() + timeout
        while True:
            states = [
                json.loads(path.read_bytes())
                for path in (self.root / NAME / "workers").glob("*.json")
            ]
            if sum(state["ready"] for state in states) >= count:
                return
            assert time.monotonic() < end, f"{states} are not {count} workers that serve"
            time.sleep(0.05)

    @contextmanager
    def server(
        self, *options: str, ready: bool = True, cpu: int | None = None, variables: Mapping[str, str] | None = None,
        key: str | None = None, certificate: Path | None = None,
    ) -> Iterator[Running]:  # fmt: skip
        """Run the server, with more `variables`; on leaving it is stopped (if it still runs). `ready` waits until it serves.

        Its clients send `key`, and trust `certificate` alone."""
        port, admin_port = free_ports(2)
        self.url = f"{'https' if certificate else 'http'}://127.0.0.1:{port}"
        log = self.root.parent / f"server-{port}.log"
        command = [
            sys.executable,
            "-m",
            "serving",
            "--root",
            str(self.root),
            "--port",
            str(port),
            "--admin-port",
            str(admin_port),
            "--public-key",
            str(self.public_key_path),
            *options,
        ]
        with open(log, "wb") as output:
            environment = {**os.environ, "PYTHONPATH": str(TREE), **(variables or {})}
            process = subprocess.Popen(
                command, stdout=output, stderr=output, cwd=self.root.parent, env=environment,
                preexec_fn=None if cpu is None else lambda: os.sched_setaffinity(0, {cpu}),
            )  # fmt: skip
        shown = {"authorization": f"Bearer {key}"} if key else {}
        trusted = ssl.create_default_context(cafile=certificate) if certificate else True
        with (
            httpx.Client(
                base_url=self.url, timeout=20, trust_env=False, headers=shown, verify=trusted
            ) as client,
            httpx.Client(
                base_url=f"http://127.0.0.1:{admin_port}",
                timeout=20,
                trust_env=False,
                headers=shown,
            ) as admin,
        ):
            running = Running(process, self.url, client, log, admin)
            try:
                _wait_ready(running, "/readyz" if ready else "/healthz")
                yield running
            finally:
                if process.poll() is None:
                    process.terminate()
                    try:
                        process.wait(15)
                    except subprocess.TimeoutExpired:
                        process.kill()
                        process.wait()


def _wait_ready(running: Running, path: str, timeout: float = 30) -> None:
    end = time.monotonic() + timeout
    while True:
        try:
            if running.client.get(path).status_code == 200:
                return
        except httpx.TransportError:
            pass
        if running.process.poll() is not None or time.monotonic() > end:
            raise AssertionError(
                f"the server is not ready (ended: {running.process.returncode}): {running.log.read_text()[-3000:]}"
            )
        time.sleep(0.05)


def headers(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    return {"content-type": "application/json", **(extra or {})}
