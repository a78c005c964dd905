"""The validation stage on the tiny pipeline: reports, pages, checks, and the champion by its own features."""

from __future__ import annotations

import shutil
from datetime import timedelta
from pathlib import Path

import dagster as dg
import msgspec
import pytest

from assets.names import raw_table
from assets.reporting.report import Report
from assets.tabular.validation import assets as stage, evidence as evidences, gates
from bundle.features.expression import category, col, days, join, rate
from declare.gates import Fairness, Gates
from declare.tabular import Tabular
from resources.artifacts import Artifacts
from resources.keys import Keys
from resources.lake import Lake
from resources.landing import Landing
from resources.ledger import Ledger
from resources.reports import Reports
from tests.support.entries import released
from tests.support.tiny import FIRST, land, tiny

DAYS = [FIRST + timedelta(days=offset) for offset in range(45)]
NAME = tiny.name


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with landed data, features, a baseline and a candidate, made once."""
    from assets.data import raw
    from assets.data.ingest import collect
    from assets.data.parse import parse
    from assets.tabular.features.point_in_time import features

    home = tmp_path_factory.mktemp("validated")
    lake, landing = Lake(uri=str(home / "lake")), Landing(uri=str(home / "landing"))
    land(landing, last=DAYS[-1])
    for source in tiny.sources:
        rows = parse(source, collect(tiny, source, DAYS, landing)).rows
        stored = rows.select(
            [
                name
                for name in rows.columns
                if name in {*source.columns, "event_time", "known_at", "date"}
            ]
        )
        place = raw_table(NAME, source.name)
        lake.write(place, stored, DAYS) if source.daily else lake.overwrite(place, stored)
    lake.write(f"{NAME}/features", features(tiny, DAYS, raw.reader(lake, NAME)), DAYS)
    World(home).train()
    return home


class World:
    """A platform home up to a trained candidate."""

    def __init__(self, home: Path) -> None:
        self.lake = Lake(uri=str(home / "lake"))
        self.artifacts = Artifacts(uri=str(home / "artifacts"))
        self.reports = Reports(uri=str(home / "reports"), url="http://reports")
        self.ledger = Ledger(
            path=str(home / "ledger" / "ledger.db"), signer=Keys(path=str(home / "keys"))
        )
        self.instance = dg.DagsterInstance.ephemeral()

    def train(self, pipeline: Tabular = tiny, point: bool = True) -> dict[str, bytes]:
        """Train a baseline and a candidate (of other features, perhaps) and make them the newest; the candidate's files."""
        from assets.data import raw
        from assets.tabular.features.declared_program import program
        from assets.tabular.features.point_in_time import features
        from assets.tabular.training import baseline, candidate, manifest, tuning

        lake = self.lake
        if not point:
            lake = Lake(uri=self.lake.uri + "-other")
            for source in pipeline.sources:
                place = raw_table(NAME, source.name)
                rows = self.lake.scan(place).collect() if source.daily else self.lake.read(place)
                lake.write(place, rows, DAYS) if source.daily else lake.overwrite(place, rows)
            lake.write(f"{NAME}/features", features(pipeline, DAYS, raw.reader(lake, NAME)), DAYS)
        rows = manifest.assemble(pipeline, lake)
        digest = self.artifacts.put("training_sets", {manifest.FILE: rows.manifest.encode()})
        files = candidate.train(
            pipeline,
            rows,
            digest,
            program(pipeline),
            tuning.first_parameters(pipeline, rows.manifest.rows["train"]),
            None,
        ).files
        if point:
            fitted = baseline.train(rows, digest, program(pipeline), 1.0)
            self.artifacts.point(NAME, "baseline", self.artifacts.put("baselines", fitted.files))
            self.artifacts.point(NAME, "candidate", self.artifacts.put("candidates", files))
        return files

    def release(self, files: dict[str, bytes]) -> str:
        """Make these files the champion, as far as the validation stage looks."""
        digest = self.artifacts.put("bundles", files)
        released(self.ledger, NAME, digest, DAYS[-1])
        return digest

    def run(
        self, pipeline: Tabular = tiny, *names: str, raises: bool = True
    ) -> dg.ExecuteInProcessResult:
        keys = [dg.AssetKey([NAME, *name.split("/")]) for name in names or gates.REPORTS]
        resources = {
            "lake": self.lake,
            "artifacts": self.artifacts,
            "reports": self.reports,
            "ledger": self.ledger,
        }
        return dg.materialize(
            stage.build(pipeline),
            selection=dg.AssetSelection.assets(*keys),
            instance=self.instance,
            resources=resources,
            raise_on_error=raises,
        )

    @property
    def candidate(self) -> str:
        digest = self.artifacts.pointed(NAME, "candidate")
        assert digest is not None
        return digest

    def stored(self, pipeline: Tabular = tiny) -> dict[str, Report | None]:
        return gates.stored(self.reports, pipeline, DAYS[-1], self.candidate)

    def report(self, name: str) -> Report:
        report = self.stored()[name]
        assert report is not None
        return report


