"""From a candidate to its bundle: all that an endpoint needs, and the digests of the evidence.

What happens to a stored bundle, its approval and release, belongs to `assets.release`.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, Any

from assets.data import raw
from assets.names import DAY, FEATURES, asset_path
from assets.tabular.features.moments import refresh
from assets.tabular.monitoring.champion import candidate_reference
from assets.tabular.training.candidate import FACTS, PROGRAM, CandidateFacts
from assets.tabular.training.cpus import threads
from assets.tabular.training.manifest import FILE, TrainingManifest, TrainingRows, load_rows
from bundle.assembly import bundle_files
from bundle.features.program import FeatureProgram
from bundle.golden import GoldenRow, golden_rows
from bundle.manifest import RequestField
from bundle.models.bounds import learn
from bundle.models.loading import load_model
from bundle.models.model import Model
from bundle.models.trees.table import NoTableError
from declare.source import DATE, EVENT_TIME, KNOWN_AT

if TYPE_CHECKING:
    import polars as pl

    from assets.reporting.report import Report
    from bundle.features.online import Snapshot
    from declare.tabular import Tabular
    from resources.artifacts import Artifacts
    from resources.keys import Keys
    from resources.lake import Lake

logger = logging.getLogger(__name__)

# Features of one row computed in two ways differ by rounding to float32 at most.
ROW_TOLERANCE = 1e-5


@dataclass(frozen=True)
class Golden:
    """Golden rows with the snapshot that they were computed from.

    `parity` is the greatest difference between their outputs and those of the same rows of the
    feature table. It shows that what is answered and what was trained on are the same.
    """

    rows: tuple[GoldenRow, ...]
    snapshot: Snapshot
    parity: float


def assemble(
    pipeline: Tabular,
    digest: str,
    candidate: Mapping[str, bytes],
    reports: Mapping[str, Report | None],
    artifacts: Artifacts,
    lake: Lake,
    keys: Keys,
) -> dict[str, bytes]:
    """All files of the bundle of a candidate. Equal candidates on equal evidence give equal bytes.

    Raises FileNotFoundError naming the validation reports that are missing, ValueError where the
    training rows changed, or where the features of the golden rows differ between the feature table
    and the endpoint's computation.
    """
    if missing := [name for name, report in reports.items() if report is None]:
        paths = ", ".join(asset_path(pipeline.name, name) for name in missing)
        raise FileNotFoundError(
            f"candidate {digest} has no report {', '.join(missing)}; materialize {paths} first"
        )

    facts = CandidateFacts.decode(candidate[FACTS])
    program = FeatureProgram.decode(candidate[PROGRAM])
    model = load_model(candidate, threads=threads())
    rows = load_rows(
        pipeline,
        TrainingManifest.decode(artifacts.get("training_sets", facts.training_set)[FILE]),
        lake,
    )
    golden = golden_of(pipeline, program, model, rows, raw.reader(lake, pipeline.name))
    metrics: dict[str, float | None] = {}
    for part, found in facts.metrics.items():
        metrics |= {f"{part}_{name}": value for name, value in found.items()}

    return bundle_files(
        pipeline=pipeline.name,
        created_as_of=facts.as_of,
        program=program,
        model=model,
        label=pipeline.label.name,
        risk=pipeline.risk,
        owner=pipeline.owner,
        purpose=pipeline.purpose,
        request=request_contract(pipeline),
        golden=golden.rows,
        golden_online=golden.snapshot,
        reference=candidate_reference(rows.frame, program, model),
        table=table_of(model),
        bounds=learn(program.matrix(rows.frame), program.names, program.categorical),
        candidate=digest,
        training_set=facts.training_set,
        metrics=metrics,
        evidence={name: report.digest for name, report in reports.items() if report is not None},
        sign=keys.sign,
    )


def table_of(model: Model) -> bytes | None:
    """The table of a model's trees. None where it has none: endpoints then answer more slowly."""
    try:
        return model.table()
    except NoTableError as error:
        logger.warning("the bundle holds no table of trees: %s", error)
        return None


def request_contract(pipeline: Tabular) -> dict[str, RequestField]:
    """What an application sends, column by column, as the source declares it."""
    return {
        name: RequestField(
            kind=column.kind,
            nullable=column.nullable,
            ge=column.ge,
            le=column.le,
            values=column.values,
            pattern=column.pattern,
            description=column.description,
        )
        for name, column in pipeline.request_columns.items()
    }


def golden_of(
    pipeline: Tabular, program: FeatureProgram, model: Model, rows: TrainingRows, read: raw.Reader
) -> Golden:
    """Golden rows from the newest test days, evenly spread, computed as the endpoint does.

    Raises ValueError naming the first feature that the endpoint computes differently from the
    feature table.
    """
    import numpy as np

    from assets.tabular.features.snapshot import snapshot

    day = rows.manifest.split["test"].last
    chosen = golden_frame(pipeline, rows.part("test"), day)
    online = snapshot(pipeline, day, read)
    golden = golden_rows(program, model, requests_of(pipeline, chosen, read, day), online)
    table = program.matrix(chosen)
    computed = np.array(
        [[np.nan if value is None else value for value in row.row] for row in golden],
        dtype=np.float32,
    )
    agree = np.isclose(computed, table, rtol=ROW_TOLERANCE, atol=1e-6, equal_nan=True)
    if not agree.all():
        index, column = (int(position) for position in np.argwhere(~agree)[0])
        entity = chosen.get_column(pipeline.entity)[index]
        raise ValueError(
            f"feature {program.names[column]!r} of {pipeline.entity} {entity!r} is "
            f"{table[index, column]} in the feature table, but the endpoint computes "
            f"{computed[index, column]} ({int((~agree).sum())} of {agree.size} values differ); "
            f"materialize {asset_path(pipeline.name, FEATURES)} from {day - DAY} on again, "
            "and train anew"
        )
    parity = float(
        np.max(np.abs(model.predict(table) - np.array([row.expected for row in golden])))
    )
    return Golden(tuple(golden), online, parity)


def golden_frame(pipeline: Tabular, test: pl.DataFrame, day: date) -> pl.DataFrame:
    """Up to `golden_rows` rows of the last two test days in canonical order, evenly spread.

    A snapshot keeps the aggregates of two refreshes, so rows that were predicted before the older
    one are left out.
    """
    import numpy as np
    import polars as pl

    recent = test.filter(
        (pl.col(DATE) >= day - DAY) & (pl.col(KNOWN_AT) >= refresh(pipeline, day - DAY))
    )
    count = min(recent.height, pipeline.gates.golden_rows)
    if count == 0:
        raise ValueError(
            f"pipeline {pipeline.name!r} has no test rows on {day - DAY} and {day}; golden rows "
            "need some"
        )
    chosen: pl.DataFrame = recent[
        np.linspace(0, recent.height - 1, count).round().astype(int).tolist()
    ]
    return chosen


def requests_of(
    pipeline: Tabular, chosen: pl.DataFrame, read: raw.Reader, day: date
) -> list[dict[str, Any]]:
    """The requests behind rows of the feature table, in their order, as applications sent them."""
    from assets.tabular.features.versions import request_rows

    names = list(pipeline.request_columns)
    sent = request_rows(pipeline, read, day - DAY, day, names)
    found = chosen.select(pipeline.entity).join(
        sent, on=pipeline.entity, how="left", maintain_order="left"
    )
    return found.select([*names, EVENT_TIME]).to_dicts()
