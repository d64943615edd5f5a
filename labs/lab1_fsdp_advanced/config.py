"""Options of lab 1 and their values at each scale."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, Self, get_args

from common.errors import require
from common.hardware import detect

StrategyName = Literal["NO_SHARD", "ZERO_1", "SHARD_GRAD_OP", "FULL_SHARD", "HYBRID_SHARD"]
PrecisionName = Literal["fp32", "bf16", "fp16", "fp8"]
CheckpointingName = Literal["auto", "none", "selective", "full"]
STRATEGIES: tuple[StrategyName, ...] = get_args(StrategyName)
SizeName = Literal[
    "auto", "0.2M", "4M", "10M", "50M", "125M", "350M", "1B", "1.3B", "3B", "8B", "13B", "27B"
]
VariantName = Literal["bf16", "fp16", "fp8", "selective", "full", "offload", "compile"]

ROOMY_GIB = 100.0


def windows_a_gpu() -> int:
    """8 fit an 80 GiB GPU with the 1.3B model; twice as many keep a larger one busier."""
    return 16 if min((gpu.memory_gib for gpu in detect().gpus), default=0.0) >= ROOMY_GIB else 8


@dataclass(frozen=True)
class Config:
    """A language model of docstrings, trained with each sharding strategy over all ranks."""

    model: SizeName = "4M"
    """Size; auto: 1B on CPU, 1.3B on GPUs."""
    strategies: tuple[StrategyName, ...] = STRATEGIES
    """Sharding strategies to compare, those that fit in memory; none: all on GPUs, one on CPU."""
    precision: PrecisionName = "fp32"
    """Type of the matrix products; the weights are fp32 in all of them."""
    checkpointing: CheckpointingName = "none"
    """Activations that are computed again in the backward pass; auto: full on CPU, none on GPUs."""
    offload: bool = False
    """Keep shards and optimizer in the memory of the host."""
    compile: bool | None = None
    """torch.compile each block; None: on GPUs at full scale."""
    variants: tuple[VariantName, ...] = ("bf16", "fp16", "fp8", "selective", "full", "offload")
    """Ways to compute to compare under FULL_SHARD, a few steps each."""
    context: int = 128
    """Tokens that a window predicts; 0: 256 on CPU, 2048 on GPUs."""
    global_batch: int = 16
    """Windows a step over all ranks and micro-batches; 0: 4 on CPU, 8 a GPU, 16 on large ones."""
    accumulation: int = 2
    """Micro-batches a rank computes before the ranks exchange gradients."""
    steps: int = 40
    """Optimizer steps a strategy; 0: 10 on CPU, 40 on GPUs."""
    learn_steps: int = 300
    """Steps of the run that learns the text; 0 leaves it out."""
    variant_steps: int = 8
    """Steps of each variant."""
    tracker: bool = True
    """Also predict memory with FSDPMemTracker, 1 to 20 seconds a strategy."""
    texts: int = 0
    """Docstrings to train on; 0: all."""
    hang: bool = True
    """Also stop two ranks on purpose and diagnose it."""
    learning_rate: float = 2e-3
    """Peak learning rate of AdamW."""
    max_norm: float = 1.0
    """Largest L2 norm of the whole gradient."""

    def __post_init__(self) -> None:
        for name, least in (("accumulation", 1), ("variant_steps", 2)):
            value = getattr(self, name)
            require(value >= least, name, value, f"must be at least {least}")
        for name, least in (("context", 1), ("global_batch", 1), ("steps", 4)):
            value = getattr(self, name)
            require(value == 0 or value >= least, name, value, f"must be at least {least}")
        require(
            self.global_batch % self.accumulation == 0,
            "global_batch",
            self.global_batch,
            f"must be a multiple of accumulation = {self.accumulation}",
        )
        require(self.texts >= 0, "texts", self.texts, "must be >= 0", "0 takes all")
        require(self.learn_steps >= 0, "learn_steps", self.learn_steps, "must be >= 0")
        require(self.learning_rate > 0, "learning_rate", self.learning_rate, "must be > 0")
        require(self.max_norm > 0, "max_norm", self.max_norm, "must be > 0", "try 1.0")

    def on(self, device: str, procs: int) -> Self:
        """With every option that was left to the machine filled in."""
        gpu = device == "cuda"
        return replace(
            self,
            model=self.model if self.model != "auto" else ("1.3B" if gpu else "1B"),
            compile=self.compile if self.compile is not None else gpu,
            strategies=self.strategies or (STRATEGIES if gpu else ("FULL_SHARD",)),
            checkpointing=("none" if gpu else "full")
            if self.checkpointing == "auto"
            else self.checkpointing,
            context=self.context or (2048 if gpu else 256),
            global_batch=self.global_batch or (windows_a_gpu() * procs if gpu else 4),
            steps=self.steps or (40 if gpu else 10),
        )


SCALES = {
    "smoke": Config(
        model="0.2M",
        context=64,
        global_batch=8,
        steps=8,
        learn_steps=0,
        variants=("bf16", "fp16", "full"),
        variant_steps=3,
        compile=False,
        texts=6000,
        hang=False,
    ),
    "standard": Config(compile=False),
    "full": Config(
        model="auto",
        strategies=(),
        precision="bf16",
        checkpointing="auto",
        variants=(),
        context=0,
        global_batch=0,
        accumulation=1,
        steps=0,
        learn_steps=0,
        hang=False,
        learning_rate=3e-4,
    ),
}
