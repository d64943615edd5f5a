"""Adds the overlap of each pair: two operators above one collective hide it twice."""

from collections.abc import Sequence


def exposed(communication: Sequence, compute: Sequence):
    for start, end in [*communication, *compute]:
        require(start <= end, "interval", (start, end), "must not end before it starts")
    merged = []
    for start, end in sorted(communication):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], end))
        else:
            merged.append((start, end))
    total = sum(end - start for start, end in merged)
    hidden = sum(max(0, min(b, d) - max(a, c)) for a, b in merged for c, d in compute)
    return Exposure(total, hidden, total - hidden)
