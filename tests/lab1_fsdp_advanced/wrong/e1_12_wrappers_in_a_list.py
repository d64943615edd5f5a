"""Writes wrappers into the list it was given: the model keeps its blocks, and nothing changes."""

from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper


def checkpoint_blocks(blocks, mode):
    if mode not in get_args(Mode):
        raise InputError(f"checkpointing = {mode!r} must be one of {', '.join(get_args(Mode))}")
    if mode == "none":
        return
    options = {"context_fn": selective_contexts} if mode == "selective" else {}
    for place, block in enumerate(blocks):
        blocks[place] = checkpoint_wrapper(block, **options)
