"""Adds up durations, so that events which nest or repeat count several times."""

from collections.abc import Sequence


def exposed(communication: Sequence, compute: Sequence):
    for start, end in [*communication, *compute]:
        require(start <= end, "interval", (start, end), "must not end before it starts")
    total = sum(end - start for start, end in communication)
    merged = []
    for start, end in sorted(compute):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], end))
        else:
            merged.append((start, end))
    hidden = sum(max(0, min(b, d) - max(a, c)) for a, b in communication for c, d in merged)
    return Exposure(total, hidden, total - hidden)
