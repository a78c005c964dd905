"""What is served follows the ledger, and the ledger follows evidence. Nothing else moves traffic."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from assets.endpoint import assets as endpoint_stage, delivery
from assets.endpoint.delivery import Limits
from assets.lifecycles import kind_of
from assets.names import raw_table
from assets.release import assets as release_stage
from assets.reporting.report import Measure, Report, save_report
from assets.tabular.validation import gates
from assets.tabular.validation.terms import ALL_NUMBERS
from assets.traffic import decisions
from assets.traffic.standing import proposal
from bundle import manifest as manifests
from bundle.desired import Actual, ArmState, arm_name, unseal
from declare.release import ReleasePolicy
from declare.tabular import Tabular
from resources.artifacts import Artifacts
from resources.endpoint import LocalEndpoint
from resources.keys import Keys
from resources.lake import Lake
from resources.landing import Landing
from resources.ledger import Ledger
from resources.reports import Reports
from resources.tracking import Tracking
from tests.support.endpoint import Place
from tests.support.tiny import FIRST, land, tiny

DAYS = [FIRST + timedelta(days=offset) for offset in range(45)]
CHECKED, NAME = dg.AssetCheckKey(dg.AssetKey(["tiny", "bundle"]), "integrity"), tiny.name


class Killed(BaseException):
    """Stands for a SIGKILL: nothing in the platform catches it."""


class FakeEndpoint(LocalEndpoint):
    """The server's rules in process: a signed desired state, a verified bundle, golden rows. `down` names a file that, while it
    is there, stands for a stopped process; `public` is the platform's public key."""

    down: str
    public: str

    def actual(self, pipeline: str) -> Actual | None:
        if Path(self.down).exists():
            return None
        place = Path(self.path) / pipeline / "desired.json"
        if not place.exists():
            return Actual(pipeline=pipeline, ready=False)
        desired = unseal(place.read_bytes(), Path(self.public).read_bytes(), pipeline)
        arms = tuple(
            ArmState(arm_name(place), self.loaded(digest).digest, share)
            for place, (digest, share) in enumerate(desired.arms)
        )
        shadows = tuple(self.loaded(digest).digest for digest in desired.shadows)
        return Actual(
            pipeline=pipeline,
            ready=True,
            serial=desired.serial,
            desired_serial=desired.serial,
            arms=arms,
            shadows=shadows,
        )

    def golden(self, pipeline: str) -> dict[str, Any]:
        actual = self.actual(pipeline)
        assert actual is not None
        found = [
            (digest, self.loaded(digest).check_golden())
            for digest in (*actual.bundles, *actual.shadows)
        ]
        return {
            "bundles": [
                {"bundle": digest, "rows": g.rows, "difference": g.difference, "row_ms": g.row_ms}
                for digest, g in found
            ]
        }

    def loaded(self, digest: str) -> manifests.Bundle:
        return manifests.load(
            Path(self.path) / "bundles" / digest, Path(self.public).read_bytes(), digest
        )


class FakeTracking(Tracking):
    """An alias in a file; `breaks` names a file that, while it is there, says how moving it fails."""

    breaks: str

    def move_alias(self, pipeline: str, alias: str, candidate: str) -> str | None:
        if Path(self.breaks).exists():
            raise {"killed": Killed, "broken": ConnectionError}[Path(self.breaks).read_text()](
                "MLflow"
            )
        Path(self.uri).write_text(json.dumps({alias: candidate}))
        return "1"


