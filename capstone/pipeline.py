"""The stages of the system, in the order of its diagram. Each can be run alone (``--stages``).

::

    data -> world -> baselines -> train -> retrieval -> auc -> distill -> export -> impressions
                                                                             |
       register <- bundle <- fairness (gate) <- rerank <- index  <-----------+
          |
          +-> load -> drills -> page -> experiment -> evidence -> monitoring -> card
              (the live service)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING

from capstone import (
    bundle_stages,
    data_stages,
    evidence_stages,
    experiment_stages,
    export_stages,
    impression_stages,
    model_stages,
    service_stages,
)
from capstone.config import STAGES as NAMES
from capstone.config import Config
from capstone.context import Context
from capstone.unfinished import Unfinished
from capstone.workspace import Workspace
from common.errors import require

if TYPE_CHECKING:
    from common.runner import Run

STAGES: dict[str, Callable[[Context], None]] = {
    "data": data_stages.data,
    "world": data_stages.world,
    "baselines": data_stages.baseline,
    "train": model_stages.train,
    "retrieval": model_stages.retrieval,
    "auc": model_stages.auc,
    "distill": model_stages.distill,
    "export": export_stages.export,
    "impressions": impression_stages.impressions,
    "index": bundle_stages.index,
    "rerank": bundle_stages.rerank,
    "fairness": bundle_stages.fairness,
    "bundle": bundle_stages.bundles,
    "register": bundle_stages.register,
    "load": service_stages.load,
    "drills": service_stages.drills,
    "page": service_stages.page,
    "experiment": experiment_stages.experiment,
    "evidence": evidence_stages.evidence,
    "monitoring": evidence_stages.monitoring,
    "card": evidence_stages.card,
}
assert tuple(STAGES) == NAMES
ALONE = {"impressions"}
"""Stages whose training reads nothing of other stages, and goes on whichever of them ran anew."""
DESCRIPTIONS = {name: " ".join((stage.__doc__ or "").split()) for name, stage in STAGES.items()}


def run_stages(run: Run, config: Config) -> Unfinished:
    """Run the chosen stages in pipeline order; go on where a killed run of the same was.

    Returns
    -------
    Unfinished
        What the stages measured: to be cleared once the run is published.
    """
    workspace = Workspace(run.options.out, run.scale, run.seed, run.results.mine, config)
    require(
        config.batch_size >= run.procs,
        "--batch-size", config.batch_size, f"must be at least the {run.procs} ranks",
    )  # fmt: skip
    context = Context(run, config, workspace)
    options = asdict(config) | {"device": run.device, "procs": run.procs, "fresh": False}
    with workspace.lock():
        unfinished = Unfinished(workspace, options)
        if config.fresh:
            unfinished.clear()
        unfinished.begin(run)
        going_on = True
        for name in config.chosen_stages():
            # What comes after a stage that ran anew may have used its earlier result.
            if config.fresh or not (going_on or name in ALONE):
                unfinished.forget(name)
            going_on = going_on and unfinished.finished(name)
            if going_on:
                at = unfinished.replay(name, run)
                print(f"[{name}] finished by an earlier process at {at} UTC; going on", flush=True)
                continue
            context.kept = unfinished.checkpoints(name)
            with unfinished.stage(name, run), run.stage(DESCRIPTIONS[name], key=name):
                STAGES[name](context)
    return unfinished
