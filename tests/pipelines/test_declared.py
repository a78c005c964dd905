"""Every module in `pipelines/` declares a pipeline. One that does not is an error with its file."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import pipelines
from declare.pipeline import Pipeline
from pipelines.definitions import PipelineError, declared_pipelines, load
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
    fault = only_fault()
    assert fault.file == place
    assert str(fault).startswith(f"{place} declares no pipeline; write `pipeline = Tabular(...)`")


def test_a_package_without_a_declaration_is_an_error_too(folder: Path) -> None:
    (folder / "empty").mkdir()
    (folder / "empty" / "__init__.py").write_text('"""Nothing."""\n')
    assert only_fault().file == folder / "empty" / "__init__.py"


def test_two_modules_cannot_declare_pipelines_of_one_name(folder: Path) -> None:
    for name in ("workshop", "workshop_again"):
        (folder / f"{name}.py").write_text(DECLARED)
    fault = only_fault()
    assert fault.file == folder / "workshop_again.py"
    assert "'tiny'" in str(fault)
    assert str(folder / "workshop.py") in str(fault)
    assert [each.name for each in declared_pipelines()] == ["flight_delays", "tiny"]


def test_a_broken_declaration_is_told_whole_and_stops_no_other_pipeline(folder: Path) -> None:
    (folder / "other.py").write_text(
        'from declare import Tabular\n\npipeline = Tabular(name="other", risk="tiny")\n'
    )
    (folder / "empty.py").write_text("1 / 0\n")
    (folder / "workshop.py").write_text("pipeline = Tabular(\n")
    loaded = load()
    assert [each.name for each in loaded.pipelines] == ["flight_delays"]
    by_file = {fault.file.name: str(fault) for fault in loaded.faults}
    assert list(by_file) == ["empty.py", "other.py", "workshop.py"]
    # File and line, each field with its value, and what would be right.
    assert f"Tabular 'other' ({folder / 'other.py'}:3)" in by_file["other.py"]
    assert "Input should be 'minimal', 'limited' or 'high'" in by_file["other.py"]
    assert "input_value='tiny'" in by_file["other.py"]
    assert by_file["empty.py"].endswith(
        f"ZeroDivisionError: division by zero ({folder / 'empty.py'}:1)"
    )
    assert "SyntaxError: '(' was never closed" in by_file["workshop.py"]


def test_a_declaration_that_was_repaired_loads(folder: Path) -> None:
    (folder / "workshop.py").write_text("import no_such_module\n")
    assert "No module named 'no_such_module'" in str(only_fault())
    (folder / "workshop.py").write_text(DECLARED)
    assert load().faults == []


def only_fault() -> PipelineError:
    (fault,) = load().faults
    return fault


def test_loading_the_definitions_warns_of_nothing() -> None:
    code = "import pipelines.definitions as d; d.defs.resolve_all_job_defs()"
    loaded = subprocess.run(
        [sys.executable, "-W", "default", "-c", code], capture_output=True, text=True, check=True
    )
    assert "Warning" not in loaded.stderr
