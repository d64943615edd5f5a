"""The delay is waited out although the batch is full: nobody gains."""

import math


def decide(waiting, oldest, now, *, free_since, max_batch, max_delay_s, max_queue):
    if waiting == 0:
        return Decision()
    leave, wake_at = 0, math.inf
    if free_since is not None:
        due = oldest + max_delay_s
        if now >= due:
            leave = min(waiting, max_batch)
        else:
            wake_at = due
    return Decision(leave, max(0, waiting - leave - max_queue), wake_at)
