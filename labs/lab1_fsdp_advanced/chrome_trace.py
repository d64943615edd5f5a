"""The events of a ``torch.profiler`` trace, sorted into communication and computation.

=============  =============================================  =====================================
lane           on a GPU                                       on the CPU with gloo
=============  =============================================  =====================================
communication  NCCL's kernels                                 gloo's ``gloo:*`` events, on its own
                                                              threads, from start to end of the work
compute        all other kernels                              operators (``aten::`` and others) on
                                                              the other threads, without the time
                                                              they spend in collectives' own calls
=============  =============================================  =====================================

Both count a collective from when this rank enters it: waiting for a slower rank is communication
time. On the CPU the two lanes share the cores, so what overlaps is not free; and what no operator
and no collective covers (Python, the wait for a value) is in neither lane.
"""

from __future__ import annotations

import gzip
import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

Interval = tuple[float, float]
# A collective's call on the host; it hands the work over, or waits for it.
CALLS = ("c10d::", "_c10d_functional")


def without(intervals: Iterable[Interval], holes: Iterable[Interval]) -> list[Interval]:
    """The parts of the intervals' union that no hole covers, in order."""
    # At one instant: +1 or -1 interval open, +1 or -1 hole open.
    changes: dict[float, list[int]] = defaultdict(lambda: [0, 0])
    for kind, spans in enumerate((intervals, holes)):
        for start, end in spans:
            changes[start][kind] += 1
            changes[end][kind] -= 1
    parts: list[Interval] = []
    opened = holed = 0
    since: float | None = None
    for instant in sorted(changes):
        if since is not None and instant > since:
            parts.append((since, instant))
        opened += changes[instant][0]
        holed += changes[instant][1]
        since = instant if opened and not holed else None
    return parts


@dataclass(frozen=True)
class Event:
    """A span of a trace: seconds from its beginning, and the thread or GPU stream it ran on."""

    name: str
    category: str
    start: float
    end: float
    thread: tuple[object, object]

    @property
    def interval(self) -> Interval:
        return self.start, self.end


def read_trace(path: Path) -> list[Event]:
    """The spans of a Chrome trace, plain or gzipped, in order of their start."""
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8") as stream:
        raw = [each for each in json.load(stream)["traceEvents"] if each.get("ph") == "X"]
    origin = min((each["ts"] for each in raw), default=0.0)
    found = [
        Event(
            each["name"],
            each.get("cat", ""),
            (each["ts"] - origin) / 1e6,
            (each["ts"] - origin + each["dur"]) / 1e6,
            (each.get("pid"), each.get("tid")),
        )
        for each in raw
    ]
    return sorted(found, key=lambda event: event.start)


@dataclass(frozen=True)
class Lanes:
    """Intervals in which collectives ran, and in which something was computed; seconds."""

    communication: list[Interval]
    compute: list[Interval]

    def within(self, window: Interval) -> Lanes:
        """Those inside a window, cut to it."""

        def cut(intervals: Iterable[Interval]) -> list[Interval]:
            clipped = [(max(start, window[0]), min(end, window[1])) for start, end in intervals]
            return [(start, end) for start, end in clipped if start < end]

        return Lanes(cut(self.communication), cut(self.compute))


def lanes(events: Sequence[Event]) -> Lanes:
    """Sort a trace's events into communication and compute; see the table of this module."""
    kernels = [event for event in events if event.category == "kernel"]
    if kernels:
        nccl = [event for event in kernels if "nccl" in event.name.lower()]
        others = [event for event in kernels if "nccl" not in event.name.lower()]
        return Lanes([e.interval for e in nccl], [e.interval for e in others])
    gloo = [event for event in events if event.name.startswith("gloo:")]
    busy = {event.thread for event in gloo}
    operators = [e for e in events if e.category == "cpu_op" and "::" in e.name]
    calls = [event.interval for event in operators if event.name.startswith(CALLS)]
    # autograd:: spans hold the Python hooks in which FSDP waits, and are no work of their own.
    work = [
        event.interval
        for event in operators
        if event.thread not in busy and not event.name.startswith((*CALLS, "autograd::"))
    ]
    return Lanes([event.interval for event in gloo], without(work, calls))
