"""Merges intervals but ends where the last one ends, so that a nested event cuts its parent."""

from collections.abc import Sequence


def exposed(communication: Sequence, compute: Sequence):
    merged = []
    for intervals in (communication, compute):
        disjoint: list = []
        for start, end in sorted(intervals):
            require(start <= end, "interval", (start, end), "must not end before it starts")
            if disjoint and start <= disjoint[-1][1]:
                disjoint[-1] = (disjoint[-1][0], end)
            else:
                disjoint.append((start, end))
        merged.append(disjoint)
    total = sum(end - start for start, end in merged[0])
    hidden = sum(max(0, min(b, d) - max(a, c)) for a, b in merged[0] for c, d in merged[1])
    return Exposure(total, hidden, total - hidden)
