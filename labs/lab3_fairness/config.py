"""Options of lab 3 and their values at each scale."""

from __future__ import annotations

from dataclasses import dataclass

from common.errors import require


@dataclass(frozen=True)
class Config:
    """How precisely the audits are made, and where the model decides."""

    n_boot: int = 1000
    """Bootstrap replicates of an interval."""
    n_permutations: int = 1000
    """Shuffles of the groups for the null of a gap; the smallest p-value is 1 / (1 + this)."""
    threshold: float = 0.5
    """A probability of income > 50K above this is a positive prediction (0 to 1)."""
    min_rows: int = 50
    """A group in which a metric counts fewer rows gets a warning."""

    def __post_init__(self) -> None:
        require(self.n_boot >= 100, "n_boot", self.n_boot, "must be >= 100", "try 1000")
        require(self.n_permutations >= 99, "n_permutations", self.n_permutations, "must be >= 99")
        require(0 < self.threshold < 1, "threshold", self.threshold, "must be between 0 and 1")
        require(self.min_rows >= 1, "min_rows", self.min_rows, "must be >= 1", "try 50")


SCALES = {
    "smoke": Config(n_boot=200, n_permutations=199),
    "standard": Config(),
    "full": Config(n_boot=10_000, n_permutations=9_999),
}
