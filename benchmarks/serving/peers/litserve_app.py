"""LitServe, batching what waits."""

import os

import litserve
import numpy as np
import xgboost


class Model(litserve.LitAPI):
    def setup(self, device: str) -> None:
        self.booster = xgboost.Booster(model_file=os.environ["MODEL"], params={"nthread": 1})

    def decode_request(
        self, request
    ) -> np.ndarray:  # without a type, which would have it parsed twice
        return np.asarray(request["rows"], dtype=np.float32)

    def batch(self, inputs: list[np.ndarray]) -> list[np.ndarray]:
        return inputs

    def predict(self, inputs: list[np.ndarray]) -> list[np.ndarray]:
        found = self.booster.inplace_predict(np.concatenate(inputs))
        return np.split(found, np.cumsum([len(rows) for rows in inputs])[:-1])

    def unbatch(self, output: list[np.ndarray]) -> list[np.ndarray]:
        return output

    def encode_response(self, output: np.ndarray) -> dict[str, list[float]]:
        return {"predictions": output.tolist()}


if __name__ == "__main__":
    server = litserve.LitServer(
        Model(max_batch_size=16, batch_timeout=0.0), accelerator="cpu", timeout=120
    )
    server.run(
        port=int(os.environ["PORT"]),
        host="127.0.0.1",
        num_api_servers=1,
        generate_client_file=False,
        log_level="warning",
        access_log=False,
    )
