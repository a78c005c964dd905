"""Importing the definitions is what every process of the platform pays for: it loads Dagster and nothing heavy beside it."""

from __future__ import annotations

import json
import subprocess
import sys

HEAVY = (
    "cryptography", "deltalake", "evidently", "fsspec", "great_expectations", "httpx", "matplotlib", "mlflow", "numpy", "optuna", "pandas", "polars",
    "pyarrow", "scipy", "sklearn", "treelite", "xgboost",
)  # fmt: skip
OURS = {"assets", "bundle", "declare", "pipelines", "resources", "sensors"}


def loaded_by(statement: str) -> set[str]:
    """Top-level modules in a fresh process after a statement."""
    script = f"import json, sys\n{statement}\nprint(json.dumps(sorted({{name.partition('.')[0] for name in sys.modules}})))"
    ended = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    return set(json.loads(ended.stdout.splitlines()[-1]))


def test_definitions_load_no_heavy_library() -> None:
    loaded = loaded_by("import pipelines.definitions")
    assert "dagster" in loaded
    assert loaded.isdisjoint(HEAVY)
    # All that comes beside Dagster: settings read a .env file, structs are decoded.
    beside = loaded - loaded_by("import dagster") - OURS - set(sys.stdlib_module_names)
    assert {name for name in beside if not name.startswith("_")} == {
        "dotenv",
        "msgspec",
        "pydantic_settings",
    }


def test_the_server_loads_no_platform_library() -> None:
    loaded = loaded_by("import serving.__main__")
    assert loaded.isdisjoint({*HEAVY, "dagster"} - {"cryptography", "numpy", "treelite", "xgboost"})


def test_help_loads_no_dagster() -> None:
    loaded = loaded_by("import cli.main")
    assert loaded.isdisjoint({*HEAVY, "dagster", "pydantic", "httpx"})
