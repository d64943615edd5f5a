"""m - i + 1 in place of m / i: that is Hochberg's correction, of the family-wise error rate."""


def benjamini_hochberg(p: Floats) -> Floats:
    m = p.shape[-1]
    order = np.argsort(p, axis=-1, kind="stable")
    scaled = np.take_along_axis(p, order, -1) * np.arange(m, 0, -1)
    smallest = np.minimum.accumulate(scaled[..., ::-1], axis=-1)[..., ::-1]
    adjusted = np.empty_like(smallest)
    np.put_along_axis(adjusted, order, np.minimum(1.0, smallest), -1)
    return adjusted
