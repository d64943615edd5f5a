"""Made monotone as Holm's are, by the running maximum from the smallest p."""


def benjamini_hochberg(p: Floats) -> Floats:
    m = p.shape[-1]
    order = np.argsort(p, axis=-1, kind="stable")
    scaled = np.take_along_axis(p, order, -1) * m / np.arange(1, m + 1)
    largest = np.maximum.accumulate(scaled, axis=-1)
    adjusted = np.empty_like(largest)
    np.put_along_axis(adjusted, order, np.minimum(1.0, largest), -1)
    return adjusted
