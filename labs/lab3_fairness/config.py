"""Options of lab 3 and their values at each scale."""

from __future__ import annotations

from dataclasses import dataclass

from common.errors import require


@dataclass(frozen=True)
class Config:
    """How precisely the audits are made, and on how much."""

    n_boot: int = 1000
    """Bootstrap replicates of an interval."""
    n_permutations: int = 1000
    """Shuffles of the groups for the null of a gap; the smallest p-value is 1 / (1 + this)."""
    threshold: float = 0.5
    """A probability of income > 50K above this is a positive prediction (0 to 1)."""
    min_rows: int = 50
    """A group in which a metric counts fewer rows gets a warning."""
    rows: int = 0
    """Rows of Adult's training half that are used, and half as many of its test half; 0: all."""
    folds: int = 5
    """Models that give the training rows their out-of-fold scores."""
    rehearsals: int = 40
    """Trials of a decision rule on halves of the validation rows, before it is tried on the test
    rows."""
    seeds: int = 3
    """Trainings of each unstable method, to see how much it depends on the seed; 0: none."""
    null_sets: int = 200
    """Data sets without any bad slice that the slice search is tried on."""
    studied_sets: int = 500
    """Simulated data sets on which coverage and false positives are counted."""
    explained_rows: int = 100
    """People whose decision is explained, in the attack on explanations."""
    quick: bool = False
    """Leave out the methods and the explanations that take longest."""

    def __post_init__(self) -> None:
        require(self.n_boot >= 100, "n_boot", self.n_boot, "must be >= 100", "try 1000")
        require(self.n_permutations >= 99, "n_permutations", self.n_permutations, "must be >= 99")
        require(0 < self.threshold < 1, "threshold", self.threshold, "must be between 0 and 1")
        require(self.min_rows >= 1, "min_rows", self.min_rows, "must be >= 1", "try 50")
        require(
            self.rows == 0 or self.rows >= 4000, "rows", self.rows, "must be >= 4000, or 0 for all"
        )
        require(2 <= self.folds <= 20, "folds", self.folds, "must be 2 to 20", "try 5")
        require(self.rehearsals >= 5, "rehearsals", self.rehearsals, "must be >= 5", "try 100")
        require(self.seeds == 0 or self.seeds >= 2, "seeds", self.seeds, "must be 0 or >= 2")
        require(self.null_sets >= 10, "null_sets", self.null_sets, "must be >= 10", "try 200")
        require(self.studied_sets >= 50, "studied_sets", self.studied_sets, "must be >= 50")
        require(self.explained_rows >= 20, "explained_rows", self.explained_rows, "must be >= 20")


SCALES = {
    "smoke": Config(
        n_boot=200,
        n_permutations=199,
        rows=6000,
        folds=2,
        rehearsals=5,
        seeds=0,
        null_sets=20,
        studied_sets=50,
        explained_rows=30,
        quick=True,
    ),
    "standard": Config(),
    "full": Config(
        n_boot=10_000,
        n_permutations=9_999,
        rehearsals=300,
        seeds=10,
        null_sets=500,
        studied_sets=2000,
    ),
}
