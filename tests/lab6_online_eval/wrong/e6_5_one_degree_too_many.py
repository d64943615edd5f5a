"""As many degrees of freedom as arms: the total is counted as unknown."""


def srm_test(counts: Sequence[int], weights: Sequence[float]) -> SrmResult:
    require(len(counts) >= 2, "counts", list(counts), "must name at least two arms")
    require(
        len(counts) == len(weights), "weights", list(weights), f"must be {len(counts)}, one an arm"
    )
    require(min(counts) >= 0, "counts", list(counts), "must not be negative")
    require(min(weights) > 0, "weights", list(weights), "must be > 0", "leave empty arms out")
    require(abs(sum(weights) - 1) <= 1e-6, "weights", list(weights), "must sum to 1")
    total = sum(counts)
    expected = tuple(weight * total for weight in weights)
    require(
        min(expected) >= 5,
        "smallest expected count",
        min(expected),
        "must be at least 5 for the chi-square law",
        "wait for more units",
    )
    statistic = sum((o - e) ** 2 / e for o, e in zip(counts, expected, strict=True))
    dof = len(counts)
    observed = tuple(int(count) for count in counts)
    return SrmResult(float(chi2.sf(statistic, dof)), float(statistic), dof, observed, expected)
