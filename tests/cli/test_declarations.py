"""A broken declaration at the command line: told whole, and taken up once it is repaired."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

import pipelines
from cli.main import app
from cli.platform import declarations
from cli.platform.declarations import DeclarationWatch
from cli.platform.home import initialise
from resources.settings import settings

BROKEN = 'from declare import Tabular\n\npipeline = Tabular(name="other", risk="tiny")\n'
RIGHT = "Input should be 'minimal', 'limited' or 'high' [type=declaration, input_value='tiny'"


@pytest.fixture
def broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file beside the shipped pipelines that declares one with a mistake."""
    folder = tmp_path / "more"
    folder.mkdir()
    (folder / "other.py").write_text(BROKEN)
    monkeypatch.setattr(pipelines, "__path__", [*pipelines.__path__, str(folder)])
    return folder / "other.py"


def evergreen(*words: str) -> tuple[int, str]:
    ended = CliRunner().invoke(app, list(words), env={"COLUMNS": "80", "NO_COLOR": "1"})
    assert ended.exception is None or isinstance(ended.exception, SystemExit), ended.exception
    return ended.exit_code, ended.stdout


@pytest.mark.parametrize(("command", "code"), [("status", 4), ("doctor", 3)])
def test_status_and_doctor_tell_the_whole_fault(
    home: Path, broken: Path, command: str, code: int
) -> None:
    initialise(settings())
    ended, out = evergreen(command)
    assert ended == code
    assert f"({broken}:3)" in out
    assert RIGHT in out
    assert "Traceback" not in out

    ended, out = evergreen(command, "--json")
    assert ended == code
    told = json.dumps(json.loads(out))
    assert f"({broken}:3)" in told
    assert "flight_delays" in told or command == "doctor"


def test_a_fault_is_printed_once_and_by_no_log() -> None:
    code = (
        "import cli.main, logging, pipelines.definitions as d; "
        "logging.getLogger(d.__name__).error('a fault')"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "a fault" not in ended.stderr


def test_a_new_process_sees_what_is_declared_now() -> None:
    assert declarations.examine() == []


def test_a_change_is_examined_and_taken_up_once(tmp_path: Path) -> None:
    file = tmp_path / "one.py"
    file.write_text("broken\n")
    reloads: list[str] = []

    def reload() -> str | None:
        reloads.append(file.read_text())
        return None

    watch = DeclarationWatch([tmp_path], reload, lambda: faults)
    faults: list[str] = []
    assert watch.lines() == []

    file.write_text("worse\n")
    os.utime(file, (1, 1))
    faults = ["one.py is worse"]
    assert watch.lines() == ["one.py is worse"]

    file.write_text("good\n")
    os.utime(file, (2, 2))
    faults = []
    assert watch.lines() == ["pipelines/ changed and was taken up"]
    assert watch.lines() == []
    assert reloads == ["worse\n", "good\n"]


def test_a_reload_that_fails_is_told_once_and_tried_until_it_succeeds(tmp_path: Path) -> None:
    answers = ["nobody answers", "nobody answers", None]
    watch = DeclarationWatch([tmp_path], lambda: answers.pop(0), list)
    (tmp_path / "new.py").write_text("")
    assert watch.lines() == ["pipelines/ is not taken up yet: nobody answers"]
    assert watch.lines() == []
    assert watch.lines() == ["pipelines/ changed and was taken up"]
    assert watch.lines() == []
