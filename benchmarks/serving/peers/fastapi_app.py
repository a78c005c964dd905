"""What is usually written: FastAPI, a pydantic model of a row, a pandas frame, XGBoost."""

import os

import pandas as pd
import pyarrow as pa
import xgboost
from fastapi import FastAPI, Request
from pydantic import BaseModel, create_model

booster = xgboost.Booster(model_file=os.environ["MODEL"], params={"nthread": 1})
Row = create_model("Row", **dict.fromkeys(os.environ["FEATURES"].split(","), (float, ...)))


class Rows(BaseModel):
    rows: list[Row]


app = FastAPI()


@app.post("/predict")
def predict(body: Rows) -> dict[str, list[float]]:
    return predicted(pd.DataFrame([row.model_dump() for row in body.rows]))


@app.post("/predict-arrow")
async def predict_arrow(request: Request) -> dict[str, list[float]]:
    return predicted(pa.ipc.open_stream(await request.body()).read_pandas())


def predicted(frame: pd.DataFrame) -> dict[str, list[float]]:
    return {"predictions": booster.predict(xgboost.DMatrix(frame)).tolist()}
