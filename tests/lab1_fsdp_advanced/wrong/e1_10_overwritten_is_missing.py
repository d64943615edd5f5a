"""Takes every absent entry for a call that was not made, though the ring overwrites old ones."""

from collections.abc import Mapping, Sequence


def diagnose(dumps: Mapping[int, Sequence]):
    held = {rank: {entry.sequence: entry for entry in dumps[rank]} for rank in sorted(dumps)}
    for number in sorted({number for entries in held.values() for number in entries}):
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
        absent = tuple(rank for rank in held if rank not in calls)
        if absent:
            return Diagnosis(Verdict.BEHIND, number, absent, tuple(calls), calls)
    return Diagnosis(Verdict.NONE)
