"""Options of lab 6 and their values at each scale."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from common.errors import require

RANKERS = (
    *("popularity", "item_neighbours", "ease", "discovery_05", "discovery_10"),
    *("discovery_20", "discovery_50", "discovery_70"),
)


@dataclass(frozen=True)
class Config:
    """Which experiment is run on which simulated world, and how often methods are tried."""

    experiment: Path | None = None
    """The experiment's file (TOML); the lab's own `experiments/new_ranker.toml` when left out."""
    control: str = "ease"
    """Ranker of the first arm (popularity, item_neighbours, ease, discovery_05, ...)."""
    treatment: str = "discovery_05"
    """Ranker of the second arm; discovery_05 divides EASE's score by popularity ** 0.05."""
    units: int = 60_000
    """Simulated users of the experiment (>= 1000)."""
    validation: int = 2000
    """A/A experiments, and experiments with an effect, on which each method is tried (>= 200)."""
    log_sessions: int = 100_000
    """Simulated sessions of the log from which rankers are judged off-policy (>= 30,000)."""
    peeking: int = 20_000
    """Simulated experiments of each rule in the peeking study (>= 1000)."""
    repeats: int = 200
    """Simulated experiments of each smaller study (>= 20)."""
    drafts: int = 40
    """Team drafts of each user's two lists, for the sensitivity of interleaving (>= 4)."""
    healthy_runs: int = 1000
    """Healthy simulated runs under the automatic stop (>= 50)."""
    bandit_runs: int = 200
    """Runs of each bandit policy (>= 10)."""
    bandit_rounds: int = 5000
    """Rounds of each run (>= 100)."""

    @property
    def quick(self) -> bool:
        """Whether the studies whose size has no option of its own are to be small ones."""
        return self.repeats < 100

    def __post_init__(self) -> None:
        for name in ("control", "treatment"):
            value = getattr(self, name)
            require(value in RANKERS, name, value, f"must be one of {', '.join(RANKERS)}")
        require(self.control != self.treatment, "treatment", self.treatment, "must not be control")
        least = {
            "units": 1000,
            "validation": 200,
            "log_sessions": 30_000,
            "peeking": 1000,
            "repeats": 20,
            "drafts": 4,
            "healthy_runs": 50,
            "bandit_runs": 10,
            "bandit_rounds": 100,
        }
        for name, low in least.items():
            value = getattr(self, name)
            default = type(self).__dataclass_fields__[name].default
            require(value >= low, name, value, f"must be >= {low}", f"try {default}")


SCALES = {
    "smoke": Config(
        units=4000,
        validation=500,
        log_sessions=40_000,
        peeking=4000,
        repeats=60,
        drafts=8,
        healthy_runs=50,
        bandit_runs=20,
        bandit_rounds=1000,
    ),
    "standard": Config(),
    "full": Config(
        units=200_000,
        validation=20_000,
        log_sessions=500_000,
        peeking=200_000,
        repeats=1000,
        healthy_runs=5000,
        bandit_runs=1000,
        bandit_rounds=20_000,
    ),
}
