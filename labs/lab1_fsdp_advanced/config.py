"""Options of lab 1 and their values at each scale."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from common.errors import require

StrategyName = Literal["NO_SHARD", "SHARD_GRAD_OP", "FULL_SHARD", "HYBRID_SHARD"]


@dataclass(frozen=True)
class Config:
    """A byte-level language model, trained with each sharding strategy over all ranks."""

    strategies: tuple[StrategyName, ...] = (
        "NO_SHARD",
        "SHARD_GRAD_OP",
        "FULL_SHARD",
        "HYBRID_SHARD",
    )
    """Sharding strategies to compare."""
    width: int = 192
    """Width of the transformer; a multiple of heads."""
    layers: int = 4
    """Transformer blocks; each is one communication group."""
    heads: int = 4
    """Attention heads."""
    context: int = 128
    """Bytes that the model reads at once."""
    global_batch: int = 16
    """Windows a step over all ranks and micro-batches."""
    accumulation: int = 2
    """Micro-batches a rank computes before the ranks exchange gradients."""
    steps: int = 40
    """Optimizer steps a strategy."""
    learning_rate: float = 2e-3
    """Peak learning rate of AdamW."""
    max_norm: float = 1.0
    """Largest L2 norm of the whole gradient."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16 computes in bfloat16 over fp32 weights and sums gradients in fp32."""

    def __post_init__(self) -> None:
        for name in ("width", "layers", "heads", "context", "global_batch", "accumulation"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "must be at least 1")
        require(
            self.width % self.heads == 0,
            "width",
            self.width,
            f"must be a multiple of heads = {self.heads}",
        )
        require(
            self.global_batch % self.accumulation == 0,
            "global_batch",
            self.global_batch,
            f"must be a multiple of accumulation = {self.accumulation}",
        )
        require(self.steps >= 4, "steps", self.steps, "must be at least 4")
        require(self.learning_rate > 0, "learning_rate", self.learning_rate, "must be > 0")
        require(self.max_norm > 0, "max_norm", self.max_norm, "must be > 0", "try 1.0")
        require(len(self.strategies) >= 1, "strategies", self.strategies, "must name at least one")


SCALES = {
    "smoke": Config(width=64, layers=2, context=64, global_batch=8, steps=10),
    "standard": Config(),
    "full": Config(
        strategies=("FULL_SHARD",),
        width=2048,
        layers=21,
        heads=16,
        context=2048,
        global_batch=64,
        accumulation=2,
        steps=60,
        learning_rate=3e-4,
        precision="bf16",
    ),
}
