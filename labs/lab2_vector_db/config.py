"""Options of lab 2 and their values at each scale."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from common.errors import require


@dataclass(frozen=True)
class Config:
    """Which index is built over the word vectors, and how it is searched and measured."""

    queries: int = 1000
    """Vectors held out of the index and used as queries (662 give a p99 with confidence)."""
    k: int = 10
    """Neighbours a query."""
    n_lists: int = 128
    """Inverted lists (IVF cells)."""
    pq_segments: int = 150
    """Pieces of the product quantizer; must divide 300."""
    pq_bits: Literal[4, 8] = 4
    """Bits a piece: 4 is the fast-scan layout, 8 trains about 100 times longer."""
    refine: Literal["none", "flat", "sq8"] = "sq8"
    """The index that is reported as `search`: how its candidates are re-scored."""
    nprobe: int = 32
    """Inverted lists visited by the reported search."""
    k_factor: float = 8.0
    """Candidates re-scored by the reported search, as a multiple of k."""

    def __post_init__(self) -> None:
        require(100 <= self.queries <= 10_000, "queries", self.queries, "must be 100 to 10000")
        require(1 <= self.k <= 100, "k", self.k, "must be 1 to 100", "try 10")
        require(1 <= self.n_lists <= 1024, "n_lists", self.n_lists, "must be 1 to 1024", "try 128")
        require(
            self.pq_segments >= 1 and 300 % self.pq_segments == 0,
            "pq_segments",
            self.pq_segments,
            "must divide the dimension 300",
            "try 150",
        )
        require(
            1 <= self.nprobe <= self.n_lists,
            "nprobe",
            self.nprobe,
            f"must be 1 to n_lists = {self.n_lists}",
        )
        require(self.k_factor >= 1, "k_factor", self.k_factor, "must be >= 1", "try 8")


SCALES = {"smoke": Config(queries=300), "standard": Config(), "full": Config()}
