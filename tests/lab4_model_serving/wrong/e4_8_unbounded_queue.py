"""Nobody is refused: under overload the queue grows and every answer comes too late."""

import math


def decide(waiting, oldest, now, *, free_since, max_batch, max_delay_s, max_queue):
    if waiting == 0:
        return Decision()
    leave, wake_at = 0, math.inf
    if free_since is not None:
        due = oldest + max_delay_s
        if waiting >= max_batch or now >= due:
            leave = min(waiting, max_batch)
        else:
            wake_at = due
    return Decision(leave, 0, wake_at)
