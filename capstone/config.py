"""Configuration of the feed-ranking system and its three scales."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from common.errors import InputError, require

STAGES = (
    "data",
    "world",
    "baselines",
    "train",
    "retrieval",
    "auc",
    "distill",
    "export",
    "impressions",
    "index",
    "rerank",
    "fairness",
    "bundle",
    "register",
    "load",
    "drills",
    "page",
    "experiment",
    "evidence",
    "monitoring",
    "card",
)


@dataclass(frozen=True)
class Config:
    """Train, compress, serve, break, audit and experiment on a feed ranker over MovieLens 100K."""

    stages: str = "all"
    """Stages to run, comma-separated, in pipeline order; earlier ones are taken from the last
    run at this scale and seed."""
    fresh: bool = False
    """Do not go on with a run of the same options that was killed; begin anew."""
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
    attention: Literal["softmax", "hstu"] = "softmax"
    """Attention of the rankers' blocks: softmax (SASRec) or pointwise SiLU (HSTU)."""
    student_width: int = 64
    """Width of the distilled ranker that is served."""
    student_layers: int = 1
    """Transformer layers of the student."""
    student_epochs: int = 40
    """Passes over the training sequences for the student."""
    dropout: float = 0.25
    """Dropout of the retrieval encoder and the teacher."""
    student_dropout: float = 0.2
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
    served: Literal["auto", "int8", "fp32", "fp16"] = "auto"
    """Type the served student computes in. auto is int8 on CPU and fp32 on GPU, which has no INT8
    kernels for it."""
    candidates: int = 200
    """Items that retrieval hands to the ranker."""
    random_split_epochs: int = 40
    """Passes over the training interactions of the random 8:1:1 split."""
    impression_shards: int = 0
    """Shards of simulated impressions that the target-aware ranker trains on; 0: the scale's."""
    impression_compile: bool = False
    """torch.compile the blocks of the target-aware ranker: minutes at full scale."""
    n_boot: int = 1000
    """Bootstrap resamples of every interval."""
    start_qps: float = 100.0
    """First arrival rate that the search for the highest rate tries."""
    load_seconds: float = 12.0
    """Length of one measurement of that search."""
    asked_qps: float = 200.0
    """Feeds a second that the service must hold."""
    asked_seconds: float = 60.0
    """Length of that measurement."""
    p99_limit_ms: float = 50.0
    """Latency that a sustained rate must keep."""
    feed_length: int = 20
    """Items of a feed under load."""
    drill_qps: float = 50.0
    """Feeds a second while something is broken."""
    drill_seconds: float = 4.0
    """Length of each of a drill's three phases: before, during, after."""
    experiment_users: int = 3000
    """Simulated people of the A/B test, each a request to the live service."""
    repeats: int = 200
    """Simulated repeats of the A/A test and of each kind of rollout."""
    workers: int = 1
    """TorchServe workers of each version; more make smaller batches of those that wait."""
    port: int = 0
    """Port of the gateway; 0 picks a free one."""

    def __post_init__(self) -> None:
        self.chosen_stages()
        for name in (
            "max_length", "retrieval_width", "retrieval_epochs", "ranker_width", "ranker_layers",
            "ranker_epochs", "student_width", "student_layers", "student_epochs", "batch_size",
            "load_seconds", "start_qps", "asked_qps", "asked_seconds", "p99_limit_ms",
            "learning_rate", "temperature", "ease_lambda", "random_split_epochs", "drill_qps",
            "drill_seconds",
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
            50 <= self.candidates <= 900,
            "--candidates", self.candidates,
            "must be from 50, the longest feed, to 900: the most active user has 945 films left",
        )  # fmt: skip
        for name, least in (
            ("experiment_users", 100), ("n_boot", 100), ("repeats", 20)
        ):  # fmt: skip
            value = getattr(self, name)
            require(value >= least, _option(name), value, f"must be at least {least}")
        require(self.impression_shards >= 0, "--impression-shards", self.impression_shards,
                "must be at least 0")  # fmt: skip
        require(1 <= self.workers <= 64, "--workers", self.workers, "must be from 1 to 64")
        require(1 <= self.feed_length <= 50, "--feed-length", self.feed_length, "must be 1 to 50")
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
        max_length=30,
        retrieval_epochs=3,
        ranker_width=64,
        ranker_layers=1,
        ranker_epochs=4,
        student_width=32,
        student_epochs=2,
        random_split_epochs=1,
        n_boot=200,
        start_qps=20.0,
        load_seconds=1.5,
        asked_qps=40.0,
        asked_seconds=2.0,
        drill_qps=40.0,
        drill_seconds=1.0,
        experiment_users=400,
        repeats=40,
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
        drill_seconds=10.0,
        experiment_users=30_000,
        repeats=1000,
    ),
}
