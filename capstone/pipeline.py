"""The stages of the system, in the order of its diagram. Each can be run alone (``--stages``).

::

    data -> baselines -> train -> distill -> export -> index -> bundle
                                                                  |
                        card <- experiment <- fairness <- load <--+   (live service)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from capstone import build, operate
from capstone.config import Config
from capstone.context import Context
from capstone.workspace import Workspace
from common.errors import require

if TYPE_CHECKING:
    from common.runner import Run

STAGES: dict[str, Callable[[Context], None]] = {
    "data": build.data,
    "baselines": build.baseline,
    "train": build.train,
    "distill": build.distill,
    "export": build.export,
    "index": build.index,
    "bundle": build.bundles,
    "load": operate.load_test,
    "fairness": operate.fairness,
    "experiment": operate.experiment,
    "card": operate.card,
}
DESCRIPTIONS = {name: " ".join((stage.__doc__ or "").split()) for name, stage in STAGES.items()}


def run_stages(run: Run, config: Config) -> None:
    """Run the chosen stages in pipeline order."""
    workspace = Workspace(run.options.out, run.scale, run.seed, run.results.mine, config)
    require(
        config.batch_size >= run.procs,
        "--batch-size", config.batch_size, f"must be at least the {run.procs} ranks",
    )  # fmt: skip
    context = Context(run, config, workspace)
    with workspace.lock():
        for name in config.chosen_stages():
            with run.stage(DESCRIPTIONS[name], key=name):
                STAGES[name](context)
