"""Report a finished run to an experiment tracker as well."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from common.errors import InputError


def require_tracker(track: str) -> None:
    """Raise :class:`InputError` when the tracker's package is not installed."""
    from importlib.util import find_spec

    if track != "none" and find_spec(track) is None:
        raise InputError(f"--track {track}: the package is not installed; pip install {track}")


def report(track: str, results: dict[str, Any], folder: Path, out: Path) -> None:
    """Send configuration, metrics and the run's files to ``track``.

    MLflow writes to ``<out>/mlflow.db`` (SQLite) unless ``MLFLOW_TRACKING_URI`` says otherwise.
    """
    metrics = {
        name: metric["value"]
        for name, metric in results["metrics"].items()
        if metric["value"] is not None
    }
    parameters = results["config"] | {
        key: results[key] for key in ("scale", "device", "procs", "seed", "commit", "mine")
    }
    if track == "mlflow":
        import os

        import mlflow

        if "MLFLOW_TRACKING_URI" not in os.environ:
            mlflow.set_tracking_uri(f"sqlite:///{out.resolve() / 'mlflow.db'}")
        mlflow.set_experiment(results["lab"])
        with mlflow.start_run(run_name=folder.name):
            mlflow.log_params(parameters)
            mlflow.log_metrics(metrics)
            mlflow.set_tag("results", str(folder / "results.json"))
    elif track == "wandb":
        import wandb

        with wandb.init(project="production-ml-labs", name=folder.name, config=parameters) as run:
            run.log(metrics)
