"""Everything that is done to a model before it trains on many ranks, in the one order that works.

1. **fp8** swaps the class of linear layers: first, while they are plain layers.
2. **Activation checkpointing** wraps what a block computes.
3. **Compilation** sees block and recomputation together, one block at a time: all blocks are alike,
   so one compilation serves them, and FSDP's hooks stay outside what is compiled.
4. **FSDP** last: its hooks gather a block's weights before any of that runs.
5. **Weights**: the model was on the meta device so far; each rank now fills its own shards.

The optimizer comes after all of it: sharding replaces the parameters.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch

from labs.lab1_fsdp_advanced.activation_checkpointing import Mode, checkpoint_blocks
from labs.lab1_fsdp_advanced.cpu_offload import offload_policy
from labs.lab1_fsdp_advanced.distributed import Ranks
from labs.lab1_fsdp_advanced.model import Decoder, Shape
from labs.lab1_fsdp_advanced.precision import Precision, require_support, use_float8
from labs.lab1_fsdp_advanced.sharding import Strategy, shard


@dataclass(frozen=True)
class Parallelism:
    """How a model is spread and computed."""

    strategy: Strategy = Strategy.FULL_SHARD
    precision: Precision = Precision.FP32
    checkpointing: Mode = "none"
    offload: bool = False
    compile: bool = False

    @property
    def name(self) -> str:
        """Such as ``FULL_SHARD bf16 full offload``: what differs from the defaults."""
        parts = [str(self.strategy), str(self.precision)]
        parts += [self.checkpointing] if self.checkpointing != "none" else []
        parts += [word for word in ("offload", "compile") if getattr(self, word)]
        return " ".join(parts)

    @property
    def reshard_between(self) -> bool:
        """For ``train_step``: whether micro-batches gather the weights anew."""
        return self.strategy is not Strategy.ZERO_1

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, given: dict[str, Any]) -> Parallelism:
        return cls(
            Strategy(given["strategy"]),
            Precision(given["precision"]),
            given["checkpointing"],
            given["offload"],
            given["compile"],
        )


def parallelize(shape: Shape, how: Parallelism, ranks: Ranks, *, seed: int) -> Decoder:
    """A model of ``shape`` on all ranks, with the same weights for any ``how`` and any world.

    No rank ever holds the whole model: see ``shard`` and ``Decoder.init_weights``.
    """
    require_support(how.precision, ranks.device.type)
    with torch.device("meta"):
        model = Decoder(shape)
    blocks = list(model.blocks)
    if how.precision is Precision.FP8:
        use_float8(blocks)
    checkpoint_blocks(blocks, how.checkpointing)
    if how.compile:
        for block in blocks:
            block.forward = torch.compile(block.forward)
    shard(
        model,
        how.strategy,
        device=ranks.device,
        blocks=blocks,
        param_dtype=how.precision.param_dtype,
        offload=offload_policy(ranks.device.type) if how.offload else None,
    )
    model.init_weights(seed)
    return model
