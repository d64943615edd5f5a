"""Find the rank that hangs the job, from what the Flight Recorder of each rank remembers.

Collectives of a process group pair up by their order alone: the third call of rank 0 with the third
call of rank 1. A job hangs when the ranks disagree about that order, and every stack trace then
shows an innocent line: the collective where somebody waits. The recorder keeps each rank's last
calls (number, kind, sizes, line of Python); put side by side they show where the ranks parted.

``python -m labs.lab1_fsdp_advanced.debugging`` hangs two ranks on purpose and explains it; it takes
names of other faults, see :data:`CASES`.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from common.errors import EXIT_OK, InputError, RunError, exit_status
from common.exercises import exercise
from common.launch import torchrun
from labs.lab1_fsdp_advanced.flight_recorder import (
    Entry,
    Group,
    Record,
    by_group,
    crashes,
    load,
    place,
)


class Case(StrEnum):
    """The faults of ``faulty_job``."""

    STARVED = "starved"
    BRANCH = "branch"
    SHIFTED = "shifted"
    SIZES = "sizes"
    CHECKED = "checked"
    SLOW = "slow"


CASES = {
    Case.STARVED: "rank 1 waits for a batch that its loader never delivers",
    Case.BRANCH: "rank 0 alone enters a branch that broadcasts",
    Case.SHIFTED: "rank 0 alone averages a metric: the calls still fit, one place out of step",
    Case.SIZES: "rank 1 has one class more: its gradient has another size",
    Case.CHECKED: "the same under torch's own check, TORCH_DISTRIBUTED_DEBUG=DETAIL",
    Case.SLOW: "rank 1 computes more slowly than rank 0; nothing hangs",
}


class Verdict(StrEnum):
    """How the ranks of a group part."""

    NONE = "no mismatch"
    BEHIND = "a rank is behind"
    KIND = "ranks call different collectives"
    SIZES = "ranks call one collective with different sizes"


@dataclass(frozen=True)
class Diagnosis:
    """Where the ranks of one process group part.

    Attributes
    ----------
    verdict
    sequence
        The first collective on which they part; None without a mismatch.
    culprits
        Ranks that did not call it, or called otherwise than most; ascending.
    waiting
        Ranks that are, or will be, stuck in it because of them; ascending.
    calls
        What each rank called as its collective ``sequence``, where the recorder has it.
    """

    verdict: Verdict
    sequence: int | None = None
    culprits: tuple[int, ...] = ()
    waiting: tuple[int, ...] = ()
    calls: Mapping[int, Entry] = field(default_factory=dict)


@exercise(
    "1.10",
    points=10,
    title="Find the hang",
    hint="Walk through the sequence numbers from the smallest. At each, who has an entry, who has "
    "not come so far, and do those who have one agree? The rank that waits is the one ahead.",
)
def diagnose(dumps: Mapping[int, Sequence[Entry]]) -> Diagnosis:
    """The first collective of one process group on which its ranks part.

    A rank *is behind* at number s when its newest entry is older than s; one without entries is
    behind at 1. The recorder is a ring, so a rank's oldest entries may be overwritten: an absent
    entry that is older than its newest says nothing, neither that it was called nor how.

    Find the smallest number at which a rank is behind (and another is not), or at which the
    entries that are there differ. If both happen at the same number, the difference is the verdict:
    the rank behind may just be late, but two different calls never fit.

    ==========  ===============================  ============================  ================
    verdict     when                             culprits                      waiting
    ==========  ===============================  ============================  ================
    ``KIND``    kinds differ                     those that differ from most   those that agree
    ``SIZES``   kinds agree, sizes differ        those that differ from most   those that agree
    ``BEHIND``  a rank is behind                 those that are behind         all others
    ``NONE``    every rank called the same                                     nobody
    ==========  ===============================  ============================  ================

    Where no call has more ranks than every other one (two ranks that differ, say), nobody can tell
    who is wrong: all ranks that have an entry are culprits, and nobody waits.

    Parameters
    ----------
    dumps
        Rank -> its entries, in any order, one for each sequence number.

    Returns
    -------
    Diagnosis
        ``calls`` holds the entries with that number. Without a mismatch (or without ranks) all
        fields but ``verdict`` keep their defaults.

    Examples
    --------
    >>> ahead = [Entry(1, "all_reduce"), Entry(2, "broadcast"), Entry(3, "all_reduce")]
    >>> found = diagnose({0: ahead, 1: ahead[:1], 2: ahead})
    >>> found.verdict, found.sequence, found.culprits, found.waiting
    (<Verdict.BEHIND: 'a rank is behind'>, 2, (1,), (0, 2))
    """
    held = {rank: {entry.sequence: entry for entry in dumps[rank]} for rank in sorted(dumps)}
    newest = {rank: max(entries, default=0) for rank, entries in held.items()}
    numbers = {number for entries in held.values() for number in entries}
    if newest and min(newest.values()) < max(newest.values()):
        numbers.add(min(newest.values()) + 1)
    for number in sorted(numbers):
        calls = {rank: entries[number] for rank, entries in held.items() if number in entries}
        kinds = {rank: (entry.kind,) for rank, entry in calls.items()}
        shapes = {rank: entry.sizes for rank, entry in calls.items()}
        for verdict, asked in ((Verdict.KIND, kinds), (Verdict.SIZES, shapes)):
            ranked = Counter(asked.values()).most_common(2)
            if len(ranked) == 2:
                (common, most), (_, next_most) = ranked
                agree = tuple(r for r, call in asked.items() if call == common and most > next_most)
                differ = tuple(rank for rank in asked if rank not in agree)
                return Diagnosis(verdict, number, differ, agree, calls)
        behind = tuple(rank for rank, last in newest.items() if last < number)
        if behind:
            ahead = tuple(rank for rank in newest if rank not in behind)
            return Diagnosis(Verdict.BEHIND, number, behind, ahead, calls)
    return Diagnosis(Verdict.NONE)


def lines_apart(dumps: Mapping[int, Sequence[Entry]]) -> tuple[int, dict[int, str]] | None:
    """The first collective that the ranks call from different lines, whether or not it fits.

    One call too many of the same kind and size pairs up with the next call of the others: nothing
    hangs, the values are wrong, and the job stops much later. The lines part where the bug is.
    Programs in which ranks rightly call one collective from two places are rare.

    Returns
    -------
    tuple or None
        Sequence number, and rank -> ``"file.py:41 function"``.
    """
    places: dict[int, dict[int, str]] = {}
    for rank, entries in sorted(dumps.items()):
        for entry in entries:
            places.setdefault(entry.sequence, {})[rank] = place(entry.lines)
    for number in sorted(places):
        if len(set(places[number].values())) > 1:
            return number, places[number]
    return None


def explain(folder: Path) -> str:
    """Who stopped the job, and in which line, from the records in a folder.

    Raises
    ------
    InputError
        When no rank left one.
    """
    records, crashed = load(folder), crashes(folder)
    if not records and not crashed:
        raise InputError(f"{folder} has no rank-*.json; run the ranks in a Watchdog(folder, ...)")
    lines = [f"rank {rank} ended: {record.reason[:100]}" for rank, record in records.items()]
    lines += [f"rank {rank} crashed: {how}" for rank, how in crashed.items()]
    for group, dumps in by_group(records).items():
        lines += ["", *_explain(group, dumps, records)]
    return "\n".join(lines)


def _explain(
    group: Group, dumps: Mapping[int, Sequence[Entry]], records: Mapping[int, Record]
) -> list[str]:
    found = diagnose(dumps)
    lines = [f"{group}: {found.verdict}"]
    if found.sequence is None:
        return lines
    lines[0] += f", at collective {found.sequence}"
    for rank in dumps:
        call = found.calls.get(rank)
        if call is not None:
            verb = "waits in" if rank in found.waiting else "calls"
            sizes = " ".join(str(list(size)) for size in call.sizes[:1])
            lines.append(f"  rank {rank} {verb} {call.kind} {sizes} at {place(call.lines)}")
        elif rank in found.culprits:
            lines.append(f"  rank {rank} has not called it; it is at {place(records[rank].lines)}")
    apart = lines_apart(dumps)
    if apart and apart[0] < found.sequence:
        lines.append(f"  but they called collective {apart[0]} from different lines already:")
        lines += [f"  rank {rank} at {where}" for rank, where in apart[1].items()]
    return lines


def run(case: Case, folder: Path, *, device: str = "cpu", timeout_s: float = 3) -> str:
    """Start ``faulty_job`` on two ranks and explain what became of it."""
    from labs.lab1_fsdp_advanced.stragglers import StepTimes, describe

    log = folder / "ranks.log"
    args = [case, str(folder), device, str(timeout_s)]
    try:
        torchrun("labs.lab1_fsdp_advanced.faulty_job", args, procs=2, device=device, log=log)
    except RunError as error:
        return f"torchrun: {error}\n\n{explain(folder)}"
    times = json.loads((folder / "times.json").read_text("utf-8"))
    return describe({int(rank): StepTimes(**each) for rank, each in times.items()})


def torchfrtrace(folder: Path) -> str:
    """What torch's own analyser says to the same records; it wants one from every rank."""
    analyser = Path(sys.executable).with_name("torchfrtrace")
    if len(list(folder.glob("torchfrtrace/rank_*"))) < 2 or not analyser.exists():
        return ""
    command = [str(analyser), str(folder / "torchfrtrace"), "--prefix", "rank_"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    said = (done.stdout + done.stderr).splitlines()
    shown = [line for line in said if "tabulate" not in line and " at " not in line]
    return "\n$ torchfrtrace (without stacks)\n" + "\n".join(shown)


def main(names: Sequence[str]) -> int:
    return exit_status(lambda: _show(names))


def _show(names: Sequence[str]) -> int:
    for name in names:
        if name not in list(Case):
            raise InputError(f"no case is called {name!r}; try {', '.join(Case)}")
    for case in map(Case, names or [Case.STARVED]):
        with tempfile.TemporaryDirectory(prefix=f"{case}-") as folder:
            print(f"== {case}: {CASES[case]}\n")
            print(run(case, Path(folder)), flush=True)
            print(torchfrtrace(Path(folder)), flush=True)
    return EXIT_OK


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
