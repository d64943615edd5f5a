"""Batches are closed by the clock alone: they wait elsewhere and grow no more."""

import math


def decide(waiting, oldest, now, *, free_since, max_batch, max_delay_s, max_queue):
    if waiting == 0:
        return Decision()
    leave, wake_at = 0, math.inf
    due = oldest + max_delay_s
    if waiting >= max_batch or now >= due:
        leave = min(waiting, max_batch)
    else:
        wake_at = due
    return Decision(leave, max(0, waiting - leave - max_queue), wake_at)
