"""Lets the recomputation draw new random numbers: dropout drops other elements than before."""

from functools import partial

from torch.utils.checkpoint import checkpoint


def checkpoint_blocks(blocks, mode):
    if mode not in get_args(Mode):
        raise InputError(f"checkpointing = {mode!r} must be one of {', '.join(get_args(Mode))}")
    if mode == "none":
        return
    options = {"context_fn": selective_contexts} if mode == "selective" else {}
    for block in blocks:
        block.forward = partial(
            checkpoint, block.forward, use_reentrant=False, preserve_rng_state=False, **options
        )
