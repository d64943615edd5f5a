"""The Flight Recorder: what it holds in a rank, how it is written down, and read again.

torch keeps the last collectives that a process called: place in the order of its process group,
kind, sizes, state, and the Python stack that called it. In torch 2.13 it is on by default, with
2,000 of them; ``TORCH_FR_BUFFER_SIZE`` (older: ``TORCH_NCCL_TRACE_BUFFER_SIZE``) sets the number,
and 0 is off. This module has no opinion about them; :mod:`labs.lab1_fsdp_advanced.debugging` has.
"""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any

Frame = dict[str, Any]  # filename, line, name

# Ranks may give these other sizes each, or only the root has some.
UNEVEN = ("all_to_all", "alltoall", "gather", "scatter")
LIBRARY = re.compile(r"^<|[/\\](?:site|dist)-packages[/\\]|[/\\]lib[/\\]python3\.\d+[/\\]")
CRASHED = re.compile(r'File "(?P<filename>.+)", line (?P<line>\d+) in (?P<name>.+)')


@dataclass(frozen=True)
class Entry:
    """One collective that a rank called.

    Attributes
    ----------
    sequence
        Its place in the rank's calls of this process group: 1, 2, 3, ...
    kind
        ``"all_reduce"``, ``"broadcast"``, ...
    sizes
        Shapes that the ranks have to agree on; empty where they need not (``all_to_all``).
    done
        Whether it has completed.
    lines
        ``"file.py:41 function"`` of the calling code, innermost first, without library code.
    """

    sequence: int
    kind: str
    sizes: tuple[tuple[int, ...], ...] = ()
    done: bool = False
    lines: tuple[str, ...] = ()


@dataclass(frozen=True)
class Group:
    """A process group of one backend: its description and its members' ranks."""

    backend: str
    name: str
    ranks: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.name} of ranks {list(self.ranks)}"


@dataclass(frozen=True)
class Record:
    """What one rank left: why it stopped, where it stood, what it had called in each group."""

    rank: int
    world: int
    reason: str
    lines: tuple[str, ...]
    calls: Mapping[Group, Sequence[Entry]]


def load(folder: Path) -> dict[int, Record]:
    """The records that the ranks' watchdogs wrote; a rank that crashed has none."""
    found = [json.loads(path.read_text("utf-8")) for path in folder.glob("rank-*.json")]
    return {each["rank"]: _record(each) for each in sorted(found, key=lambda each: each["rank"])}


def by_group(records: Mapping[int, Record]) -> dict[Group, dict[int, Sequence[Entry]]]:
    """Group -> member -> its calls, empty for a member with a record and no calls."""
    groups = dict.fromkeys(group for record in records.values() for group in record.calls)
    return {
        group: {rank: records[rank].calls.get(group, ()) for rank in group.ranks if rank in records}
        for group in groups
    }


def flight_record() -> dict[str, Any]:
    """This process's collectives, from every recorder it has, and its process groups.

    CUDA builds keep NCCL's calls in a recorder of their own beside gloo's. The JSON dump
    has no stack traces, so this reads the pickled one: of this process's memory, never a file's.
    The groups come from torch.distributed, because gloo's recorder leaves their names empty and
    their members wrong (seen in 2.13).
    """
    # Only a rank needs torch; whoever reads its record does not.
    from torch._C import _distributed_c10d as c10d
    from torch.distributed.distributed_c10d import _get_all_pg_configs

    entries, version = {}, ""
    for name in ("_dump_nccl_trace", "_dump_fr_trace"):
        if dump := getattr(c10d, name, None):
            found = pickle.loads(dump())
            version = found["version"]
            for entry in found.get("entries", ()):
                entries[entry["profiling_name"], entry["record_id"]] = entry
    groups = [
        {"name": group["pg_name"], "desc": group["pg_desc"], "ranks": list(group["ranks"])}
        for group in _get_all_pg_configs()
    ]
    return {"version": version, "entries": list(entries.values()), "groups": groups}


def frames_of(walked: Iterable[tuple[FrameType, int]]) -> list[Frame]:
    """Frames and line numbers, as ``traceback.walk_stack`` has them, in the recorder's own form."""
    return [
        {"filename": frame.f_code.co_filename, "line": line, "name": frame.f_code.co_name}
        for frame, line in walked
    ]


def _record(found: Mapping[str, Any]) -> Record:
    members = {group["name"]: tuple(group["ranks"]) for group in found["groups"]}
    calls: dict[Group, dict[int, Entry]] = {}
    for raw in found["entries"]:
        if raw["is_p2p"]:
            continue  # sends and receives pair up by peer, not by number
        name, description = raw["process_group"]
        backend, kind = raw["profiling_name"].split(":", 1)
        # Under TORCH_DISTRIBUTED_DEBUG=DETAIL gloo does not know its group's name (2.13).
        everybody = tuple(range(found["world"]))
        group = Group(backend, description or "a group", members.get(name, everybody))
        shapes = [tuple(size) for size in raw["input_sizes"] + raw["output_sizes"]]
        entry = Entry(
            sequence=raw["collective_seq_id"],
            kind=kind,
            sizes=() if kind.startswith(UNEVEN) else tuple(shapes),
            # gloo's recorder leaves the state of completed calls at "scheduled".
            done=raw["state"] == "completed" or (backend == "gloo" and raw["retired"]),
            lines=_lines(raw.get("frames", ())),
        )
        of_group = calls.setdefault(group, {})
        before = of_group.get(entry.sequence)
        if before is not None:  # coalesced calls are one collective
            kind, sizes = f"{before.kind}+{entry.kind}", before.sizes + entry.sizes
            entry = replace(entry, kind=kind, sizes=sizes)
        of_group[entry.sequence] = entry
    return Record(
        found["rank"],
        found["world"],
        found["reason"],
        _lines(found["stack"]),
        {group: list(entries.values()) for group, entries in calls.items()},
    )


def _lines(frames: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """The program's own lines, innermost first."""
    return tuple(
        f"{Path(frame['filename']).name}:{frame['line']} {frame['name']}"
        for frame in frames
        if not LIBRARY.search(frame["filename"])
    )


def place(lines: Sequence[str]) -> str:
    return lines[0] if lines else "an unknown line"


def crashes(folder: Path) -> dict[int, str]:
    """Rank -> how it ended and in which line, of ranks that could only leave their stacks."""
    found = {}
    for path in sorted(folder.glob("rank-*.stacks.txt")):
        text = path.read_text("utf-8")
        if text:
            # The main thread began first and is written last.
            main_thread = text.rsplit("(most recent call first):", 1)[-1]
            lines = _lines([match.groupdict() for match in CRASHED.finditer(main_thread)])
            rank = int(path.name.split("-")[1].split(".")[0])
            found[rank] = f"{text.splitlines()[0]} at {place(lines)}"
    return found
