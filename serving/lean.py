"""Keeps libraries that few endpoints use out of this process.

Called first, before any engine is imported.
"""

from __future__ import annotations

import importlib.abc
import sys


def stay_lean() -> None:
    """Hide pandas and scikit-learn from this process.

    XGBoost and pyarrow import both where they are installed, which takes seconds and 100 MB. A
    bundle that holds a scikit-learn estimator still gets the library.
    """
    sys.meta_path.insert(0, Absent())


class Absent(importlib.abc.MetaPathFinder):
    """Finds no pandas, and no scikit-learn until `bundle.models.scikit_learn` was imported."""

    def find_spec(self, fullname: str, path: object, target: object = None) -> None:
        if fullname == "pandas" or (
            fullname == "sklearn" and "bundle.models.scikit_learn" not in sys.modules
        ):
            raise ModuleNotFoundError(f"{fullname} is of no use to this endpoint", name=fullname)
