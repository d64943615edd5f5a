"""Blames the ranks that stand in a collective, which are those that wait."""

from collections.abc import Mapping, Sequence


def diagnose(dumps: Mapping[int, Sequence]):
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
        inside = tuple(rank for rank, last in newest.items() if last >= number)
        if len(inside) < len(newest):
            outside = tuple(rank for rank in newest if rank not in inside)
            return Diagnosis(Verdict.BEHIND, number, inside, outside, calls)
    return Diagnosis(Verdict.NONE)