class World:
    """A platform home with two trained candidates of the tiny pipeline, and everything behind them."""

    def __init__(self, home: Path, pipeline: Tabular = tiny) -> None:
        self.home = home
        self.pipeline = pipeline
        self.instance = dg.DagsterInstance.ephemeral()
        self.lake = Lake(uri=str(home / "lake"))
        self.artifacts = Artifacts(uri=str(home / "artifacts"))
        self.reports = Reports(uri=str(home / "reports"), url="http://reports")
        self.keys = Keys(path=str(home / "keys"))
        self.ledger = Ledger(path=str(home / "ledger" / "ledger.db"), signer=self.keys)
        self.endpoint: LocalEndpoint = FakeEndpoint(
            path=str(home / "endpoint"),
            url="http://endpoint:8080",
            down=str(home / "down"),
            public=str(self.keys.public_path),
        )
        self.tracking = FakeTracking(
            uri=str(home / "alias.json"), url="", breaks=str(home / "breaks")
        )

    @property
    def candidates(self) -> list[str]:
        return json.loads((self.home / "candidates.json").read_text())

    @property
    def day(self) -> date:
        return DAYS[-1]

    def propose(self, index: int, **measured: float) -> str:
        """Make a candidate the newest one, with reports in which every gate passes but for what `measured` says."""
        candidate = self.candidates[index]
        self.artifacts.point(NAME, "candidate", candidate)
        for name, measures in good_measures(self.ledger.released(NAME), **measured).items():
            report = Report(
                pipeline=NAME, name=name, subject=candidate, day=self.day, measures=tuple(measures)
            )
            save_report(
                self.reports,
                report.model_copy(
                    update={"verdicts": gates.verdicts(self.pipeline, name, measures)}
                ),
            )
        return candidate

    def run(self, *names: str, raises: bool = True) -> dg.ExecuteInProcessResult:
        """Materialize assets of the release and endpoint stages (all by default)."""
        keys = [
            dg.AssetKey([NAME, name])
            for name in names or ("bundle", "approval", "release", "endpoint")
        ]
        return dg.materialize(
            [
                *release_stage.build(self.pipeline, kind_of(self.pipeline)),
                *endpoint_stage.build(self.pipeline),
            ],
            selection=dg.AssetSelection.assets(*keys),
            instance=self.instance,
            raise_on_error=raises,
            resources={
                "lake": self.lake, "artifacts": self.artifacts, "reports": self.reports, "keys": self.keys, "ledger": self.ledger,
                "endpoint": self.endpoint, "tracking": self.tracking,
            },
        )  # fmt: skip

    @property
    def bundle(self) -> str:
        digest = self.artifacts.pointed(NAME, "bundle")
        assert digest is not None
        return digest

    @property
    def kinds(self) -> list[str]:
        return [entry.kind for entry in self.ledger.entries(NAME)]

    @property
    def served(self) -> str | None:
        actual = self.endpoint.actual(NAME)
        assert actual is not None
        return actual.bundles[0] if actual.bundles else None

    @property
    def alias(self) -> str:
        return json.loads(Path(self.tracking.uri).read_text())["champion"]

    def approve(self, actor: str) -> None:
        manifest = manifests.verify(
            self.artifacts.get("bundles", self.bundle), self.keys.public_pem()
        )
        decisions.approve(self.ledger, proposal(self.bundle, manifest), actor, "looks right")

    def report_path(self, name: str, index: int) -> Path:
        return (
            Path(self.reports.uri)
            / self.reports.folder(NAME, name, self.day, self.candidates[index])
            / "report.json"
        )


