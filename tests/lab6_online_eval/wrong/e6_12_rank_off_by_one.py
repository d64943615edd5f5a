"""The smallest p has rank 2: every p-value is divided by one more than its rank."""


def benjamini_hochberg(p: Floats) -> Floats:
    m = p.shape[-1]
    order = np.argsort(p, axis=-1, kind="stable")
    scaled = np.take_along_axis(p, order, -1) * m / np.arange(2, m + 2)
    smallest = np.minimum.accumulate(scaled[..., ::-1], axis=-1)[..., ::-1]
    adjusted = np.empty_like(smallest)
    np.put_along_axis(adjusted, order, np.minimum(1.0, smallest), -1)
    return adjusted
