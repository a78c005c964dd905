"""BentoML: rows as an array, without access log and metrics."""

import os

import bentoml
import numpy as np
import xgboost


@bentoml.service(
    workers=1,
    traffic={"timeout": 120},
    logging={"access": {"enabled": False}},
    metrics={"enabled": False},
)
class Model:
    def __init__(self) -> None:
        self.booster = xgboost.Booster(model_file=os.environ["MODEL"], params={"nthread": 1})

    @bentoml.api
    def predict(self, rows: np.ndarray) -> np.ndarray:
        return self.booster.inplace_predict(rows.astype(np.float32))
