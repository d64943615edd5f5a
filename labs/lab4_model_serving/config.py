"""Options of lab 4 and their values at each scale."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from common.data.labelled_texts import Source
from common.errors import require

Story = Literal["good", "slow", "wrong"]
Served = Literal["auto", "int8", "fp32", "fp16"]

LEFT_TO_DEVICE: dict[str, dict[str, str | int | float]] = {
    "cpu": {"served": "int8", "batch_size": 16, "queue_size": 200, "search_high": 4000.0},
    "cuda": {"served": "fp16", "batch_size": 64, "queue_size": 400, "search_high": 24_000.0},
}
"""Device to what ``auto`` and 0 mean on it. INT8 has no CUDA kernels, float16 few for CPUs; a GPU
takes nearly as long for one text as for 64."""


@dataclass(frozen=True)
class Config:
    """What is trained, how it is served, and how hard it is loaded."""

    source: Source = "auto"
    """Texts: clinc150, docstrings, or auto (CLINC150 where it can be had)."""
    texts: int = 0
    """Training texts at most; 0 takes all."""
    layers: int = 2
    """Layers of MiniLM that are kept (1 to 6)."""
    epochs: int = 2
    """Passes over the training texts."""
    max_tokens: int = 32
    """Longer texts are cut here, [CLS] and [SEP] included."""
    judged: int = 4500
    """Test texts at most that accuracy is measured on."""
    served: Served = "auto"
    """Precision that is served; auto is int8 on a CPU and fp16 on a GPU."""
    workers: int = 0
    """TorchServe worker processes, and batch threads of the lab's server; 0 is one a core, or four
    a GPU."""
    batch_size: int = 0
    """Requests that are run at once, at most; 0 is 16 on a CPU and 64 on a GPU."""
    max_batch_delay_ms: int = 1
    """How long the first request of a batch waits for others (ms)."""
    queue_size: int = 0
    """Requests that may wait, the next one is answered 503; 0 is 200 on a CPU, 400 on a GPU."""
    failed_share: float = 0.01
    """Of the requests that may fail or be refused at a rate that counts; they are late as well, so
    that more than 0.01 never counts."""
    p99_limit_ms: float = 50.0
    """A rate counts when its p99 is below this (ms)."""
    search_low: float = 250.0
    """Lowest rate of the search for the highest one (requests/s)."""
    search_high: float = 0.0
    """Highest rate of the search (requests/s); 0 is 4,000 on a CPU and 24,000 on a GPU."""
    search_s: float = 3.0
    """Length of one trial of the search (s)."""
    search_precision: float = 0.1
    """The search ends when its bounds are this close (ratio - 1)."""
    confirm_s: float = 60.0
    """Length of the run that confirms the rate that was found (s)."""
    ladder_s: float = 1.5
    """Length of a trial in this process, for the rungs below the server (s)."""
    ladder_tries: int = 5
    """Trials of each rung between its lowest and highest rate."""
    crossover_batches: tuple[int, ...] = (1, 8, 32, 64)
    """Batch sizes at which precisions are timed; the largest must divide 64."""
    crossover_rounds: int = 7
    """Times that each precision is timed at each batch size."""
    overload: float = 3.0
    """Offered load of the overload test, in multiples of what the server can do."""
    overload_s: float = 30.0
    """Length of the overload (s)."""
    rollouts: tuple[Story, ...] = ("good", "slow", "wrong")
    """Versions that want to replace the live one."""
    canary_rate: float = 300.0
    """Offered load during a rollout (requests/s)."""
    canary_weights: tuple[float, ...] = (0.05, 0.25, 0.5)
    """Shares of the requests that the new version gets, step by step."""
    canary_samples: int = 150
    """Requests that the first step of a rollout takes; each next step takes more."""
    scaling_s: float = 20.0
    """Length of the autoscaler's trace on TorchServe (s); 0 leaves it out."""
    faults_s: float = 10.0
    """Length of the load while a worker and the JVM are killed (s); 0 leaves it out."""
    inference_port: int = 0
    """Port of the inference API on 127.0.0.1; 0 picks a free one."""

    def __post_init__(self) -> None:
        for name in ("epochs", "max_batch_delay_ms"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "must be >= 1")
        require(self.texts == 0 or self.texts >= 100, "texts", self.texts, "must be 0 or >= 100")
        require(1 <= self.layers <= 6, "layers", self.layers, "must be from 1 to 6")
        require(3 <= self.max_tokens <= 512, "max_tokens", self.max_tokens, "must be from 3 to 512")
        for name in ("workers", "batch_size", "queue_size", "search_high"):
            value = getattr(self, name)
            require(value >= 0, name, value, "must be >= 0", "0 leaves it to the device")
        require(self.judged >= 100, "judged", self.judged, "must be >= 100")
        for name in (
            *(
                "p99_limit_ms",
                "search_low",
                "search_s",
                "search_precision",
                "confirm_s",
                "ladder_s",
            ),
            *("overload_s", "canary_rate"),
        ):
            require(getattr(self, name) > 0, name, getattr(self, name), "must be > 0")
        for name in ("scaling_s", "faults_s"):
            require(getattr(self, name) >= 0, name, getattr(self, name), "must be >= 0")
        require(
            not self.search_high or self.search_high > self.search_low,
            "search_high",
            self.search_high,
            f"must be above search_low = {self.search_low:g}",
        )
        require(self.ladder_tries >= 0, "ladder_tries", self.ladder_tries, "must be >= 0")
        require(self.canary_samples >= 30, "canary_samples", self.canary_samples, "must be >= 30")
        require(
            self.crossover_rounds >= 3, "crossover_rounds", self.crossover_rounds, "must be >= 3"
        )
        for batch in self.crossover_batches:
            require(batch >= 1 and 64 % batch == 0, "crossover_batches", batch, "must divide 64")
        require(0 <= self.failed_share < 1, "failed_share", self.failed_share, "must be in [0, 1)")
        require(self.overload > 1, "overload", self.overload, "must be > 1")
        require(
            0 <= self.inference_port <= 65535,
            "inference_port",
            self.inference_port,
            "must be between 0 and 65535",
        )


def for_device(config: Config, device: str) -> Config:
    """The configuration with a value for all that was left to the device (``workers`` excepted).

    Raises
    ------
    InputError
        The device's highest rate is not above ``search_low``.
    """
    left = {
        name: value
        for name, value in LEFT_TO_DEVICE[device].items()
        if getattr(config, name) in ("auto", 0)
    }
    return replace(config, **left)  # type: ignore[arg-type]


WORKERS_PER_GPU = 4
"""Two layers leave a GPU waiting for tokens and for Python: four workers answered at least 2.5
times what one did (docs/benchmarks.md)."""


SCALES = {
    "smoke": Config(
        texts=400,
        layers=1,
        epochs=1,
        judged=100,
        workers=1,
        crossover_batches=(1, 8),
        crossover_rounds=3,
        search_low=600.0,
        search_high=1200.0,
        search_s=0.5,
        search_precision=1.0,
        confirm_s=1.0,
        ladder_s=0.2,
        ladder_tries=0,
        overload_s=0.3,
        rollouts=("wrong",),
        canary_rate=120.0,
        canary_weights=(0.3,),
        canary_samples=40,
        scaling_s=0.0,
        faults_s=0.0,
    ),
    "standard": Config(),
    "full": Config(
        search_s=10.0,
        search_precision=0.02,
        confirm_s=300.0,
        ladder_s=5.0,
        ladder_tries=6,
        canary_samples=1000,
        scaling_s=120.0,
        faults_s=30.0,
    ),
}
