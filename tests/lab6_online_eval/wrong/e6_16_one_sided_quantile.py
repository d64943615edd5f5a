"""A one-sided quantile for a two-sided test."""

from math import ceil

from scipy.stats import norm


def units_needed(lift, mean, variance, *, treated_share=0.5, alpha=0.05, power=0.8):
    quantiles = norm.isf(alpha) + norm.ppf(power)
    arms = 1 / treated_share + 1 / (1 - treated_share)
    return ceil(quantiles**2 * variance * arms / (lift * mean) ** 2)
