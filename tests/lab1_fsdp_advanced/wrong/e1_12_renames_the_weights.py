"""Puts each block inside a wrapper: its weights get new names, and no old checkpoint fits."""

import copy
from functools import partial

from torch.utils.checkpoint import checkpoint


def checkpoint_blocks(blocks, mode):
    if mode not in get_args(Mode):
        raise InputError(f"checkpointing = {mode!r} must be one of {', '.join(get_args(Mode))}")
    if mode == "none":
        return
    options = {"context_fn": selective_contexts} if mode == "selective" else {}
    for block in blocks:
        inner = copy.copy(block)
        for name, child in block.named_children():
            setattr(inner, name, child)
        block.__dict__["_modules"] = {"wrapped": inner}
        block.forward = partial(checkpoint, inner.forward, use_reentrant=False, **options)
