"""Every numeric question of the bank, answered a second time in another way."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from scipy import optimize, stats

from common.assessment import bank

ROOT = Path(__file__).resolve().parents[2]
SEEDS = range(5)


@cache
def questions() -> dict[str, bank.Question]:
    return {each.id: each for each in bank.load(ROOT) if each.numeric}


def fsdp_bytes(P: float, N: float) -> float:
    weights = gradients = first = second = 4 * P * 1e9 / N
    return (weights + gradients + first + second) / 1e9


def zero_1_bytes(P: float, N: float) -> float:
    whole = [4 * P, 4 * P]
    sliced = [4 * P / N, 4 * P / N]
    return sum(whole) + sum(sliced)


def fsdp_sent(P: float, m: float) -> float:
    sent = 0.0
    for _ in range(int(m)):
        sent += 2 * P  # forward gather, bf16
        sent += 2 * P  # backward gather, bf16
    return sent + 4 * P  # reduce-scatter, fp32


def least_lists(n: float, p: float) -> float:
    found = optimize.minimize_scalar(
        lambda log: math.exp(log) + p * n * 1e6 / math.exp(log), bounds=(1, 20), method="bounded"
    )
    return math.exp(found.x)


def late_queries(s: float, p: float) -> float:
    return 100 * float(stats.binom.sf(0, int(s), p / 100))


def kills(n: float) -> float:
    """Clopper and Pearson's one-sided bound with no failure."""
    return 100 * float(stats.beta.ppf(0.95, 1, n))


def last_wait(c: float, r: float, t: float) -> float:
    """Every query simulated: it begins when the worker is free."""
    free = 0.0
    for at in (np.arange(int(r * t)) + 1) / r:
        start = max(free, float(at))
        free = start + 1 / c
    return start - float(at)


def false_positive_rate(p: float, v: float, f: float) -> float:
    """From a table of a million people."""
    positive = 1e6 * p / 100
    true_positive = positive * (1 - f / 100)
    predicted = true_positive / (v / 100)
    return 100 * (predicted - true_positive) / (1e6 - positive)


def beta_mean(k: float, n: float, m: float, w: float) -> float:
    return 100 * float(stats.beta.mean(m * w + k, (1 - m) * w + n - k))


def half_width(a: float, b: float, na: float, nb: float) -> float:
    variance = stats.binom.var(na, a / 100) / na**2 + stats.binom.var(nb, b / 100) / nb**2
    return 100 * float(stats.norm.ppf(0.975) * math.sqrt(variance))


def conformal_rank(n: float, a: float) -> float:
    """The smallest rank that covers a new score often enough, counted."""
    wanted = Fraction(100 - int(a), 100)
    return next(k for k in range(1, int(n) + 1) if Fraction(k, int(n) + 1) >= wanted)


def reweighing(N: float, g: float, y: float, gy: float) -> float:
    return (g / N * (y / N)) / (gy / N)


def poisson_wait(s: float, r: float) -> float:
    """The mean wait from the second moment of the service time."""
    rate, service = r / 1000, s
    return rate * service**2 / (2 * (1 - rate * service))


def replicas(k: float, m: float, t: float) -> float:
    load, count = k * m, 0
    while count * t < load:
        count += 1
    return count


def week(r: float, u: float, p: float, c: float) -> float:
    count = 0
    while Fraction(count) * int(r) * int(u) / 100 < int(p):
        count += 1
    return sum(c for _ in range((count + 1) * 7 * 24))


def budget_hours(o: float, l: float) -> float:  # noqa: E741 - the name in the question
    hour = 0
    left, used = 30 * 24 * (100 - o), l
    while left > 1e-9:
        step = min(1, left / used)
        left -= step * used
        hour += step
    return hour


def rounding_error(w: float) -> float:
    grid = np.arange(-127, 128) * (w / 127)
    values = np.linspace(-w, w, 200_001)
    nearest = np.abs(values - np.round(values / (w / 127)) * (w / 127))
    assert np.isclose(grid.max(), w)
    return 1000 * float(nearest.max())


def test_size(q: float) -> float:
    n = 1
    while (q / 100) ** n > 0.05:
        n += 1
    return n


test_size.__test__ = False  # type: ignore[attr-defined]  # a helper, whatever its name


def soft_loss(a: float, T: float) -> float:
    teacher = np.exp(np.array([a, 0]) / T) / np.exp(np.array([a, 0]) / T).sum()
    return T**2 * float(stats.entropy(teacher, [0.5, 0.5]))


def paired_error(n: float, b: float, c: float) -> float:
    difference = np.r_[np.ones(int(b)), -np.ones(int(c)), np.zeros(int(n - b - c))]
    return 100 * float(stats.sem(difference, ddof=0))


def zero_point(lo: float, hi: float) -> float:
    codes = np.arange(256)
    return float(codes[np.argmin(np.abs(lo + codes * (hi - lo) / 255))])


def layers_run(n: float, e: float, p: float, B: float) -> float:
    all_leave = math.prod([p] * int(B))
    return all_leave * e + (1 - all_leave) * n


def t_interval(s: float) -> float:
    low, high = stats.t.interval(0.95, 2, 0, s / math.sqrt(3))
    return float(high - low) / 2


