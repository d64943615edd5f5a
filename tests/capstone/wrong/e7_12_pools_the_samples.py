"""Adds the rows of both samples: 1 / (n + m) instead of 1 / n + 1 / m."""


def psi_limit(n_reference, n_new, n_bins, alpha):
    from scipy.stats import chi2

    return float(chi2.ppf(1 - alpha, n_bins - 1) / (n_reference + n_new))
