"""Each p is scaled by its own rank alone: a smaller p can end up above a larger one."""


def benjamini_hochberg(p: Floats) -> Floats:
    m = p.shape[-1]
    order = np.argsort(p, axis=-1, kind="stable")
    scaled = np.take_along_axis(p, order, -1) * m / np.arange(1, m + 1)
    adjusted = np.empty_like(scaled)
    np.put_along_axis(adjusted, order, np.minimum(1.0, scaled), -1)
    return adjusted
