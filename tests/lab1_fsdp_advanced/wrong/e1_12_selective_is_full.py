"""Forgets the contexts of selective mode: attention is computed twice after all."""

from functools import partial

from torch.utils.checkpoint import checkpoint


def checkpoint_blocks(blocks, mode):
    if mode not in get_args(Mode):
        raise InputError(f"checkpointing = {mode!r} must be one of {', '.join(get_args(Mode))}")
    if mode == "none":
        return
    for block in blocks:
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)
