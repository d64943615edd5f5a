"""Options of lab 6 and their values at each scale."""

from __future__ import annotations

from dataclasses import dataclass

from common.errors import require


@dataclass(frozen=True)
class Config:
    """How many experiments are simulated, and how large the planted effects are."""

    aa_tests: int = 2000
    """A/A tests on real users, each hashed under its own name (>= 100)."""
    lift: float = 0.08
    """Simulated effect on a user's mean rating, in stars, for the power measurement (> 0)."""
    srm_units: int = 100_000
    """Simulated users of the experiment with the broken assignment (>= 1000)."""
    srm_loss: float = 0.03
    """Share of the treated users that a planted fault loses (0 to 1)."""
    peeking_experiments: int = 50_000
    """Simulated A/A tests of the peeking measurement (>= 1000)."""
    alpha: float = 0.05
    """Two-sided error rate of every test (0 to 1)."""

    def __post_init__(self) -> None:
        require(self.aa_tests >= 100, "aa_tests", self.aa_tests, "must be >= 100", "try 2000")
        require(self.lift > 0, "lift", self.lift, "must be > 0", "try 0.08")
        require(self.srm_units >= 1000, "srm_units", self.srm_units, "must be >= 1000")
        require(0 <= self.srm_loss < 1, "srm_loss", self.srm_loss, "must be at least 0, below 1")
        require(
            self.peeking_experiments >= 1000,
            "peeking_experiments",
            self.peeking_experiments,
            "must be >= 1000",
        )
        require(0 < self.alpha < 1, "alpha", self.alpha, "must be between 0 and 1", "try 0.05")


SCALES = {
    "smoke": Config(aa_tests=500, peeking_experiments=10_000),
    "standard": Config(),
    "full": Config(aa_tests=20_000, srm_units=1_000_000, peeking_experiments=500_000),
}
