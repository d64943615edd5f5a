"""Is a method what it says? Thousands of simulated experiments whose truth is known.

A method of analysis is a measuring instrument, and is calibrated like one before it is used: on
A/A experiments, where every finding is false, and on experiments with a known effect. What fails
is not offered to `analyze`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import sqrt

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from common.errors import require
from common.statistics import proportion_ci

Floats = NDArray[np.float64]
Interval = tuple[float, float]

ALPHA = 0.05
COVERAGE = (0.94, 0.96)
POWER_WITHIN = 0.02
FIRST_LEVEL, SECOND_LEVEL = 0.95, 0.99
FRESH = 4
BATCH = 2000


@dataclass(frozen=True)
class Findings:
    """What a method says of n simulated experiments: float [n] each.

    ``effect`` is the estimate, ``low`` and ``high`` its interval at level ``1 - alpha``, ``p`` the
    two-sided p-value. A sequential method gives, of all its looks, the one at which it stopped,
    or the last; its ``p`` is the smallest so far, and its interval the intersection so far.
    """

    effect: Floats
    low: Floats
    high: Floats
    p: Floats

    @property
    def n(self) -> int:
        return len(self.p)


Simulate = Callable[[np.random.Generator, int, float], Findings]


@dataclass(frozen=True)
class Method:
    """A method of analysis with the world it is tried in.

    Attributes
    ----------
    name
        As in the metrics ``aa.<name>.fpr`` and ``ab.<name>.coverage``: lower case, underscores.
    simulate
        ``simulate(rng, n, effect)``: n independent experiments in which the treatment's true
        effect, in the units of ``Findings.effect``, is ``effect``, each analysed at alpha = 0.05.
    effect
        A true effect for coverage and power.
    power
        What the formula promises at ``effect``, or None where there is no formula.
    sequential
        Looked at many times: the false-positive rate must be at most alpha, not equal to it, and
        coverage at least 94 % with no upper limit.
    flawed
        A classic mistake, kept to show that validation finds it.
    """

    name: str
    simulate: Simulate
    effect: float
    power: float | None = None
    sequential: bool = False
    flawed: bool = False


@dataclass(frozen=True)
class Verdict:
    """What validation measured of a method, and why it is not offered (``reasons``), if it is not.

    Attributes
    ----------
    n
        Experiments of each kind, A/A and with an effect.
    fpr, coverage, power
        Shares with their Wilson 95 % intervals: false positives among A/A experiments, intervals
        that hold the true effect, and effects that were found.
    promised_power
        The formula's, or None.
    second
        Whether a first sample was out of bounds, so that this is the fresh, larger one.
    """

    name: str
    sequential: bool
    flawed: bool
    n: int
    fpr: float
    fpr_ci: Interval
    coverage: float
    coverage_ci: Interval
    power: float
    power_ci: Interval
    promised_power: float | None
    second: bool
    reasons: tuple[str, ...]

    @property
    def offered(self) -> bool:
        return not self.reasons


def validate(method: Method, n: int = 2000, seed: int = 0) -> Verdict:
    """Try a method on n A/A experiments and on n with its effect.

    Five bounds: false positives within the binomial interval of alpha (a sequential method: not
    above it), coverage from 94 to 96 % (sequential: from 94 %), power within 2 points of the
    formula, more findings with the effect than chance gives without (or a sequential method that
    never finds anything would pass), and no estimate that is not a number.

    An honest method leaves a 95 % interval once in twenty times, and the lab tries some forty.
    So one that is out of bounds is tried again on four times as many fresh experiments, with the
    99 % interval, and those alone decide.

    Raises
    ------
    InputError
        ``n`` < 200: the binomial interval would let nearly anything pass.
    """
    require(n >= 200, "n", n, "must be at least 200", "try 2000")
    first = _measure(method, n, (seed, 0), FIRST_LEVEL, second=False)
    if first.offered:
        return first
    return _measure(method, FRESH * n, (seed, 1), SECOND_LEVEL, second=True)


def binomial_bounds(rate: float, n: int, level: float) -> Interval:
    """Where a share of n trials lies with probability ``level`` when the true rate is ``rate``."""
    half = float(norm.isf((1 - level) / 2)) * sqrt(rate * (1 - rate) / n)
    return rate - half, rate + half


def _measure(
    method: Method, n: int, seed: tuple[int, int], level: float, *, second: bool
) -> Verdict:
    key = [*seed, *method.name.encode()]
    null = _in_batches(method, np.random.default_rng([*key, 0]), n, 0.0)
    real = _in_batches(method, np.random.default_rng([*key, 1]), n, method.effect)
    false = int((null.p < ALPHA).sum())
    held = int(((real.low <= method.effect) & (method.effect <= real.high)).sum())
    found = int((real.p < ALPHA).sum())
    broken = sum(int(np.isnan(getattr(each, f)).sum()) for each in (null, real) for f in FIELDS)
    reasons = []
    if broken:
        reasons.append(f"{broken} results are not numbers")
    low, high = binomial_bounds(ALPHA, n, level)
    if false / n > high or (false / n < low and not method.sequential):
        reasons.append(f"false positives {false / n:.4f}, outside {low:.4f} to {high:.4f}")
    if held / n < COVERAGE[0] or (held / n > COVERAGE[1] and not method.sequential):
        reasons.append(f"coverage {held / n:.4f}, outside {COVERAGE[0]} to {COVERAGE[1]}")
    if found / n <= high:
        reasons.append(f"power {found / n:.4f}, no more than by chance")
    if method.power is not None and abs(found / n - method.power) > POWER_WITHIN:
        reasons.append(f"power {found / n:.4f}, formula {method.power:.4f}")
    return Verdict(
        name=method.name,
        sequential=method.sequential,
        flawed=method.flawed,
        n=n,
        fpr=false / n,
        fpr_ci=proportion_ci(false, n),
        coverage=held / n,
        coverage_ci=proportion_ci(held, n),
        power=found / n,
        power_ci=proportion_ci(found, n),
        promised_power=method.power,
        second=second,
        reasons=tuple(reasons),
    )


FIELDS = ("effect", "low", "high", "p")


def _in_batches(method: Method, rng: np.random.Generator, n: int, effect: float) -> Findings:
    """n experiments, at most `BATCH` at a time, so that memory does not grow with n."""
    sizes = [min(BATCH, n - start) for start in range(0, n, BATCH)]
    parts = [method.simulate(rng, size, effect) for size in sizes]
    return Findings(*(np.concatenate([getattr(part, f) for part in parts]) for f in FIELDS))