def arm_size(p: float, r: float) -> float:
    p, shift = p / 100, p * r / 1e4
    quantiles = stats.norm.ppf(0.975) + stats.norm.ppf(0.8)
    return float(quantiles**2 * 2 * p * (1 - p) / shift**2)


def cuped(n: float, c: float) -> float:
    """Residual variance of the regression on the covariate, by the covariance matrix."""
    matrix = np.array([[1, c], [c, 1]])
    return n * float(np.linalg.det(matrix))


def clusters(k: float, m: float, icc: float) -> float:
    """Variance of the mean of one cluster, from its covariance matrix."""
    size = int(m)
    variance = (size * 1 + size * (size - 1) * icc) / size**2 / k
    return 1 / variance


def chi_square(a: float, b: float) -> float:
    return float(stats.chisquare([a, b]).statistic)


def effective_rows(n: float, w: float, z: float, v: float) -> float:
    weights = np.r_[np.full(int(n), w), np.full(int(z * 1000), v)]
    return float(weights.sum() ** 2 / (weights**2).sum())


def full_data(r: float, s: float) -> float:
    """Positives and negatives counted, and the dropped negatives brought back."""
    positives, negatives = s, (1 - s) / (r / 100)
    return 100 * positives / (positives + negatives)


def exploration(k: float, n: float, m: float) -> float:
    return float(1 / (Fraction(int(k), int(n) - 1) * Fraction(1, int(m))))


def exposure(f: float, i: float, j: float) -> float:
    places = 1 / np.log2(1 + np.arange(1, 11))
    return float((places[int(i) - 1] + places[int(j) - 1]) / places.sum() / (f / 100))


SOLUTIONS: dict[str, Callable[..., float]] = {
    "1.q38": fsdp_bytes,
    "1.q39": zero_1_bytes,
    "1.q40": fsdp_sent,
    "1.q41": lambda w, t, v: w * t * v * (4 + 4 + 4) / 1024**3,
    "1.q42": lambda P, k, peak: 100 * (2 + 4) * P * k / peak,
    "1.q43": lambda T, c, o: T - c + o,
    "1.q44": lambda a, b: (1 / (2 * b)) / (1 / (2 * a)),
    "2.q57": lambda n, M, bits: n * 1e6 * (M * bits // 8 + 8) / 1e9,
    "2.q58": least_lists,
    "2.q59": late_queries,
    "2.q60": kills,
    "2.q61": lambda a, b: 1000 * sum(1 / (60 + rank) for rank in (a, b)),
    "2.q62": lambda m, n, d: n * 1e6 * (d * 1 + 2 * m * 4) / 1e9,
    "2.q63": last_wait,
    "3.q50": lambda ta, tb, fa, fb: max(abs(tb - ta), abs(fb - fa)),
    "3.q51": false_positive_rate,
    "3.q52": beta_mean,
    "3.q53": half_width,
    "3.q54": conformal_rank,
    "3.q55": reweighing,
    "4.q46": lambda r, ms: r / (1000 / ms),
    "4.q47": poisson_wait,
    "4.q48": lambda a, b, n: 1000 / (a / n + b),
    "4.q49": replicas,
    "4.q50": week,
    "4.q51": budget_hours,
    "4.q52": rounding_error,
    "4.q53": test_size,
    "5.q46": soft_loss,
    "5.q47": lambda a: soft_loss(a, 1e3),
    "5.q48": lambda n, H, v: v * H / 1e6 + n * (12 * H * H) * 4 / 8 / 1e6,
    "5.q49": paired_error,
    "5.q50": zero_point,
    "5.q51": layers_run,
    "5.q52": t_interval,
    "6.q46": arm_size,
    "6.q47": cuped,
    "6.q48": clusters,
    "6.q49": chi_square,
    "6.q50": lambda c, d: 100 * d / c,
    "6.q51": lambda k: 100 * float(stats.binom.sf(0, int(k), 0.05)),
    "6.q52": effective_rows,
    "capstone.q33": week,
    "capstone.q34": lambda b, m, n: float(stats.chi2.mean(b - 1)) * (n + m) / (n * m),
    "capstone.q35": full_data,
    "capstone.q36": lambda o, t, e: 100 * (t / 43_200 * e) / (100 - o),
    "capstone.q37": lambda r, d: d * (r / 1000),
    "capstone.q38": exploration,
    "capstone.q39": exposure,
}


@pytest.mark.parametrize("key", SOLUTIONS)
def test_a_second_way_gives_the_answer_of_the_formula(key: str) -> None:
    """A formula with a slip marks right answers wrong; a half or a double is marked wrong."""
    question = questions()[key]
    for seed in SEEDS:
        asked = bank.draw(question, seed)
        other = SOLUTIONS[key](**bank.parameters(question, seed))
        assert asked.right(other), f"seed {seed}: {other}, the formula gives {asked.answer}"
        assert not asked.right(other * 1.5)
        assert not asked.right(other / 1.5)


def test_every_numeric_question_has_a_second_way() -> None:
    """A new numeric question comes with a second way to its answer."""
    assert set(questions()) == set(SOLUTIONS)
