"""The covariate reaches up to the last exposure: it holds events that the treatment touched."""


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
    last = np.full(n_units, -np.inf)
    np.maximum.at(last, exposures.unit, exposures.at)
    border = last[events.unit]
    before = (events.at < border) & (events.at >= border - before_days)

    def total(chosen: NDArray[np.bool_]) -> Floats:
        sums = np.bincount(events.unit[chosen], values[chosen], minlength=n_units)
        return sums.astype(float)

    return WindowSums(metric=total(after), covariate=total(before))
