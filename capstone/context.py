"""What every stage works with: the run, its options, the data, and the models so far."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from capstone import offline, training
from capstone.catalogue import Catalogue, build_catalogue
from capstone.config import Config
from capstone.data import Feed, Ints, histories, prepare
from capstone.models import Ranker, SequenceEncoder
from capstone.value import ValueWeights
from capstone.workspace import Workspace
from capstone.world import World, build_world
from common.data import load as load_dataset
from common.errors import InputError
from common.results import write_json
from common.statistics import bootstrap_ci

if TYPE_CHECKING:
    from capstone.bundle import Bundle
    from capstone.serving import Service
    from capstone.student import Precision
    from common.runner import Run

RETRIEVAL_LAYERS = 2
WEIGHTS = "weights.json"
BUNDLES = ("reference", "champion")
"""The bundles of a run: the teacher, and the student as it is served."""
PRECISIONS = "precisions.json"
"""In the export stage's folder: what the ranker of each bundle computes in."""


@dataclass
class Context:
    """What every stage works with."""

    run: Run
    config: Config
    workspace: Workspace
    kept: Path | None = None
    """Folder of the stage's checkpoints, which outlives a process that is killed."""

    @property
    def checkpoints(self) -> Path:
        """Folder of the stage's checkpoints; a temporary one where none outlives the process."""
        return self.kept or self.run.work / "checkpoints"

    @cached_property
    def _dataset(self) -> Any:
        return load_dataset("ml-100k")

    @cached_property
    def feed(self) -> Feed:
        self.run.data(self._dataset)
        return prepare(self._dataset)

    @cached_property
    def interactions(self) -> pd.DataFrame:
        """The whole table, held-out interactions included: for what drops them itself."""
        return self._dataset.table("interactions")

    @cached_property
    def catalogue(self) -> Catalogue:
        """Titles, genres, simulated creators; freshness from training interactions alone."""
        from capstone.popular_fresh import training_interactions

        items, times = training_interactions(self.interactions)
        return build_catalogue(self.feed, pd.DataFrame({"item_id": items, "timestamp": times}))

    @cached_property
    def world(self) -> World:
        """The simulated people."""
        return build_world(self.feed, seed=self.run.seed)

    @cached_property
    def test_histories(self) -> tuple[Ints, Ints]:
        return histories(self.feed.test_history, self.config.max_length)

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps of one pass over the training sequences."""
        return -(-self.feed.n_users // self.config.batch_size)

    @property
    def smoke(self) -> bool:
        return self.run.scale == "smoke"

    def interval(self, values: np.ndarray) -> tuple[float, float]:
        """95 % bootstrap interval of a mean over users."""
        return bootstrap_ci(values, n_boot=self.config.n_boot, seed=self.run.seed)

    def mean(self, name: str, values: np.ndarray, *, unit: str = "ratio", how: str = "") -> None:
        """Record a mean over users with its interval."""
        self.run.metric(
            name, values.mean(), unit=unit, n=len(values), ci95=self.interval(values), how=how
        )

    def encoder(self, folder: Path | None = None) -> SequenceEncoder:
        """The trained retrieval encoder of the train stage."""
        folder = folder or self.workspace.need("train")
        return training.load_encoder(
            folder / "encoder.safetensors",
            self.feed, self.config.retrieval_width, RETRIEVAL_LAYERS, self.config.max_length,
        )  # fmt: skip

    def ranker(self, path: Path, role: str) -> Ranker:
        """A trained ranker: the ``teacher`` or a ``student``."""
        teacher = role == "teacher"
        return training.load_ranker(
            path,
            self.feed,
            self.config.ranker_width if teacher else self.config.student_width,
            self.config.ranker_layers if teacher else self.config.student_layers,
            self.config.max_length,
            self.config.attention,
        )

    def candidates(self) -> Ints:
        """Merged candidates of every user at test time [n_users, C] (retrieval stage)."""
        found: Ints = np.load(self.workspace.need("retrieval") / "candidates.npy")
        return found

    def weights(self) -> ValueWeights:
        """The value weights that were chosen on validation (retrieval stage)."""
        path = self.workspace.need("retrieval") / WEIGHTS
        return ValueWeights(**json.loads(path.read_text(encoding="utf-8")))

    def save_weights(self, folder: Path, weights: ValueWeights) -> None:
        write_json(folder / WEIGHTS, weights.as_json())

    def feed_ndcg(
        self,
        retrieved: np.ndarray,
        score: offline.Score,
        weights: ValueWeights,
        *,
        batch: int = 128,
    ) -> np.ndarray:
        """NDCG@10 of each user's whole feed; an INT8 score depends a little on ``batch``."""
        lists = offline.feeds(
            self.feed, retrieved, self.test_histories, score, weights, batch=batch
        )
        return offline.feed_ndcg(lists, self.feed)

    def record_ndcg(self, name: str, per_user: np.ndarray) -> None:
        """Record the mean NDCG@10 of the whole feed, with its interval."""
        self.mean(name, per_user, how="whole feed: retrieval, then ranking of the candidates")

    def precision(self, name: str) -> Precision:
        """What a bundle's ranker computes in (export stage).

        Raises
        ------
        InputError
            When ``--served`` asks for another than was exported.
        """
        path = self.workspace.need("export") / PRECISIONS
        found: Precision = json.loads(path.read_text(encoding="utf-8"))[name]
        self._require_served(name, found)
        return found

    def _require_served(self, name: str, found: str) -> None:
        if name == "champion" and self.config.served not in ("auto", found):
            raise InputError(
                f"--served {self.config.served}: the student was exported to be served in {found}; "
                "run --stages export,rerank,fairness,bundle with it, or leave it out"
            )

    def judged_parts(self, exported: Path, name: str) -> dict[str, Path]:
        """The files of a bundle that its gates judge, from the export stage's folder."""
        return {
            "encoder": exported / "encoder.onnx",
            "ranker": exported / f"{name}.onnx",
            "sources": self.workspace.need("retrieval") / "sources.npz",
            "calibration": exported / f"{name}.calibration.json",
        }

    def bundle(self, name: str) -> Bundle:
        """A bundle that the bundle stage made: ``reference`` or ``champion``."""
        from capstone import bundle

        made = bundle.load(self.workspace.need("bundle") / name)
        self._require_served(name, made.facts.precision)
        return made

    @contextmanager
    def service(self, *names: str, tag: str = "", **options: Any) -> Iterator[Service]:
        """The live service with these bundles as arms; its logs go to the run's folder."""
        from capstone.serving import live

        made = self.workspace.need("bundle")
        folder = self.run.dir / "logs" / (tag or "-".join(names))
        with live(
            [self.bundle(name) for name in names],
            made / "store",
            made / "users.json",
            folder=folder,
            device=self.run.device,
            workers=self.config.workers,
            **({"port": self.config.port} | options),
        ) as running:
            yield running
