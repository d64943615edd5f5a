"""Compares the last entry of each rank: on a GPU that is far behind the call that hangs."""

from collections.abc import Mapping, Sequence


def diagnose(dumps: Mapping[int, Sequence]):
    last = {r: max(dumps[r], key=lambda e: e.sequence, default=None) for r in sorted(dumps)}
    if not last:
        return Diagnosis(Verdict.NONE)
    newest = max((e.sequence for e in last.values() if e), default=0)
    behind = tuple(r for r, e in last.items() if e is None or e.sequence < newest)
    if behind:
        calls = {r: e for r, e in last.items() if r not in behind}
        return Diagnosis(Verdict.BEHIND, newest, behind, tuple(calls), calls)
    for verdict, key in ((Verdict.KIND, lambda e: e.kind), (Verdict.SIZES, lambda e: e.sizes)):
        ranked = Counter(key(e) for e in last.values()).most_common(2)
        if len(ranked) == 2:
            tie = ranked[0][1] == ranked[1][1]
            agree = tuple(r for r, e in last.items() if key(e) == ranked[0][0] and not tie)
            return Diagnosis(verdict, newest, tuple(r for r in last if r not in agree), agree, last)
    return Diagnosis(Verdict.NONE)
