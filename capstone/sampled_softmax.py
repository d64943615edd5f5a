"""Softmax over a sample of the catalogue, corrected for how the sample was drawn (logQ).

A full softmax scores every item at every step. With millions of items one scores the target
against the other targets of the batch, which cost nothing extra. Those negatives are popular items
more often than not, and without a correction the model learns to avoid what is popular.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from common.errors import require
from common.exercises.marker import exercise


@exercise(
    "7.2",
    points=5,
    title="The logQ correction",
    hint="How often does an item stand among the negatives, and how often is it the target? The "
    "correction belongs to both. Then look for the target of a row in the columns of the others.",
)
def corrected_logits(logits: Tensor, log_q: Tensor, items: Tensor, positive: Tensor) -> Tensor:
    """Logits of a sampled softmax whose optimum is that of the full one.

    Every column, the target's too, loses the logarithm of the probability that sampling puts its
    item there:

        ``s_c(x, y_j) = s(x, y_j) - log Q(y_j)``

    A column that holds the row's own target a second time is no negative (an accidental hit): its
    logit becomes -inf.

    Parameters
    ----------
    logits : float [B, S]
        Scores of B queries against the S sampled items, the targets among them.
    log_q : float [S]
        Logarithm of the probability of each sampled item under the sampling; a constant may be
        added to all.
    items : int [S]
        Id of the item in each column.
    positive : int [B]
        Column of each row's target; ``arange(B)`` when the negatives are the batch's own targets.

    Returns
    -------
    Tensor [B, S]
        A new tensor: -inf at accidental hits, finite elsewhere.

    References
    ----------
    Bengio & Senécal, Adaptive Importance Sampling to Accelerate Training of a Neural Probabilistic
    Language Model, 2008, section III; Yi et al., Sampling-Bias-Corrected Neural Modeling for Large
    Corpus Item Recommendations, RecSys 2019, equation 5.
    """
    rows = torch.arange(len(positive), device=logits.device)
    hits = items[None, :] == items[positive][:, None]
    hits[rows, positive] = False
    return (logits - log_q[None, :]).masked_fill(hits, -torch.inf)


def in_batch_loss(queries: Tensor, vectors: Tensor, items: Tensor, log_q: Tensor) -> Tensor:
    """Sum of the cross-entropies of each query against the targets of all the queries.

    Parameters
    ----------
    queries : float [B, D]
    vectors : float [B, D]
        Of the query's target.
    items : int [B]
        Id of the query's target.
    log_q : float [B]
        Of these items, for the correction; zeros leave it out.
    """
    columns = torch.arange(len(items), device=items.device)
    logits = corrected_logits(queries @ vectors.T, log_q, items, columns)
    return F.cross_entropy(logits, columns, reduction="sum")


def log_frequencies(counts: NDArray[np.floating]) -> NDArray[np.float32]:
    """log Q of in-batch sampling: the share of the interactions that are the item's.

    Parameters
    ----------
    counts : [n_items + 1]
        Interactions of each item in the training data; an item without any counts as one, since
        it cannot be drawn and its value is never used.
    """
    shares = np.maximum(counts, 1) / counts.sum()
    return np.log(shares).astype(np.float32)


class StreamingFrequency:
    """How often each item is in a batch, estimated while batches go by (Yi et al., algorithm 2).

    For a stream without an end nobody counts. An array remembers the step at which an item was
    seen last and a moving average of the gap between its appearances; Q is one over the gap. Items
    share ``buckets`` by hashing. A collision can only shorten a gap, so of several hashes the
    longest gap is the best.

    Parameters
    ----------
    buckets
        Length of each array; about as many as items, or more.
    rate
        Weight of the newest gap, in (0, 1].
    hashes
        Independent hash functions.
    seed
        Of the hash functions.
    """

    PRIME = 2_147_483_647

    def __init__(self, buckets: int, *, rate: float = 0.05, hashes: int = 2, seed: int = 0) -> None:
        require(buckets >= 1, "buckets", buckets, "must be >= 1")
        require(0 < rate <= 1, "rate", rate, "must be in (0, 1]", "try 0.05")
        require(hashes >= 1, "hashes", hashes, "must be >= 1")
        rng = np.random.default_rng(seed)
        self.rate, self.buckets, self.step = rate, buckets, 0
        self.factors = rng.integers(1, self.PRIME, (hashes, 1))
        self.offsets = rng.integers(0, self.PRIME, (hashes, 1))
        self.last = np.zeros((hashes, buckets), dtype=np.int64)
        self.gap = np.zeros((hashes, buckets))

    def update(self, items: NDArray[np.int64]) -> None:
        """Take note of a batch; an item counts once however often it is in it."""
        self.step += 1
        for row, slots in enumerate(self._slots(np.unique(items))):
            slots = np.unique(slots)
            new = self.step - self.last[row, slots]
            old = self.gap[row, slots]
            # The first gap is the best estimate there is; later ones move it.
            self.gap[row, slots] = np.where(old == 0, new, old + self.rate * (new - old))
            self.last[row, slots] = self.step

    def log_q(self, items: NDArray[np.int64]) -> NDArray[np.float32]:
        """log of the probability that the item is in a batch; 1 / step for one never seen."""
        rows = np.arange(len(self.gap))[:, None]
        gaps = self.gap[rows, self._slots(items)]
        longest = np.where(gaps == 0, max(1, self.step), gaps).max(axis=0)
        return -np.log(longest).astype(np.float32)

    def _slots(self, items: NDArray[np.int64]) -> NDArray[np.int64]:
        """[hashes, n]: bucket of each item under each hash (multiply, add, modulo a prime)."""
        return (self.factors * items[None, :] + self.offsets) % self.PRIME % self.buckets
