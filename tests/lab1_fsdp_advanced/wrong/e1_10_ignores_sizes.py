"""Compares only the names of the collectives, so a gradient of another size looks like a match."""

from collections.abc import Mapping, Sequence


def diagnose(dumps: Mapping[int, Sequence]):
    held = {rank: {entry.sequence: entry for entry in dumps[rank]} for rank in sorted(dumps)}
    newest = {rank: max(entries, default=0) for rank, entries in held.items()}
    numbers = {number for entries in held.values() for number in entries}
    if newest and min(newest.values()) < max(newest.values()):
        numbers.add(min(newest.values()) + 1)
    for number in sorted(numbers):
        calls = {rank: entries[number] for rank, entries in held.items() if number in entries}
        ranked = Counter(entry.kind for entry in calls.values()).most_common(2)
        if len(ranked) == 2:
            (common, most), (_, next_most) = ranked
            agree = tuple(r for r, e in calls.items() if e.kind == common and most > next_most)
            differ = tuple(rank for rank in calls if rank not in agree)
            return Diagnosis(Verdict.KIND, number, differ, agree, calls)
        behind = tuple(rank for rank, last in newest.items() if last < number)
        if behind:
            ahead = tuple(rank for rank in newest if rank not in behind)
            return Diagnosis(Verdict.BEHIND, number, behind, ahead, calls)
    return Diagnosis(Verdict.NONE)
