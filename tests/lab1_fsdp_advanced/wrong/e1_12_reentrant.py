"""Takes the reentrant form: a first block whose input needs no gradient gives its weights none."""

from functools import partial

from torch.utils.checkpoint import checkpoint


def checkpoint_blocks(blocks, mode):
    if mode not in get_args(Mode):
        raise InputError(f"checkpointing = {mode!r} must be one of {', '.join(get_args(Mode))}")
    if mode == "none":
        return
    for block in blocks:
        if mode == "selective":
            block.forward = partial(
                checkpoint, block.forward, use_reentrant=False, context_fn=selective_contexts
            )
        else:
            block.forward = partial(checkpoint, block.forward, use_reentrant=True)
