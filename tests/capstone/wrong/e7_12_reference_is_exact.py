"""Takes the reference for the truth, without noise of its own."""


def psi_limit(n_reference, n_new, n_bins, alpha):
    from scipy.stats import chi2

    return float(chi2.ppf(1 - alpha, n_bins - 1) / n_new)
