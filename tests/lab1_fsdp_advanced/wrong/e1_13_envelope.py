"""Takes the span from the first start to the last end, gaps and all."""

from collections.abc import Sequence


def exposed(communication: Sequence, compute: Sequence):
    for start, end in [*communication, *compute]:
        require(start <= end, "interval", (start, end), "must not end before it starts")
    if not communication:
        return Exposure(0, 0, 0)
    begin, end = min(s for s, _ in communication), max(e for _, e in communication)
    total, hidden = end - begin, 0
    if compute:
        first, last = min(s for s, _ in compute), max(e for _, e in compute)
        hidden = max(0, min(end, last) - max(begin, first))
    return Exposure(total, hidden, total - hidden)
