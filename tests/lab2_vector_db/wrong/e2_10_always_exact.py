"""Every filtered search compares all matching rows: right, and slow for broad filters."""


def plan(n_rows, n_matching, *, k, n_lists, nprobe, n_deleted=0, ef_search=64, costs=TYPICAL):
    if n_matching == n_deleted:
        return Plan("empty")
    return Plan("index", nprobe=nprobe) if n_matching == n_rows else Plan("exact")
