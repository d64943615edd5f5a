"""Activation checkpointing: keep less of the forward pass, compute it again in the backward pass.

Between the two passes a block keeps every input that a gradient needs. ``full`` keeps the block's
own input and computes the rest again: one more forward pass, a third more work. ``selective`` also
keeps what is dear to compute and small to hold, attention and every second matrix product, so
less is computed twice.

Chen et al. (2016), arXiv 1604.06174; selective: Korthikanti et al. (2022), arXiv 2205.05198.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal, get_args

import torch
from torch import nn
from torch.utils.checkpoint import (
    CheckpointPolicy,
    checkpoint,
    create_selective_checkpoint_contexts,
)

from common.errors import InputError
from common.exercises import exercise

Mode = Literal["none", "selective", "full"]

ATTENTION = (
    torch.ops.aten._scaled_dot_product_flash_attention.default,
    torch.ops.aten._scaled_dot_product_efficient_attention.default,
    torch.ops.aten._scaled_dot_product_cudnn_attention.default,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default,
)
PRODUCTS = (torch.ops.aten.mm.default, torch.ops.aten._scaled_mm.default)

Policy = Callable[..., CheckpointPolicy]


def keep_attention_and_every_second_product() -> Policy:
    """A policy for one pass through one block: what to keep, asked once for each operation.

    The recomputation asks again, for the same operations in the same order, so the two are counted
    apart.
    """
    seen = {False: 0, True: 0}

    def policy(context: Any, operation: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
        keep = operation in ATTENTION
        if operation in PRODUCTS:
            seen[context.is_recompute] += 1
            keep = seen[context.is_recompute] % 2 == 1
        return CheckpointPolicy.MUST_SAVE if keep else CheckpointPolicy.PREFER_RECOMPUTE

    return policy


def selective_contexts() -> tuple[Any, Any]:
    """The pair of contexts that ``torch.utils.checkpoint`` asks for, new for each pass."""
    contexts: tuple[Any, Any] = create_selective_checkpoint_contexts(
        keep_attention_and_every_second_product()
    )
    return contexts


@exercise(
    "1.12",
    points=10,
    title="Checkpoint the activations of each block",
    hint="Replace block.forward by a function that calls torch.utils.checkpoint.checkpoint on the "
    "old one. How many blocks should one checkpoint span, if the most that is ever recomputed at "
    "once should be small?",
)
def checkpoint_blocks(blocks: Sequence[nn.Module], mode: Mode) -> None:
    """Make each block recompute its forward pass in the backward pass, in place.

    ``block.forward`` is replaced, not the block: names in checkpoints stay, and what is put around
    the block afterwards (compilation, then FSDP) sees the recomputation as part of it. FSDP must
    come last, because its hooks gather the weights before ``forward``, and a recomputation needs
    them as well.

    Parameters
    ----------
    blocks
        Each becomes one segment. With n blocks the backward pass holds n inputs and the
        activations of one block, instead of those of n.
    mode
        ``"none"`` changes nothing. ``"full"`` keeps each block's input. ``"selective"`` also keeps
        what :func:`selective_contexts` says.

    Raises
    ------
    InputError
        For another mode.

    Notes
    -----
    ``torch.utils.checkpoint.checkpoint(function, *args, use_reentrant=False)`` calls ``function``
    and keeps ``args``; its ``context_fn`` takes :func:`selective_contexts`, which it calls once a
    pass. Random numbers (dropout) must be the same in both passes: that is its default, leave it
    on.

    Examples
    --------
    >>> checkpoint_blocks(list(model.blocks), "full")
    """
    if mode not in get_args(Mode):
        raise InputError(f"checkpointing = {mode!r} must be one of {', '.join(get_args(Mode))}")
    if mode == "none":
        return
    options: dict[str, Any] = {"context_fn": selective_contexts} if mode == "selective" else {}
    for block in blocks:
        block.forward = partial(  # type: ignore[method-assign]
            checkpoint, block.forward, use_reentrant=False, **options
        )
