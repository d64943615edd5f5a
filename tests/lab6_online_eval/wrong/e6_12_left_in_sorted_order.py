"""The adjusted p-values come back sorted: they stand beside the wrong metrics."""


def benjamini_hochberg(p: Floats) -> Floats:
    m = p.shape[-1]
    scaled = np.sort(p, axis=-1) * m / np.arange(1, m + 1)
    return np.minimum(1.0, np.minimum.accumulate(scaled[..., ::-1], axis=-1)[..., ::-1])
