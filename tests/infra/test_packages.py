"""What `make test` says of Debian packages that are missing."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "infra" / "setup" / "test_packages.sh"
TOOLS = ("bash", "env")


def packages(folder: Path, *commands: str, uid: int = 1000) -> subprocess.CompletedProcess[str]:
    """Run the script on a machine that has only these commands, as this user."""
    for name in (*TOOLS, *commands):
        found = shutil.which(name)
        script = f"#!{shutil.which('bash')}\n"
        if name in TOOLS and found is not None:
            (folder / name).symlink_to(found)
            continue
        # What it was asked for is written down; nothing is installed.
        (folder / name).write_text(f'{script}echo "{name} $*" >> "{folder}/asked"\n')
        (folder / name).chmod(0o755)
    (folder / "id").write_text(f"#!{shutil.which('bash')}\necho {uid}\n")
    (folder / "id").chmod(0o755)
    environment = {"PATH": str(folder), "POSTGRES_BINARIES": f"{folder}/initdb"}
    return subprocess.run(
        [str(folder / "bash"), str(SCRIPT)],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )


def test_where_all_is_there_it_says_nothing(tmp_path: Path) -> None:
    ended = packages(tmp_path, "gcc", "chromium", "wrk", "initdb", "apt-get", uid=0)
    assert (ended.stdout, ended.stderr) == ("", "")
    assert not (tmp_path / "asked").exists()


def test_root_installs_what_is_missing_with_a_line_each(tmp_path: Path) -> None:
    ended = packages(tmp_path, "gcc", "apt-get", uid=0)
    assert ended.stdout.splitlines() == [
        f"test: installing {name}" for name in ("chromium", "postgresql", "wrk")
    ]
    asked = (tmp_path / "asked").read_text().splitlines()
    assert asked[0] == "apt-get update -qq"
    assert [line.split()[-1] for line in asked[1:]] == ["chromium", "postgresql", "wrk"]


@pytest.mark.parametrize("uid", [0, 1000])
def test_others_are_told_in_one_line_what_is_skipped(tmp_path: Path, uid: int) -> None:
    commands = ["gcc", "chromium", *(["apt-get"] if uid else [])]
    ended = packages(tmp_path, *commands, uid=uid)
    (line,) = ended.stderr.splitlines()
    assert "tests/infra/test_production.py" in line
    assert line.endswith("As root: apt-get install postgresql wrk")
    assert "tests/browser" not in line
    assert not (tmp_path / "asked").exists()


def test_ci_runs_make_test_and_nothing_else() -> None:
    lines = (ROOT / ".ci" / "run").read_text().splitlines()
    commands = [line for line in lines if line and not line.startswith("#")]
    assert commands == ["set -euo pipefail", 'cd "$(dirname "$0")/.."', "make test"]
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
