"""All settings of the platform, read once from the environment (`EVERGREEN_*`)."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType

from pydantic import SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

QUIET: Mapping[str, str] = MappingProxyType(
    {
        "DO_NOT_TRACK": "1",
        "DAGSTER_DISABLE_TELEMETRY": "1",
        "DAGSTER_UI_NUX_DISABLED": "1",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_MODEL_CATALOG_URI": "",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "GX_ANALYTICS_ENABLED": "false",
        "GIT_PYTHON_REFRESH": "quiet",
        "MPLBACKEND": "Agg",
        # What a run plans, and what it tells of the days of a range, is stored in one transaction.
        "DAGSTER_EVENT_BATCH_SIZE": "1000",
        # Threads of XGBoost and scikit-learn sleep while they wait. Spinning, they take the
        # processor from each other: ten times slower as soon as anything else runs.
        "OMP_WAIT_POLICY": "PASSIVE",
        # Dagster says of every use of a beta parameter that it is one.
        "PYTHONWARNINGS": "ignore::DeprecationWarning,ignore:Parameter",
    }
)
"""No telemetry, no look-ups elsewhere, no drawing on screens, no spinning, events in batches."""


class Settings(BaseSettings):
    """Where state lives and where services listen.

    Local state lies under `home`. A location set to an `s3://` URI moves that part to object
    storage. With `endpoint_replicas`, a URL whose host resolves to every replica, the endpoint is
    one of several servers that share `endpoint_folder`; applications reach it at the URL
    `endpoint_service`, and its certificate is verified against `endpoint_ca`. `endpoint_options`
    are further words for the endpoint's command line, such as `--workers 2 --json-logs`; `python -m
    serving --help` lists them.
    """

    model_config = SettingsConfigDict(env_prefix="EVERGREEN_", frozen=True, extra="ignore")

    home: Path = Path(".evergreen")
    landing: str | None = None
    lake: str | None = None
    artifacts: str | None = None
    reports: str | None = None
    mlflow: str | None = None
    host: str = "127.0.0.1"
    dagster_port: int = 3000
    mlflow_port: int = 5000
    endpoint_port: int = 8080
    endpoint_admin_port: int = 8081
    endpoint_grpc_port: int | None = None
    endpoint_key_file: Path | None = None
    endpoint_certificate: Path | None = None
    endpoint_private_key: Path | None = None
    endpoint_folder: Path | None = None
    endpoint_replicas: str | None = None
    endpoint_service: str | None = None
    endpoint_ca: Path | None = None
    endpoint_options: str = ""
    reports_port: int = 3001
    code_port: int = 4266
    webhook: SecretStr | None = None
    smtp: str | None = None
    smtp_user: str | None = None
    smtp_password: SecretStr | None = None
    alerts_from: str = "evergreen@localhost"
    alerts_to: tuple[str, ...] = ()
    threads: int | None = None

    def _place(self, location: str | None, folder: str) -> str:
        return location.rstrip("/") if location else str(self.home.absolute() / folder)

    @property
    def landing_uri(self) -> str:
        return self._place(self.landing, "landing")

    @property
    def lake_uri(self) -> str:
        return self._place(self.lake, "lake")

    @property
    def artifacts_uri(self) -> str:
        """Training sets, studies, candidates and bundles, each in a folder named by its digest."""
        return self._place(self.artifacts, "artifacts")

    @property
    def reports_uri(self) -> str:
        return self._place(self.reports, "reports")

    @property
    def mlflow_uri(self) -> str:
        """Tracking store; runs talk to the database directly, so that training does not need the
        MLflow server.
        """
        return self.mlflow or f"sqlite:///{self.home.absolute() / 'mlflow' / 'mlflow.db'}"

    @property
    def dagster_home(self) -> Path:
        return self.home.absolute() / "dagster"

    @property
    def ledger_path(self) -> Path:
        return self.home.absolute() / "ledger" / "ledger.db"

    @property
    def keys_path(self) -> Path:
        return self.home.absolute() / "keys"

    @property
    def endpoint_path(self) -> Path:
        """The endpoint's desired state, verified bundles, online snapshots and prediction log."""
        return self.endpoint_folder or self.home.absolute() / "endpoint"

    @property
    def dagster_url(self) -> str:
        return f"http://{self.host}:{self.dagster_port}"

    @property
    def endpoint_url(self) -> str:
        """Where applications ask; TLS where `endpoint_certificate` is set."""
        return (
            f"{'https' if self.endpoint_certificate else 'http'}://{self.host}:{self.endpoint_port}"
        )

    @property
    def endpoint_admin_url(self) -> str:
        """Metrics, pages and the platform's own questions, on this machine alone."""
        return f"http://127.0.0.1:{self.endpoint_admin_port}"

    @property
    def api_keys_path(self) -> Path:
        """The endpoint's API keys, hashed."""
        return self.keys_path / "api_keys.json"

    @property
    def endpoint_key_path(self) -> Path:
        """The platform's own API key in plain text, readable by its user alone; no file, no key."""
        return self.endpoint_key_file or self.keys_path / "endpoint.key"

    @property
    def reports_url(self) -> str:
        return f"http://{self.host}:{self.reports_port}"

    @property
    def mlflow_url(self) -> str:
        return f"http://{self.host}:{self.mlflow_port}"


@lru_cache(maxsize=1)
def settings() -> Settings:
    return Settings()
