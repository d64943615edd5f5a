"""Divides the gradients that are accumulated without an exchange: nobody has summed them."""


def predicted(parameters, strategy, world, local_world, *, states=2, compute_bytes=4, moment=None):
    sharing = ranks_that_share(strategy, world, local_world)
    shards = MASTER * parameters // sharing
    optimizer = states * MASTER * parameters // sharing
    if moment is None:
        return Held(shards, shards, optimizer)
    gradients = MASTER * moment.reduced // sharing + compute_bytes * moment.pending
    if moment.accumulated:
        gradients += MASTER * (parameters - moment.reduced) // sharing
    freed = strategy in FREED_BETWEEN_PASSES
    whole = moment.working if freed else parameters - moment.reduced
    unsharded = compute_bytes * (whole + moment.gathering) + MASTER * moment.exchanging
    return Held(shards, gradients, optimizer, unsharded, moment.activations)
