"""`make setup` and the endpoint's image build the walker of trees from its sources, offline."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

from tests.support.endpoint import TREE
from tests.support.headers import needs_headers

BUILD = re.compile(r"python [^\n]*?-c '(import setuptools; setuptools\.setup\(\))' (--quiet) \\")
OPTIONS = re.compile(r"build_ext --inplace --build-temp (\S+) --build-lib (\S+)")


def test_setup_and_image_build_the_walker_alike() -> None:
    for name in ("setup/setup.sh", "endpoint.Dockerfile"):
        text = (TREE / "infra" / name).read_text()
        assert len(BUILD.findall(text)) == 1, name
        assert len(OPTIONS.findall(text)) == 1, name


@needs_headers
def test_the_walker_is_built_from_what_the_image_copies(tmp_path: Path) -> None:
    image = (TREE / "infra" / "endpoint.Dockerfile").read_text()
    build = image.split("\nFROM ")[1]
    code, quiet = BUILD.findall(build)[0]
    tree, temporary = tmp_path / "tree", str(tmp_path / "build")
    tree.mkdir()
    for copied in ("pyproject.toml", "README.md"):
        shutil.copy(TREE / copied, tree)
    ignored = shutil.ignore_patterns("*.so", "__pycache__")
    shutil.copytree(TREE / "bundle", tree / "bundle", ignore=ignored)

    command = [sys.executable, "-W", "error::DeprecationWarning", "-c", code, quiet, "build_ext"]
    command += ["--inplace", "--build-temp", temporary, "--build-lib", temporary]
    # A dead proxy: what is built needs nothing from elsewhere.
    variables = {"PATH": "/usr/bin:/bin", "HTTPS_PROXY": "http://127.0.0.1:9"}
    ran = subprocess.run(command, cwd=tree, env=variables, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    # The compiler has nothing to say about it.
    assert "warning:" not in ran.stderr

    program = "from bundle.models.trees import _walker; print(_walker.VERSION, _walker.__file__)"
    found = subprocess.run(
        [sys.executable, "-c", program], cwd=tree, env=variables, capture_output=True, text=True
    )
    assert found.stdout.startswith(f"1 {tree}/bundle/models/trees/_walker."), found.stderr
