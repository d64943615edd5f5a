"""A batch leaves only when it is full: at low traffic a request hangs."""

import math


def decide(waiting, oldest, now, *, free_since, max_batch, max_delay_s, max_queue):
    if waiting == 0:
        return Decision()
    leave = max_batch if free_since is not None and waiting >= max_batch else 0
    return Decision(leave, max(0, waiting - leave - max_queue), math.inf)
