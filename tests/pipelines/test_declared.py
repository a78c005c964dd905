"""Every module in `pipelines/` declares a pipeline. One that does not is an error with its file."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import pipelines
from declare.pipeline import Pipeline
from pipelines.definitions import PipelineError, declared_pipelines
from pipelines.flight_delays import pipeline as flight_delays

DECLARED = """
from tests.support.tiny import tiny

pipeline = tiny
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder beside the package's own, whose modules count as pipelines too."""
    monkeypatch.setattr(pipelines, "__path__", [*pipelines.__path__, str(tmp_path)])
    for name in ("workshop", "workshop_again", "empty", "other"):
        monkeypatch.delitem(sys.modules, f"pipelines.{name}", raising=False)
    yield tmp_path
    for name in ("workshop", "workshop_again", "empty", "other"):
        sys.modules.pop(f"pipelines.{name}", None)


def test_modules_and_packages_that_declare_a_pipeline_are_part_of_the_platform(
    folder: Path,
) -> None:
    (folder / "workshop.py").write_text(DECLARED)
    found = declared_pipelines()
    assert [each.name for each in found] == ["flight_delays", "tiny"]
    assert found[0] is flight_delays
    assert all(isinstance(each, Pipeline) for each in found)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("empty", ""),
        ("other", "pipeline = 'flight_delays'\n"),
        ("other", DECLARED.replace("pipeline =", "flights =")),
    ],
    ids=["nothing", "something else", "another name"],
)
def test_a_module_without_a_declaration_is_an_error_that_names_the_file(
    folder: Path, name: str, content: str
) -> None:
    place = folder / f"{name}.py"
    place.write_text(content)
    with pytest.raises(PipelineError, match="pipeline = Tabular") as refused:
        declared_pipelines()
    assert refused.value.file == place
    assert str(place) in str(refused.value)


def test_a_package_without_a_declaration_is_an_error_too(folder: Path) -> None:
    (folder / "empty").mkdir()
    (folder / "empty" / "__init__.py").write_text('"""Nothing."""\n')
    with pytest.raises(PipelineError, match=r"empty/__init__\.py"):
        declared_pipelines()


def test_two_modules_cannot_declare_pipelines_of_one_name(folder: Path) -> None:
    for name in ("workshop", "workshop_again"):
        (folder / f"{name}.py").write_text(DECLARED)
    with pytest.raises(PipelineError, match=r"'tiny'.*workshop\.py") as refused:
        declared_pipelines()
    assert refused.value.file == folder / "workshop_again.py"


def test_loading_the_definitions_warns_of_nothing() -> None:
    code = "import pipelines.definitions as d; d.defs.resolve_all_job_defs()"
    loaded = subprocess.run(
        [sys.executable, "-W", "default", "-c", code], capture_output=True, text=True, check=True
    )
    assert "Warning" not in loaded.stderr
