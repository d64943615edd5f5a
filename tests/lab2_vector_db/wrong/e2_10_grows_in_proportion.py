"""nprobe grows with 1 / selectivity, so that one row in a hundred visits every list."""

import math


def plan(n_rows, n_matching, *, k, n_lists, nprobe, n_deleted=0, ef_search=64, costs=TYPICAL):
    check_counts(n_rows, n_matching, n_deleted, k)
    live = n_matching - n_deleted
    if live == 0:
        return Plan("empty")
    share = live / n_rows
    spread = nprobe / share
    filled = min(nprobe / share, SEEN_PER_NEIGHBOUR * k * n_lists / live)
    probes = min(n_lists, math.ceil(max(spread, filled)))
    exact = live * costs.row
    by_index = n_lists * costs.centroid + probes * n_rows / n_lists * costs.code
    return Plan("exact") if exact <= by_index else Plan("index", nprobe=probes)
