"""The scores of a cluster are averaged instead of added: large clusters weigh too little."""


def cluster_robust_covariance(design: Floats, residual: Floats, cluster: Ints) -> Floats:
    n, k = design.shape
    n_clusters = int(cluster.max()) + 1
    score = np.zeros((n_clusters, k))
    np.add.at(score, cluster, design * residual[:, None])
    score /= np.bincount(cluster)[:, None]
    bread = np.linalg.inv(design.T @ design)
    correction = n_clusters / (n_clusters - 1) * (n - 1) / (n - k)
    return np.asarray(correction * bread @ (score.T @ score) @ bread)
