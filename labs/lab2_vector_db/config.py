"""Options of lab 2 and their values at each scale."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from common.errors import require


@dataclass(frozen=True)
class Config:
    """What is stored, how it is searched, and what is asked of it."""

    texts: int = 20_000
    """Docstrings embedded with MiniLM: the corpus of hybrid search, and what data are fitted to."""
    words: int = 26_423
    """Real word vectors that every kind of index is built on."""
    n_generated: int = 1_000_000
    """Generated vectors of the large index: synthetic, fitted to the embeddings."""
    dimension: int = 96
    """Their components; the embeddings' first principal ones."""
    queries: int = 1000
    """Of the large index: half of them choose its settings, half judge them (662 give a p99)."""
    words_queries: int = 500
    """Word vectors held out as queries."""
    k: int = 10
    """Neighbours a query."""
    target_recall: float = 0.975
    """Recall that the tuner must reach: a little above what is claimed, for other queries."""
    memory_budget: float = 160.0
    """Bytes a vector that an index may take."""
    code: Literal["rabitq", "pq"] = "rabitq"
    """What the large index stores: RaBitQ of 8 bits, or 4-bit PQ ordered by 8-bit scalars, which
    is faster and ends at a lower recall."""
    n_lists: int = 4096
    """Inverted lists of the large index."""
    nprobe: int = 0
    """Lists visited by the reported search; 0 lets the tuner choose."""
    k_factor: float = 0.0
    """Candidates scored again, as a multiple of k, with --code pq; 0 lets the tuner choose."""
    collection_rows: int = 200_000
    """Rows written to the durable collection, a batch at a time."""
    batch: int = 1000
    """Rows of a durable upsert: one fsync each."""
    kills: int = 50
    """How often the writing process is killed with SIGKILL."""
    hybrid_queries: int = 1000
    """Known-item queries of hybrid search; half as many choose the fusion."""
    runbook_rows: int = 20_000
    """Vectors of the streaming runbook."""
    shards: int = 2
    """Shards on Ray actors."""
    cache: bool = True
    """Keep the generated vectors, their true neighbours and the slices of the index, so that a
    build that was stopped goes on where it was."""

    def __post_init__(self) -> None:
        require(self.texts >= 1000, "texts", self.texts, "must be >= 1000", "try 20000")
        require(
            5000 <= self.words <= 26_423,
            "words",
            self.words,
            "must be 5000 to 26423, all there are",
        )
        require(self.n_generated >= 20_000, "n_generated", self.n_generated, "must be >= 20000")
        require(8 <= self.dimension <= 384, "dimension", self.dimension, "must be 8 to 384")
        require(self.dimension % 2 == 0, "dimension", self.dimension, "must be even", "try 96")
        for name in ("queries", "words_queries"):
            value = getattr(self, name)
            require(100 <= value <= 10_000, name, value, "must be 100 to 10000", "try 1000")
        require(1 <= self.k <= 100, "k", self.k, "must be 1 to 100", "try 10")
        require(
            0.5 <= self.target_recall < 1,
            "target_recall",
            self.target_recall,
            "must be 0.5 to 0.999",
        )
        require(self.memory_budget > 0, "memory_budget", self.memory_budget, "must be > 0")
        require(
            16 <= self.n_lists <= self.n_generated // 16,
            "n_lists",
            self.n_lists,
            f"must be 16 to {self.n_generated // 16}, 16 vectors a list",
        )
        require(
            0 <= self.nprobe <= self.n_lists,
            "nprobe",
            self.nprobe,
            f"must be 0 to n_lists = {self.n_lists}",
        )
        require(
            self.k_factor == 0 or self.k_factor >= 1,
            "k_factor",
            self.k_factor,
            "must be >= 1, or 0",
        )
        for name in ("collection_rows", "runbook_rows"):
            value = getattr(self, name)
            require(value >= 2000, name, value, "must be >= 2000", "try 20000")
        require(
            1 <= self.batch <= self.collection_rows, "batch", self.batch, "must be 1 to the rows"
        )
        require(self.kills >= 1, "kills", self.kills, "must be >= 1", "try 50")
        require(self.hybrid_queries >= 50, "hybrid_queries", self.hybrid_queries, "must be >= 50")
        require(1 <= self.shards <= 64, "shards", self.shards, "must be 1 to 64", "try 2")


SCALES = {
    "smoke": Config(
        texts=2000,
        words=8000,
        n_generated=30_000,
        dimension=64,
        queries=200,
        words_queries=200,
        n_lists=128,
        collection_rows=10_000,
        kills=5,
        hybrid_queries=100,
        runbook_rows=5000,
        cache=False,
    ),
    "standard": Config(),
    "full": Config(
        n_generated=10_000_000, n_lists=16_384, queries=2000, kills=200, collection_rows=1_000_000
    ),
}
