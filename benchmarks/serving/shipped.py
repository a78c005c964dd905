"""The shipped pipeline as a task: `flight_delays` itself, its lookups without keys among the rest.

The feature program and the snapshot are the pipeline's own, on its recorded data. The model is a
small one of the declared kind. The synthetic task beside it, which peers can do as well, is `task`.
"""

from __future__ import annotations

import hashlib
import shutil
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from assets.data import raw
from assets.data.ingest import collect, ingest
from assets.data.parse import parse
from assets.names import DAY, FEATURES, asset_path, day_range, raw_table
from assets.tabular import bundling
from assets.tabular.features.declared_program import program
from assets.tabular.features.point_in_time import features
from assets.tabular.features.snapshot import snapshot
from assets.tabular.training import candidate, manifest
from benchmarks.serving.bodies import Encoding, plain_answer, rows_as_json
from benchmarks.serving.servers import Server, endpoint_command
from benchmarks.serving.task import Task
from bundle.assembly import environment
from bundle.desired import Desired
from bundle.digests import folder_digest
from bundle.features.program import FeatureProgram
from bundle.files import write_atomically
from bundle.models.loading import load_model
from bundle.online_file import sealed
from pipelines.flight_delays import pipeline
from pipelines.flight_delays.feed import Feed
from resources.artifacts import Artifacts
from resources.endpoint import LocalEndpoint
from resources.keys import Keys
from resources.lake import Lake
from resources.landing import Landing

if TYPE_CHECKING:
    import polars as pl

DAYS = day_range(date(2013, 1, 1), date(2013, 2, 5))
ASKED = DAYS[-1]
ROUNDS = {"rounds": 60}
"""Fewer trees than the pipeline would train: what is measured is the way of a row to them."""

JSON = Encoding(f"/predict/{pipeline.name}", "application/json", rows_as_json, plain_answer)
SHIPPED = Server("flight_delays", "the shipped pipeline", endpoint_command, JSON, locked=False)


def prepared(folder: Path) -> Task:
    """The task, made in `folder` unless it is there and nothing that it depends on has changed.

    `requests` are those of one day, over and over up to 10,000; `expected` comes from the feature
    table, not from what an endpoint computes.
    """
    stamp, wanted = folder / "stamp", _version()
    if not stamp.exists() or stamp.read_text() != wanted:
        shutil.rmtree(folder, ignore_errors=True)
        _make(folder)
        write_atomically(stamp, wanted.encode())

    stored = msgspec.json.decode((folder / "asked.json").read_bytes())
    requests, expected = tuple(stored["requests"]), tuple(stored["expected"])
    times = 10_000 // len(requests) + 1
    return Task(
        folder / "endpoint",
        Keys(path=str(folder / "keys")).public_path,
        "",
        folder / "no-model",
        tuple(stored["names"]),
        (requests * times)[:10_000],
        (),
        (expected * times)[:10_000],
    )


def bundle_of(lake: Lake, artifacts: Artifacts, keys: Keys) -> tuple[str, dict[str, bytes]]:
    """A candidate trained on the features of a lake, without a study, and its bundle's files."""
    rows = manifest.assemble(pipeline, lake)
    training_set = artifacts.put("training_sets", {manifest.FILE: rows.manifest.encode()})
    trained = candidate.train(pipeline, rows, training_set, program(pipeline), ROUNDS, None)
    digest = artifacts.put("candidates", trained.files)
    return digest, bundling.assemble(pipeline, digest, trained.files, {}, artifacts, lake, keys)


def _make(folder: Path) -> None:
    """Ingest, train, bundle, install and desire; keep the requests and what they are answered."""
    lake, artifacts = Lake(uri=str(folder / "lake")), Artifacts(uri=str(folder / "artifacts"))
    keys = Keys(path=str(folder / "keys"))
    table = _features(lake, Landing(uri=str(folder / "landing")))
    _, files = bundle_of(lake, artifacts, keys)
    _desire(folder, files, keys, lake)
    write_atomically(folder / "asked.json", _asked(folder, table, files))


def _features(lake: Lake, landing: Landing) -> pl.DataFrame:
    """Land and ingest the days; their feature table."""
    feed = Feed(landing.uri)
    feed.land_once()
    for day in [*DAYS, DAYS[-1] + DAY]:
        feed.land(day)
    for source in pipeline.sources:
        if source.daily:
            ingest(pipeline, source, DAYS, landing, lake)
            continue
        rows = parse(source, collect(pipeline, source, DAYS, landing)).rows
        stored = [name for name in rows.columns if not name.startswith("_")]
        lake.overwrite(raw_table(pipeline.name, source.name), rows.select(stored))

    table = features(pipeline, DAYS, raw.reader(lake, pipeline.name))
    lake.write(asset_path(pipeline.name, FEATURES), table, DAYS)
    return table


def _desire(folder: Path, files: dict[str, bytes], keys: Keys, lake: Lake) -> None:
    """Install the bundle, publish the snapshot of the asked day, and desire the bundle alone."""
    digest = folder_digest(files)
    endpoint = LocalEndpoint(path=str(folder / "endpoint"), url="http://127.0.0.1:1")
    endpoint.install(digest, files)
    online = snapshot(pipeline, ASKED, raw.reader(lake, pipeline.name))
    place = folder / "endpoint" / pipeline.name / "online.msgpack"
    write_atomically(place, sealed(online, keys.sign))
    desired = Desired(
        pipeline=pipeline.name,
        serial=1,
        arms=((digest, 1.0),),
        shadows=(),
        key="",
        ledger_entry="1",
        issued=datetime.now(UTC).isoformat(),
    )
    endpoint.desire(desired, keys.sign(desired.content))


def _asked(folder: Path, table: pl.DataFrame, files: dict[str, bytes]) -> bytes:
    """The requests of a day with the predictions of the same rows of the feature table."""
    import polars as pl

    fitted = FeatureProgram.decode(files["program.json"])
    rows = table.filter(pl.col("date") == ASKED)
    outputs = load_model(files).predict(fitted.matrix(rows))
    known = dict(zip(rows["flight_id"], (float(output) for output in outputs), strict=True))
    requests = Feed(str(folder / "landing")).requests(ASKED)
    expected = [known[str(request["flight_id"])] for request in requests]
    return msgspec.json.encode({"requests": requests, "expected": expected, "names": fitted.names})


def _version() -> str:
    """Changes with this module, with what makes bundles and features, and with the packages."""
    tree = Path(__file__).resolve().parent.parent.parent
    rooms = ("bundle", "declare", "assets/tabular/features", "pipelines/flight_delays")
    digest = hashlib.sha256(msgspec.json.encode(environment()))
    digest.update(Path(__file__).read_bytes())
    for room in rooms:
        for source in sorted((tree / room).rglob("*.py")):
            digest.update(source.read_bytes())
    return digest.hexdigest()
