"""What every stage works with: the run, its options, the data, and the models so far."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from capstone import offline, training
from capstone.config import Config
from capstone.data import Feed, histories, prepare
from capstone.models import Ranker, SequenceEncoder
from capstone.workspace import Workspace
from common.data import load as load_dataset
from common.statistics import bootstrap_ci

if TYPE_CHECKING:
    from common.runner import Run

RETRIEVAL_LAYERS = 2
STUDENT_LAYERS = 1
VALUE = offline.ValueWeights()


@dataclass
class Context:
    """What every stage works with."""

    run: Run
    config: Config
    workspace: Workspace
    _feed: Feed | None = None

    @property
    def feed(self) -> Feed:
        if self._feed is None:
            dataset = load_dataset("ml-100k")
            self.run.data(dataset)
            self._feed = prepare(dataset)
        return self._feed

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps of one pass over the training sequences."""
        return -(-self.feed.n_users // self.config.batch_size)

    def interval(self, values: np.ndarray) -> tuple[float, float]:
        """95 % bootstrap interval of a mean over users."""
        return bootstrap_ci(values, n_boot=self.config.n_boot, seed=self.run.seed)

    def encoder(self, folder: Path) -> SequenceEncoder:
        """The trained retrieval encoder of the train stage."""
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
            self.config.ranker_layers if teacher else STUDENT_LAYERS,
            self.config.max_length,
        )

    def feed_ndcg(
        self, retrieved: np.ndarray, score: offline.Score, *, batch: int = 128
    ) -> np.ndarray:
        """NDCG@10 of each user's whole feed; an INT8 score depends a little on ``batch``."""
        history = histories(self.feed.test_history, self.config.max_length)
        lists = offline.feeds(self.feed, retrieved, history, score, VALUE, batch=batch)
        return offline.feed_ndcg(lists, self.feed)

    def record_ndcg(self, name: str, per_user: np.ndarray) -> None:
        """Record the mean NDCG@10 of the whole feed, with its interval."""
        self.run.metric(
            name, per_user.mean(),
            unit="ratio", n=len(per_user), ci95=self.interval(per_user),
            how="whole feed: retrieval, then ranking of the candidates",
        )  # fmt: skip
