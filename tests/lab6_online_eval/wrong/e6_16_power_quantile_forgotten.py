"""The effect is only asked to reach the critical value, which gives a power of one half."""

from math import ceil

from scipy.stats import norm


def units_needed(lift, mean, variance, *, treated_share=0.5, alpha=0.05, power=0.8):
    quantiles = norm.isf(alpha / 2)
    arms = 1 / treated_share + 1 / (1 - treated_share)
    return ceil(quantiles**2 * variance * arms / (lift * mean) ** 2)