@pytest.fixture
def world(trained: Path, tmp_path: Path) -> World:
    shutil.copytree(trained, tmp_path / "home")
    return World(tmp_path / "home")


@pytest.fixture(scope="module")
def validated(
    trained: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[World, dg.ExecuteInProcessResult]:
    """A home in which all five validations ran once; tests only read it."""
    home = tmp_path_factory.mktemp("reported") / "home"
    shutil.copytree(trained, home)
    world = World(home)
    return world, world.run()


def test_five_reports_with_pages_plots_and_a_warn_check_for_every_gate(
    validated: tuple[World, dg.ExecuteInProcessResult],
) -> None:
    world, result = validated
    assert result.success
    required = gates.required_gates(tiny)
    checks = {
        (evaluation.asset_key.path[-1], evaluation.check_name): evaluation
        for evaluation in result.get_asset_check_evaluations()
    }
    assert set(checks) == {
        (name.split("/")[1], rule) for name, rules in required.items() for rule in rules
    }
    assert all(
        evaluation.severity == dg.AssetCheckSeverity.WARN and not evaluation.blocking
        for evaluation in checks.values()
    )
    assert all(
        {"n", "limit", "judged", "report"} <= set(evaluation.metadata)
        for evaluation in checks.values()
    )
    for name in gates.REPORTS:
        report = world.report(name)
        (materialization,) = result.asset_materializations_for_node(
            f"{NAME}__{name.replace('/', '__')}"
        )
        assert report.subject == world.candidate
        assert [verdict.rule for verdict in report.verdicts] == list(required[name])
        link = str(materialization.metadata["report"].value)
        page = Path(world.reports.uri) / link.removeprefix("http://reports/")
        assert report.digest[:16] in page.read_text()
        images = [
            value.value
            for value in materialization.metadata.values()
            if "data:image/png;base64," in str(value.value)
        ]
        assert images
        assert all(len(str(image)) < 60_000 for image in images)


def test_first_candidate_has_no_champion_to_beat_and_may_be_released(
    validated: tuple[World, dg.ExecuteInProcessResult],
) -> None:
    world, _ = validated
    verdict = next(
        verdict
        for verdict in world.report(gates.PERFORMANCE).verdicts
        if verdict.rule == "not_worse_than_champion"
    )
    assert verdict.passed is True
    assert "no champion yet" in verdict.reason
    failed = [
        verdict.rule
        for report in world.stored().values()
        if report
        for verdict in report.verdicts
        if verdict.passed is False
    ]
    refusals = gates.refusals(tiny, world.stored(), world.candidate, None)
    assert len(refusals) == len(failed)


def test_a_release_since_the_report_makes_it_stale(
    validated: tuple[World, dg.ExecuteInProcessResult],
) -> None:
    world, _ = validated
    assert any(
        "released now" in refusal
        for refusal in gates.refusals(tiny, world.stored(), world.candidate, "b" * 64)
    )


def test_equal_inputs_give_equal_reports(
    validated: tuple[World, dg.ExecuteInProcessResult],
) -> None:
    world, _ = validated
    first = {name: report.digest for name, report in world.stored().items() if report}
    assert len(first) == len(gates.REPORTS)
    for name in gates.REPORTS:
        (
            Path(world.reports.uri)
            / world.reports.folder(NAME, name, DAYS[-1], world.candidate)
            / "report.json"
        ).unlink()
    world.run()
    assert first == {name: report.digest for name, report in world.stored().items() if report}


def test_the_champion_itself_is_exactly_as_good_as_the_candidate(world: World) -> None:
    digest = world.release(world.artifacts.get("candidates", world.candidate))
    world.run(tiny, gates.PERFORMANCE)
    report = world.report(gates.PERFORMANCE)
    assert gates.compared_champion(report) == digest
    measure = report.measure("log_loss_worse_by", "champion")
    assert measure is not None
    assert (measure.value, measure.low, measure.high) == (0, 0, 0)
    assert "Intervals draw whole days" in " ".join(report.notes)


def test_a_champion_of_other_features_predicts_with_its_own(world: World) -> None:
    """Its features are computed again from raw rows, to the same values that it was trained on."""
    other = tiny.model_copy(
        update={
            "features": (
                (col("load") * 2).named("load"),
                category("machine"),
                rate("fails", by="machine", over=days(3)).named("recent"),
            )
        }
    )
    files = world.train(other, point=False)
    world.release(files)
    champion = evidences.champion(tiny, world.ledger, world.artifacts)
    evidence = evidences.load(tiny, world.lake, world.artifacts)
    assert champion is not None
    predicted, notes = evidences.champion_predictions(champion, evidence, world.lake)
    own = Lake(uri=world.lake.uri + "-other").scan(f"{NAME}/features").collect()
    rows = evidence.frame.select("job_id").join(own, on="job_id", how="left", maintain_order="left")
    assert predicted == pytest.approx(
        champion.model.predict(champion.program.matrix(rows)), abs=1e-12
    )
    assert "load, recent" in notes[0]
    assert len(notes) == 1


def test_a_champion_whose_source_is_gone_is_compared_on_what_is_left_and_that_is_said(
    world: World,
) -> None:
    files = world.train(
        tiny.model_copy(update={"features": (*tiny.features, join("machines").age.named("years"))}),
        point=False,
    )
    world.release(files)
    gone = tiny.model_copy(
        update={
            "sources": tuple(source for source in tiny.sources if source.name != "machines"),
            "features": tuple(
                feature for feature in tiny.features if feature.name != "machines_age"
            ),
        }
    )
    champion = evidences.champion(gone, world.ledger, world.artifacts)
    evidence = evidences.load(gone, world.lake, world.artifacts)
    assert champion is not None
    program = msgspec.structs.replace(evidence.program, features=tuple(gone.features))
    assert evidences.lost_features(champion.program, gone) == ("machines_age", "years")
    predicted, notes = evidences.champion_predictions(champion, evidence, world.lake)
    assert len(predicted) == evidence.n
    assert "machines_age" not in program.names
    assert any("flatters the candidate" in note and "years" in note for note in notes)


def test_a_failing_gate_is_a_warning_with_number_limit_and_n_on_a_green_run(world: World) -> None:
    strict = tiny.model_copy(
        update={"gates": Gates(min_roc_auc=0.999, min_slice_rows=20, max_noise_shift=1e-6)}
    )
    result = world.run(strict)
    assert result.success
    failed = {
        evaluation.check_name: evaluation
        for evaluation in result.get_asset_check_evaluations()
        if not evaluation.passed
    }
    assert {"roc_auc_is_high", "noise_moves_little"} <= set(failed)
    metadata = failed["roc_auc_is_high"].metadata
    assert metadata["limit"].value == 0.999
    assert metadata["number"].value < 0.999
    assert metadata["n"].value == world.report(gates.PERFORMANCE).measures[0].n
    assert gates.refusals(strict, world.stored(strict), world.candidate, None)


def test_a_pipeline_without_slices_and_groups_says_so_loudly(world: World) -> None:
    bare = tiny.model_copy(update={"slices": (), "fairness": (), "gates": Gates(min_slice_rows=20)})
    assert world.run(bare, gates.SLICES, gates.FAIRNESS).success
    assert "No slices are declared" in world.report(gates.SLICES).notes[0]
    assert "NOT" in world.report(gates.FAIRNESS).verdicts[0].reason
    assert "not examined at all" in world.report(gates.FAIRNESS).notes[0]


def test_groups_of_a_declared_column_are_judged(world: World) -> None:
    pipeline = tiny.model_copy(
        update={
            "fairness": (
                Fairness(column="machine", reason="a test", judged=("demographic_parity",)),
            ),
            "gates": Gates(max_fairness_gap=0.01, min_slice_rows=20),
        }
    )
    world.run(pipeline, gates.FAIRNESS)
    (verdict,) = world.report(gates.FAIRNESS).verdicts
    assert verdict.passed is False
    assert verdict.n > 0
    assert "demographic_parity of machine" in verdict.reason


def test_a_baseline_of_another_training_set_is_refused(world: World) -> None:
    files = world.artifacts.get("baselines", world.artifacts.pointed(NAME, "baseline") or "")
    facts = msgspec.json.decode(files["facts.json"])
    files["facts.json"] = msgspec.json.encode({**facts, "training_set": "0" * 64})
    world.artifacts.point(
        NAME,
        "baseline",
        world.artifacts.put(
            "baselines", {name: content for name, content in files.items() if name != "SHA256SUMS"}
        ),
    )
    with pytest.raises(ValueError, match="same training set"):
        world.run(tiny, gates.PERFORMANCE)


def test_test_rows_that_changed_since_training_are_refused(world: World) -> None:
    import polars as pl

    day = world.lake.scan(f"{NAME}/features", DAYS[-3], DAYS[-3]).collect()
    world.lake.write(f"{NAME}/features", day.with_columns(pl.col("load") + 1), [DAYS[-3]])
    with pytest.raises(ValueError, match=f"{DAYS[-3]}"):
        world.run(tiny, gates.SLICES)


def test_no_candidate_yet_names_the_way_out(world: World, tmp_path: Path) -> None:
    world.artifacts = Artifacts(uri=str(tmp_path / "empty"))
    with pytest.raises(ValueError, match="materialize tiny/candidate first"):
        world.run(tiny, gates.ROBUSTNESS)
