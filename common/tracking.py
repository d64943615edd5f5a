"""Report a finished run to an experiment tracker as well."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from common.errors import InputError, RunError


def require_tracker(track: str) -> None:
    """Raise :class:`InputError` when the tracker's package is not installed."""
    from importlib.util import find_spec

    if track == "none":
        return
    spec = find_spec(track)
    if spec is None or spec.origin is None:  # a folder ./wandb of earlier runs is no package
        raise InputError(f"--track {track}: the package is not installed; pip install {track}")


def report(track: str, results: dict[str, Any], folder: Path, out: Path) -> None:
    """Send configuration, metrics and where the run lies to ``track``.

    MLflow writes to ``<out>/mlflow.db`` (SQLite) unless ``MLFLOW_TRACKING_URI`` says otherwise.

    Raises
    ------
    RunError
        When MLflow cannot be written to (a server that does not answer).
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
        # Seven retries, MLflow's default, take minutes to say that a server is not there.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        import mlflow

        if "MLFLOW_TRACKING_URI" not in os.environ:
            mlflow.set_tracking_uri(f"sqlite:///{out.resolve() / 'mlflow.db'}")
        try:
            mlflow.set_experiment(results["lab"])
            with mlflow.start_run(run_name=folder.name):
                mlflow.log_params(parameters)
                mlflow.log_metrics(metrics)
                mlflow.set_tag("results", str(folder / "results.json"))
        except mlflow.MlflowException as error:
            where = mlflow.get_tracking_uri()
            raise RunError(f"--track mlflow: {where} cannot be written to ({error})") from error
    elif track == "wandb":
        import wandb

        with wandb.init(project="production-ml-labs", name=folder.name, config=parameters) as run:
            run.log(metrics)
