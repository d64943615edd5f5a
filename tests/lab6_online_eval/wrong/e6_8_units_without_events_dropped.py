"""Units without events are missing from the sums, and from the mean's denominator."""


def window_sums(
    exposures: Timed,
    events: Timed,
    values: Floats,
    *,
    n_units: int,
    until: float,
    before_days: float,
) -> WindowSums:
    first = np.full(n_units, np.inf)
    np.minimum.at(first, exposures.unit, exposures.at)
    exposed = first[events.unit]
    after = (events.at >= exposed) & (events.at < until)
    before = (events.at < exposed) & (events.at >= exposed - before_days)

    def total(chosen: NDArray[np.bool_]) -> Floats:
        sums = np.bincount(events.unit[chosen], values[chosen], minlength=n_units)
        return sums[np.unique(events.unit)].astype(float)

    return WindowSums(metric=total(after), covariate=total(before))
