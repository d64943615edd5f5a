"""CR0: the covariance is not corrected for the number of clusters and columns."""


def cluster_robust_covariance(design: Floats, residual: Floats, cluster: Ints) -> Floats:
    score = np.zeros((int(cluster.max()) + 1, design.shape[1]))
    np.add.at(score, cluster, design * residual[:, None])
    bread = np.linalg.inv(design.T @ design)
    return np.asarray(bread @ (score.T @ score) @ bread)