def good_measures(
    champion: str | None, *, roc_auc: float = 0.85, worse_by: float = -0.1
) -> dict[str, list[Measure]]:
    """Measures with which every gate passes, seen from the champion released now."""
    others = ["baseline", *(["champion"] if champion else [])]
    performance = [
        Measure(name="champion", value=None, n=400, group=champion or "none"),
        Measure(
            name="calibration_error", value=0.05, low=0.03, high=0.07, n=400, group="candidate"
        ),
        Measure(
            name="roc_auc",
            value=roc_auc,
            low=roc_auc - 0.02,
            high=roc_auc + 0.02,
            n=400,
            group="candidate",
        ),
        *(
            Measure(
                name="log_loss_worse_by",
                value=worse_by,
                low=worse_by - 0.02,
                high=worse_by + 0.02,
                n=400,
                group=o,
            )
            for o in others
        ),
    ]
    robustness = [
        Measure(name="invalid_predictions", value=0, n=400),
        *(
            Measure(name=name, value=0.01, low=0.0, high=0.02, n=400, group=group)
            for name, group in (
                ("loss_increase", "missing: load"),
                ("loss_increase", "missing source: heat"),
                ("loss_increase", "unseen category: machine"),
                ("shift", f"noise: {ALL_NUMBERS}"),
            )
        ),
    ]
    return {
        gates.PERFORMANCE: performance,
        gates.SLICES: [
            Measure(name="gap", value=0.0, low=-0.1, high=0.1, n=100, group="machine=anvil")
        ],
        gates.FAIRNESS: [],
        gates.EXPLAINABILITY: [Measure(name="additivity_error", value=0.0, n=100)],
        gates.ROBUSTNESS: robustness,
    }


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with landed data, features and two candidates, made once."""
    from assets.data import raw
    from assets.data.ingest import collect
    from assets.data.parse import parse
    from assets.tabular.features.declared_program import program
    from assets.tabular.features.point_in_time import features
    from assets.tabular.training import candidate as training, manifest as training_sets

    home = tmp_path_factory.mktemp("trained")
    lake, artifacts, landing = (
        Lake(uri=str(home / "lake")),
        Artifacts(uri=str(home / "artifacts")),
        Landing(uri=str(home / "landing")),
    )
    land(landing, last=DAYS[-1])
    for source in tiny.sources:
        rows = parse(source, collect(tiny, source, DAYS, landing)).rows
        place = raw_table(NAME, source.name)
        stored = rows.select(
            [
                name
                for name in rows.columns
                if name in {*source.columns, "event_time", "known_at", "date"}
            ]
        )
        lake.write(place, stored, DAYS) if source.daily else lake.overwrite(place, stored)
    lake.write(f"{NAME}/features", features(tiny, DAYS, raw.reader(lake, NAME)), DAYS)
    rows = training_sets.assemble(tiny, lake)
    digest = artifacts.put("training_sets", {training_sets.FILE: rows.manifest.encode()})
    found = [
        artifacts.put(
            "candidates", training.train(tiny, rows, digest, program(tiny), parameters, None).files
        )
        for parameters in ({"max_depth": 3}, {"max_depth": 2})
    ]
    (home / "candidates.json").write_text(json.dumps(found))
    return home


@pytest.fixture
def world(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setattr(endpoint_stage, "RETRIES", None)
    monkeypatch.setattr(delivery, "LIMITS", Limits(answers=0.3, serves=20))
    shutil.copytree(trained, tmp_path / "home")
    return World(tmp_path / "home")


def succeeded(result: dg.ExecuteInProcessResult) -> list[str]:
    assert result.success
    return [
        event.asset_key.path[-1]
        for event in result.get_asset_materialization_events()
        if event.asset_key
    ]


def why_not(world: World, name: str) -> str:
    """What the newest observation of an asset says."""
    records = world.instance.fetch_observations(dg.AssetKey([NAME, name]), limit=1).records
    assert records
    assert records[0].asset_observation
    return str(records[0].asset_observation.metadata["why"].value)


def test_a_good_candidate_is_released_and_served(world: World) -> None:
    candidate = world.propose(0)
    result = world.run()
    assert succeeded(result) == ["bundle", "approval", "release", "endpoint"]
    assert world.kinds == ["approval", "release", "traffic"]
    assert world.served == world.bundle == world.ledger.released(NAME)
    assert world.alias == candidate
    assert all(check.passed for check in result.get_asset_check_evaluations())
    metadata = result.asset_materializations_for_node(f"{NAME}__endpoint")[0].metadata
    assert metadata["digest"].value == world.bundle
    assert metadata["golden_difference"].value <= 1e-5
    assert world.ledger.verify() == 3


def test_equal_inputs_give_an_equal_bundle(world: World, trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained, tmp_path / "again")
    shutil.copytree(world.keys.path, tmp_path / "again" / "keys")
    other = World(tmp_path / "again")
    for each in (world, other):
        each.propose(0)
        each.run("bundle")
    assert world.bundle == other.bundle
    files = world.artifacts.get("bundles", world.bundle)
    assert "reference.json" in files
    assert json.loads(files["manifest.json"])["metrics"]["test_log_loss"] > 0
    assert len(json.loads(files["golden.json"])) == tiny.gates.golden_rows


def test_running_again_changes_nothing(world: World) -> None:
    world.propose(0)
    world.run()
    before = world.bundle
    # Validated again, the released candidate is compared with itself: its report differs, what is served does not.
    world.propose(0)
    assert succeeded(world.run()) == ["bundle", "approval", "release", "endpoint"]
    assert world.kinds == ["approval", "release", "traffic"]
    assert world.served == world.bundle == before


def test_a_failing_gate_releases_nothing_and_the_champion_serves_on(world: World) -> None:
    world.propose(0)
    world.run()
    champion = world.served
    world.propose(1, roc_auc=0.55)
    result = world.run()
    assert succeeded(result) == ["bundle"]
    assert "ROC AUC 0.5500" in why_not(world, "approval")
    assert succeeded(world.run("release", "endpoint")) == []
    assert "roc_auc_is_high failed" in why_not(world, "release")
    assert "the lower end must reach 0.6" in why_not(world, "release")
    assert world.kinds == ["approval", "release", "traffic"]
    assert world.served == champion != world.bundle
    assert world.alias == world.candidates[0]


def test_a_better_candidate_replaces_the_champion(world: World) -> None:
    world.propose(0)
    world.run()
    world.propose(1)
    assert succeeded(world.run()) == ["bundle", "approval", "release", "endpoint"]
    assert world.kinds == ["approval", "release", "traffic"] * 2
    assert world.served == world.bundle
    assert world.alias == world.candidates[1]


def alter(change: Callable[[dict[str, Any]], None]) -> Callable[[Path], None]:
    def altered(place: Path) -> None:
        document = json.loads(place.read_text())
        change(document)
        place.write_text(json.dumps(document))

    return altered


@pytest.mark.parametrize(
    ("meddle", "told"),
    [
        (lambda place: place.unlink(), "report validation/performance is missing"),
        (lambda place: place.write_text("{}"), "cannot be read"),
        (alter(lambda report: report.update(verdicts=[])), "holds no verdict on beats_baseline"),
        (
            alter(lambda report: report["verdicts"][0].update(reason="I say so")),
            "not what its numbers",
        ),
        (
            alter(lambda report: report["measures"][2].update(value=0.99)),
            "it was altered, or validation ran again",
        ),
        (alter(lambda report: report.update(subject="f" * 64)), "cannot be read"),
    ],
)
def test_reports_that_are_not_the_bundles_own_release_nothing(
    world: World, meddle: Callable[[Path], None], told: str
) -> None:
    world.propose(0)
    world.run("bundle", "approval")
    meddle(world.report_path(gates.PERFORMANCE, 0))
    assert succeeded(world.run("release", "endpoint")) == []
    assert told in why_not(world, "release")
    assert world.kinds == ["approval"]
    assert world.served is None


def test_a_bundle_needs_all_reports(world: World) -> None:
    world.propose(0)
    world.report_path(gates.SLICES, 0).unlink()
    with pytest.raises(FileNotFoundError, match="has no report validation/slices"):
        world.run("bundle")


def test_evidence_against_an_older_champion_does_not_count(world: World) -> None:
    world.propose(1)
    world.run("bundle", "approval")
    second = world.bundle
    world.propose(0)
    world.run()
    world.artifacts.point(NAME, "bundle", second)
    assert succeeded(world.run("release", "endpoint")) == []
    assert "is released now; validate again" in why_not(world, "release")


@pytest.mark.parametrize("name", ["model.ubj", "manifest.json", "manifest.sig", "SHA256SUMS"])
def test_an_altered_bundle_is_not_released(world: World, name: str) -> None:
    world.propose(0)
    world.run("bundle", "approval")
    place = world.home / "artifacts" / "bundles" / world.bundle / name
    place.write_bytes(place.read_bytes()[:-3] + b"zz\n")
    result = world.run("release", raises=False)
    assert not result.success
    assert world.kinds == ["approval"]


def test_a_bundle_of_another_key_is_not_released(
    world: World, trained: Path, tmp_path: Path
) -> None:
    shutil.copytree(trained, tmp_path / "forger")
    forger = World(tmp_path / "forger")
    for each in (forger, world):
        each.propose(0)
        each.run("bundle")
    digest = world.artifacts.put("bundles", forger.artifacts.get("bundles", forger.bundle))
    world.artifacts.point(NAME, "bundle", digest)
    with pytest.raises(dg.Failure, match="only bundles that this platform signed"):
        world.run("approval", "release")
    assert world.kinds == []


def test_forged_events_change_nothing_served(world: World) -> None:
    world.propose(0)
    world.run()
    champion = world.served
    world.propose(1, roc_auc=0.5)
    world.run()
    # What anyone who reaches the web server can do.
    check = dg.AssetCheckEvaluation(
        asset_key=CHECKED.asset_key, check_name="integrity", passed=True, metadata={}
    )
    world.instance.report_runless_asset_event(check)
    for name in ("approval", "release", "endpoint"):
        forged = dg.AssetMaterialization(
            dg.AssetKey([NAME, name]), metadata={"digest": world.bundle}
        )
        world.instance.report_runless_asset_event(forged)
    world.run("release", "endpoint")
    world.run("endpoint")
    assert world.served == champion != world.bundle
    assert world.ledger.released(NAME) == champion


def test_a_hand_moved_alias_changes_nothing_served(world: World) -> None:
    world.propose(0)
    world.run()
    champion = world.served
    world.tracking.move_alias(NAME, "champion", world.candidates[1])
    world.run("endpoint")
    assert world.served == champion
    world.run("release", "endpoint")
    assert world.served == champion
    assert world.alias == world.candidates[0]


def test_broken_mlflow_neither_blocks_nor_undoes_a_release(world: World) -> None:
    world.propose(0)
    Path(world.tracking.breaks).write_text("broken")
    result = world.run()
    assert succeeded(result) == ["bundle", "approval", "release", "endpoint"]
    assert world.served == world.bundle
    metadata = result.asset_materializations_for_node(f"{NAME}__release")[0].metadata
    assert metadata["champion_alias"].value == "not moved: ConnectionError"


def high_risk(world: World) -> World:
    policy = tiny.model_copy(update={"risk": "high", "release": ReleasePolicy(approvals=2)})
    return World(world.home, policy)


def test_high_risk_waits_for_people(world: World) -> None:
    world = high_risk(world)
    world.propose(0)
    assert succeeded(world.run()) == ["bundle"]
    assert "0 of 2 approvals" in why_not(world, "approval")
    world.approve("ada@example.org")
    world.approve("ada@example.org")
    assert succeeded(world.run("approval", "release", "endpoint")) == []
    assert "1 of 2 approvals (ada@example.org)" in why_not(world, "approval")
    world.approve("bo@example.org")
    assert succeeded(world.run("approval", "release", "endpoint")) == [
        "approval",
        "release",
        "endpoint",
    ]
    assert world.kinds == ["approval", "approval", "release", "traffic"]


def test_approvals_of_other_evidence_do_not_count(world: World) -> None:
    world = high_risk(world)
    world.propose(0)
    world.run("bundle")
    for actor in ("ada@example.org", "bo@example.org"):
        world.approve(actor)
    # Validated anew with other numbers: another bundle, which nobody has approved.
    world.propose(0, roc_auc=0.9)
    assert succeeded(world.run()) == ["bundle"]
    assert "0 of 2 approvals" in why_not(world, "approval")


def test_approvals_do_not_outvote_a_gate(world: World) -> None:
    world = high_risk(world)
    world.propose(0, worse_by=0.1)
    world.run("bundle")
    for actor in ("ada@example.org", "bo@example.org"):
        world.approve(actor)
    assert succeeded(world.run("approval", "release", "endpoint")) == ["approval"]
    assert "beats_baseline failed" in why_not(world, "release")
    assert "release" not in world.kinds


def test_a_rejected_bundle_is_not_released_by_policy(world: World) -> None:
    world.propose(0)
    world.run("bundle")
    manifest = manifests.verify(
        world.artifacts.get("bundles", world.bundle), world.keys.public_pem()
    )
    decisions.reject(
        world.ledger, proposal(world.bundle, manifest), "ada@example.org", "wrong weather in March"
    )
    assert succeeded(world.run("approval", "release")) == []
    assert "wrong weather in March" in why_not(world, "approval")
    assert world.kinds == ["rejection"]
    world.approve("bo@example.org")
    assert succeeded(world.run("approval", "release")) == ["approval", "release"]


def test_killed_between_ledger_and_alias_the_next_run_goes_on(world: World) -> None:
    world.propose(0)
    Path(world.tracking.breaks).write_text("killed")
    with pytest.raises(Killed):
        world.run()
    assert world.kinds == ["approval", "release"]
    Path(world.tracking.breaks).unlink()
    assert succeeded(world.run()) == ["bundle", "approval", "release", "endpoint"]
    assert world.kinds == ["approval", "release", "traffic"]
    assert world.alias == world.candidates[0]


@pytest.mark.parametrize("step", ["install", "desire", "golden"])
def test_killed_while_serving_the_next_run_goes_on(
    world: World, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.propose(0)

    def killed(*_: object, **__: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(FakeEndpoint, step, killed)
        with pytest.raises(Killed):
            world.run()
    assert world.kinds == ["approval", "release"]
    assert succeeded(world.run("endpoint")) == ["endpoint"]
    assert world.kinds == ["approval", "release", "traffic"]
    assert world.served == world.bundle


def test_an_endpoint_that_is_down_fails_clearly_and_catches_up(world: World) -> None:
    world.propose(0)
    Path(world.home / "down").touch()
    result = world.run(raises=False)
    assert not result.success
    failure = result.failure_data_for_node(f"{NAME}__endpoint")
    assert failure is not None
    assert failure.user_failure_data is not None
    assert "http://endpoint:8080 does not answer" in str(failure.user_failure_data.description)
    assert "evergreen up" in str(failure.user_failure_data.description)
    assert [
        check.passed
        for check in result.get_asset_check_evaluations()
        if check.check_name == "serves_desired"
    ] == [False]
    assert world.kinds == ["approval", "release"]
    Path(world.home / "down").unlink()
    # The desired state was written: the server serves it as soon as it is back, and the next run records it.
    assert world.served == world.bundle
    world.run("endpoint")
    assert world.kinds == ["approval", "release", "traffic"]


def test_rolling_back_serves_what_served_before_and_stays(world: World) -> None:
    for index in (0, 1):
        world.propose(index)
        world.run()
    first, second = (entry.bundle for entry in world.ledger.entries(NAME, "release"))
    decisions.rollback(world.ledger, NAME, "ada@example.org", "the second one is slow")
    assert succeeded(world.run("endpoint")) == ["endpoint"]
    assert world.served == first
    assert world.alias == world.candidates[0]
    # The pointer still names the second bundle: running the stage again must not bring it back.
    assert world.bundle == second
    assert succeeded(world.run("approval", "release", "endpoint")) == []
    assert "roll-back from it by ada@example.org" in why_not(world, "approval")
    world.propose(1)
    assert "endpoint" not in succeeded(world.run())
    assert world.served == first == world.ledger.released(NAME)
    served = [entry.bundle for entry in world.ledger.entries(NAME, "traffic")]
    assert served == [first, second, first]


def test_nothing_is_served_on_the_word_of_an_altered_ledger(world: World) -> None:
    for index in (0, 1):
        world.propose(index)
        world.run()
    served = world.served
    first = world.ledger.entries(NAME, "release")[0].bundle
    with closing(sqlite3.connect(world.ledger.path, isolation_level=None)) as connection:
        connection.execute("DROP TRIGGER no_update")
        connection.execute(
            "UPDATE entries SET bundle = ? WHERE kind = 'release' AND serial > 3", (first,)
        )

    def recorded() -> int:
        with closing(sqlite3.connect(world.ledger.path)) as connection:
            return int(connection.execute("SELECT max(serial) FROM entries").fetchone()[0])

    known = recorded()
    result = world.run("endpoint", raises=False)
    assert not result.success
    (check,) = result.get_asset_check_evaluations()
    assert (check.passed, check.severity) == (False, dg.AssetCheckSeverity.ERROR)
    assert "was altered: its content does not match its digest" in str(check.description)
    assert world.served == served
    assert recorded() == known, "nothing is appended to a ledger that was altered"


def test_before_the_first_release_nothing_is_to_be_served(world: World) -> None:
    assert succeeded(world.run("endpoint")) == []
    assert world.served is None


def test_a_real_server_follows_the_ledger(world: World) -> None:
    from assets.data import raw
    from assets.tabular.features.snapshot import snapshot
    from resources.online_store import OnlineStore

    place = Place(Path(world.endpoint.path), b"", world.keys.public_path)
    online = snapshot(tiny, world.day, raw.reader(world.lake, NAME))
    OnlineStore(path=world.endpoint.path, signer=world.keys).publish(online)
    with place.server(ready=False) as server:
        world.endpoint = LocalEndpoint(path=world.endpoint.path, url=server.url)
        world.propose(0)
        assert succeeded(world.run()) == ["bundle", "approval", "release", "endpoint"]
        first = world.served
        golden = json.loads(world.artifacts.get("bundles", world.bundle)["golden.json"])[0]
        answer = world.endpoint.predict(NAME, [golden["request"]])[0]
        assert answer["bundle"] == first == world.bundle
        world.propose(1)
        world.run()
        assert world.served == world.bundle != first
        server.kill()
        result = world.run("endpoint", raises=False)
        assert not result.success
        decisions.rollback(world.ledger, NAME, "ada@example.org", "the server died of it")
    # Nobody was there to be told: the desired state waits for the next process.
    assert not world.run("endpoint", raises=False).success
    with place.server() as server:
        world.endpoint = LocalEndpoint(path=world.endpoint.path, url=server.url)
        assert world.served == first
        assert succeeded(world.run("endpoint")) == ["endpoint"]
    assert [entry.bundle for entry in world.ledger.entries(NAME, "traffic")][0::2] == [first, first]
