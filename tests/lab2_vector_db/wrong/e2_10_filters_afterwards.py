"""The unfiltered k nearest are searched and filtered afterwards: fewer than k come back."""


def plan(n_rows, n_matching, *, k, n_lists, nprobe, n_deleted=0, ef_search=64, costs=TYPICAL):
    return Plan("index", nprobe=nprobe)
