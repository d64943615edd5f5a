"""The classical covariance, sigma^2 (X'X)^-1: neither clusters nor unequal variances."""


def cluster_robust_covariance(design: Floats, residual: Floats, cluster: Ints) -> Floats:
    n, k = design.shape
    return np.asarray(residual @ residual / (n - k) * np.linalg.inv(design.T @ design))
