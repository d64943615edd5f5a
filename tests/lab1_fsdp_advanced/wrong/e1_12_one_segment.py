"""One checkpoint around all blocks: the backward pass holds the activations of all of them."""

from functools import partial

from torch.utils.checkpoint import checkpoint


def checkpoint_blocks(blocks, mode):
    if mode not in get_args(Mode):
        raise InputError(f"checkpointing = {mode!r} must be one of {', '.join(get_args(Mode))}")
    if mode == "none" or not blocks:
        return
    forwards = [block.forward for block in blocks]

    def run(x):
        for forward in forwards:
            x = forward(x)
        return x

    options = {"context_fn": selective_contexts} if mode == "selective" else {}
    blocks[0].forward = partial(checkpoint, run, use_reentrant=False, **options)
    for block in blocks[1:]:
        block.forward = lambda x: x
