"""Configuration of the feed-ranking system and its three scales."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from common.errors import InputError, require

STAGES = (
    "data",
    "baselines",
    "train",
    "distill",
    "export",
    "index",
    "bundle",
    "load",
    "fairness",
    "experiment",
    "card",
)


@dataclass(frozen=True)
class Config:
    """Train, compress, serve, audit and experiment on a feed ranker over MovieLens 100K."""

    stages: str = "all"
    """Stages to run, comma-separated, in pipeline order; earlier ones are taken from the last
    run at this scale and seed."""
    max_length: int = 50
    """Items of a user's history that the models read (the newest)."""
    retrieval_width: int = 64
    """Width of the retrieval encoder and of the FAISS vectors."""
    retrieval_epochs: int = 40
    """Passes over the training sequences for retrieval."""
    ranker_width: int = 128
    """Width of the teacher ranker."""
    ranker_layers: int = 2
    """Transformer layers of the teacher ranker."""
    ranker_epochs: int = 24
    """Passes over the training sequences for the teacher."""
    student_width: int = 32
    """Width of the distilled ranker that is served."""
    student_epochs: int = 40
    """Passes over the training sequences for the student."""
    dropout: float = 0.25
    """Dropout of the retrieval encoder and the teacher."""
    student_dropout: float = 0.1
    """Dropout of the student, which has less to overfit with."""
    batch_size: int = 64
    """Sequences a step, over all ranks."""
    learning_rate: float = 8e-3
    """Peak learning rate of AdamW."""
    strategy: Literal["NO_SHARD", "SHARD_GRAD_OP", "FULL_SHARD", "HYBRID_SHARD"] = "FULL_SHARD"
    """FSDP sharding strategy of the training."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Type training computes in; weights and gradient sums stay fp32. auto is bf16 on GPU."""
    temperature: float = 2.0
    """Distillation temperature."""
    alpha: float = 0.5
    """Weight of the teacher's soft labels against the hard ones."""
    ease_lambda: float = 500.0
    """L2 regularisation of the EASE baseline."""
    candidates: int = 200
    """Items that retrieval hands to the ranker."""
    n_boot: int = 1000
    """Bootstrap resamples of every interval."""
    load_seconds: float = 10.0
    """Length of one load measurement."""
    start_qps: float = 50.0
    """First arrival rate that the load test tries."""
    p99_limit_ms: float = 50.0
    """Latency that the highest sustained rate must keep."""
    experiment_users: int = 3000
    """Simulated users of the A/B test, each one request to the live service."""
    port: int = 0
    """Port of the gateway; 0 picks a free one."""

    def __post_init__(self) -> None:
        self.chosen_stages()
        for name in (
            "max_length", "retrieval_width", "retrieval_epochs", "ranker_width", "ranker_layers",
            "ranker_epochs", "student_width", "student_epochs", "batch_size", "n_boot",
            "load_seconds", "start_qps", "p99_limit_ms", "learning_rate", "temperature",
            "ease_lambda",
        ):  # fmt: skip
            require(getattr(self, name) > 0, _option(name), getattr(self, name), "must be > 0")
        for name in ("retrieval_width", "ranker_width", "student_width"):
            width = getattr(self, name)
            require(width % 16 == 0, _option(name), width, "must be a multiple of 16")
        require(0 <= self.alpha <= 1, "--alpha", self.alpha, "must be between 0 and 1")
        for name in ("dropout", "student_dropout"):
            value = getattr(self, name)
            require(0 <= value < 1, _option(name), value, "must be at least 0 and below 1")
        require(
            20 <= self.candidates <= 900,
            "--candidates", self.candidates,
            "must be from 20 to 900: the most active user has 945 films left",
        )  # fmt: skip
        require(
            self.experiment_users >= 100,
            "--experiment-users", self.experiment_users, "must be at least 100",
        )  # fmt: skip
        require(self.n_boot >= 100, "--n-boot", self.n_boot, "must be at least 100")
        require(0 <= self.port <= 65535, "--port", self.port, "must be from 0 to 65535")

    def chosen_stages(self) -> tuple[str, ...]:
        """The stages to run, in pipeline order.

        Raises
        ------
        InputError
            For a name that is no stage.
        """
        if self.stages == "all":
            return STAGES
        names = [name.strip() for name in self.stages.split(",") if name.strip()]
        unknown = [name for name in names if name not in STAGES]
        if unknown or not names:
            what = ", ".join(unknown) or repr(self.stages)
            raise InputError(f"--stages {what}: no such stage; choose from {', '.join(STAGES)}")
        return tuple(stage for stage in STAGES if stage in names)


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")


SCALES = {
    "smoke": Config(
        retrieval_epochs=8,
        ranker_width=64,
        ranker_layers=1,
        ranker_epochs=8,
        student_epochs=8,
        n_boot=300,
        start_qps=20.0,
        load_seconds=4.0,
        experiment_users=400,
    ),
    "standard": Config(),
    "full": Config(
        max_length=200,
        learning_rate=2e-3,
        ranker_width=256,
        ranker_layers=4,
        ranker_epochs=80,
        retrieval_epochs=120,
        student_epochs=120,
        load_seconds=60.0,
        experiment_users=30_000,
    ),
}
