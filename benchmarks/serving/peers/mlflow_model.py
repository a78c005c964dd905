"""Save the model as MLflow does: `python mlflow_model.py model.ubj FOLDER`."""

import sys

import mlflow.xgboost
import xgboost

source, target = sys.argv[1:]
mlflow.xgboost.save_model(
    xgboost.Booster(model_file=source), target, model_format="ubj", pip_requirements=[]
)
