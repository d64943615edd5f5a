"""A closure over the loop's variable: every block computes what the last one does."""

from torch.utils.checkpoint import checkpoint


def checkpoint_blocks(blocks, mode):
    if mode not in get_args(Mode):
        raise InputError(f"checkpointing = {mode!r} must be one of {', '.join(get_args(Mode))}")
    if mode == "none":
        return
    options = {"context_fn": selective_contexts} if mode == "selective" else {}
    for block in blocks:
        forward = block.forward
        block.forward = lambda *args: checkpoint(forward, *args, use_reentrant=False, **options)
