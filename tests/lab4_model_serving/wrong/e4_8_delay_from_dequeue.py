"""The delay begins when a runner becomes free: under load every request pays it twice."""

import math


def decide(waiting, oldest, now, *, free_since, max_batch, max_delay_s, max_queue):
    if waiting == 0:
        return Decision()
    leave, wake_at = 0, math.inf
    if free_since is not None:
        due = max(oldest, free_since) + max_delay_s
        if waiting >= max_batch or now >= due:
            leave = min(waiting, max_batch)
        else:
            wake_at = due
    return Decision(leave, max(0, waiting - leave - max_queue), wake_at)
