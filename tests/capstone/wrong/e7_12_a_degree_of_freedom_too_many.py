"""Forgets that shares sum to 1: B degrees of freedom instead of B - 1."""


def psi_limit(n_reference, n_new, n_bins, alpha):
    from scipy.stats import chi2

    return float((1 / n_reference + 1 / n_new) * chi2.ppf(1 - alpha, n_bins))
