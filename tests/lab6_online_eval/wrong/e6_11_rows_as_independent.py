"""Each row is squared on its own (White's HC1): clustered data taken as independent."""


def cluster_robust_covariance(design: Floats, residual: Floats, cluster: Ints) -> Floats:
    n, k = design.shape
    score = design * residual[:, None]
    bread = np.linalg.inv(design.T @ design)
    return np.asarray(n / (n - k) * bread @ (score.T @ score) @ bread)
