"""Pairs entries by their place in the list instead of their sequence number."""

from collections.abc import Mapping, Sequence


def diagnose(dumps: Mapping[int, Sequence]):
    ranks = sorted(dumps)
    longest = max((len(entries) for entries in dumps.values()), default=0)
    for place in range(longest):
        calls = {rank: dumps[rank][place] for rank in ranks if place < len(dumps[rank])}
        kinds = {rank: (entry.kind,) for rank, entry in calls.items()}
        shapes = {rank: entry.sizes for rank, entry in calls.items()}
        for verdict, asked in ((Verdict.KIND, kinds), (Verdict.SIZES, shapes)):
            ranked = Counter(asked.values()).most_common(2)
            if len(ranked) == 2:
                (common, most), (_, next_most) = ranked
                agree = tuple(r for r, call in asked.items() if call == common and most > next_most)
                differ = tuple(rank for rank in asked if rank not in agree)
                return Diagnosis(verdict, place + 1, differ, agree, calls)
        behind = tuple(rank for rank in ranks if rank not in calls)
        if behind:
            return Diagnosis(Verdict.BEHIND, place + 1, behind, tuple(calls), calls)
    return Diagnosis(Verdict.NONE)
