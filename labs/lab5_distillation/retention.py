"""What is kept of the teacher, and what the teacher added: intervals over texts and over seeds.

An accuracy varies for two reasons: other test texts could have been drawn, and the same training
with another seed gives another student. The answers of S students to N texts are a grid, and both
its sides are samples.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

import numpy as np
from numpy.typing import ArrayLike, NDArray

from common.errors import InputError, require
from common.exercises import exercise

Floats = NDArray[np.float64]
Interval = tuple[float, float]


@dataclass(frozen=True)
class Retention:
    """Accuracy of a student over its teacher's, on the same texts.

    Attributes
    ----------
    value
        Mean accuracy of the S students over that of the teacher.
    ci95
        For a new seed and new texts, by `grid_interval`; of one seed, for new texts only.
    bootstrap_ci95
        The same by the percentiles of `retention_draws`; too narrow for few seeds.
    per_seed
        Retention of each student.
    seed_ci95
        t interval over ``per_seed``, these texts as they are; None for one seed.
    texts
        Number of texts.
    """

    value: float
    ci95: Interval
    bootstrap_ci95: Interval
    per_seed: tuple[float, ...]
    seed_ci95: Interval | None
    texts: int

    @property
    def how(self) -> str:
        """What the interval speaks of, in words."""
        return describe(len(self.per_seed), self.texts)


@dataclass(frozen=True)
class Gain:
    """Mean of distilled minus fine-tuned, paired by seed and text; fields as in `Retention`."""

    value: float
    ci95: Interval
    bootstrap_ci95: Interval
    per_seed: tuple[float, ...]
    seed_ci95: Interval | None
    texts: int

    @property
    def how(self) -> str:
        """What the interval speaks of, in words."""
        return describe(len(self.per_seed), self.texts)

    @property
    def outside(self) -> bool:
        """Whether the interval excludes 0, on either side."""
        return self.ci95[0] > 0 or self.ci95[1] < 0


def describe(seeds: int, texts: int) -> str:
    """What an interval over so many seeds and texts speaks of."""
    if seeds == 1:
        return f"interval over {texts} texts; one seed, so it says nothing of another training"
    return f"interval over {seeds} seeds and {texts} texts, crossed, t with Satterthwaite's df"


def grid_interval(values: ArrayLike) -> tuple[float, float, float, float]:
    r"""Mean of a grid and its 95 % interval when seeds and texts are both samples.

    With ``x[s, n] = mean + seed[s] + text[n] + rest[s, n]``, the variance of the grid's mean is
    :math:`\sigma_s^2/S + \sigma_t^2/N + \sigma_e^2/(SN)`, estimated without bias by

    .. math:: (MS_s + MS_t - MS_e) / (S N)

    from the mean squares of rows, columns and residuals. A component estimated below 0 counts as 0.
    The quantile is that of t with Satterthwaite's degrees of freedom: about S - 1 where seeds
    decide (12.7 instead of 1.96 for two, 4.3 for three), about N - 1 where texts do.

    Parameters
    ----------
    values : float [S, N]
        A row a seed, a column a text; N at least 2. For one seed only the columns vary: the
        interval is the usual one over texts.

    Returns
    -------
    (mean, low, high, df)

    References
    ----------
    Searle, Casella, McCulloch: *Variance Components* (1992), chapter 4; Satterthwaite (1946),
    Biometrics Bulletin 2.
    """
    from scipy.special import stdtrit

    grid = np.asarray(values, dtype=float)
    if grid.ndim != 2 or grid.shape[0] < 1 or grid.shape[1] < 2:
        raise InputError(f"values {grid.shape} must be [seeds, texts], with two texts at least")
    require(bool(np.isfinite(grid).all()), "values", "NaN or infinity", "must be finite")
    seeds, texts = grid.shape
    mean, of_text = float(grid.mean()), grid.mean(axis=0)
    by_text = seeds * float(of_text.var(ddof=1))
    if seeds == 1:
        variance, df = by_text / texts, float(texts - 1)
    else:
        of_seed = grid.mean(axis=1)
        by_seed = texts * float(of_seed.var(ddof=1))
        freedom = (seeds - 1) * (texts - 1)
        rest = grid - of_seed[:, None] - of_text + mean
        residual = float((rest**2).sum()) / freedom
        cells = seeds * texts
        variance = max(by_seed + by_text - residual, by_seed, by_text) / cells
        spread = by_seed**2 / (seeds - 1) + by_text**2 / (texts - 1) + residual**2 / freedom
        # No spread at all: every cell is equal, and no degree of freedom matters.
        df = (variance * cells) ** 2 / spread if spread > 0 else float(freedom)
    half = float(stdtrit(df, 0.975)) * sqrt(variance)
    return mean, mean - half, mean + half, df


def seed_interval(per_seed: ArrayLike) -> Interval | None:
    """t interval of a mean over seeds, S - 1 degrees of freedom; None for one seed.

    Three values have a half-width of 2.5 of their standard deviations, two of 9.0, ten of 0.72.
    """
    from scipy.special import stdtrit

    found = np.asarray(per_seed, dtype=float)
    if len(found) < 2:
        return None
    half = float(stdtrit(len(found) - 1, 0.975)) * float(found.std(ddof=1)) / sqrt(len(found))
    return float(found.mean()) - half, float(found.mean()) + half


@exercise(
    "5.20",
    points=10,
    title="Retention resampled over seeds and texts",
    hint="One draw is one new experiment: which seeds, and which texts? All models in it, the "
    "teacher too, answer the same texts.",
)
def retention_draws(
    student: ArrayLike, teacher: ArrayLike, *, n_boot: int = 1000, seed: int = 0
) -> Floats:
    """Bootstrap draws of retention, with seeds and texts both drawn anew.

    Each draw takes S seeds and N texts with replacement, the same texts for every seed and for the
    teacher, and gives ``mean accuracy of the drawn students / mean accuracy of their teachers``:
    one ratio of two means. ``as_grids`` checks the arguments and gives both grids as [S, N].

    Parameters
    ----------
    student : bool or float [S, N]
        Whether the student of seed s answers text n rightly.
    teacher : [N] or [S, N]
        The same of its teacher: one for all, or each student's own, which is drawn with it.
    n_boot
        Number of draws.
    seed
        Of the drawing.

    Returns
    -------
    float64 [n_boot]
        Their 2.5 % and 97.5 % quantiles are the percentile interval.

    Raises
    ------
    InputError
        Shapes that do not fit; a teacher that is never right.

    References
    ----------
    Owen, *The pigeonhole bootstrap* (2007), Annals of Applied Statistics 1(2).
    """
    ours, theirs = as_grids(student, teacher)
    require(n_boot >= 1, "n_boot", n_boot, "must be at least 1", "try 1000")
    rng = np.random.default_rng(seed)
    seeds, texts = ours.shape
    draws = np.empty(n_boot)
    for i in range(n_boot):
        cells = np.ix_(rng.integers(0, seeds, seeds), rng.integers(0, texts, texts))
        draws[i] = ours[cells].mean() / theirs[cells].mean()
    return draws


def retention(
    student: ArrayLike, teacher: ArrayLike, *, n_boot: int = 1000, seed: int = 0
) -> Retention:
    """Student's accuracy over the teacher's, with intervals.

    Parameters
    ----------
    student, teacher
        As in `retention_draws`.
    n_boot, seed
        Of the bootstrap.

    Notes
    -----
    The ratio is made linear for `grid_interval`: ``(student - value * teacher) / mean(teacher)``
    has mean 0 and the ratio's variance (delta method).
    """
    ours, theirs = as_grids(student, teacher)
    base = float(theirs.mean())
    value = float(ours.mean()) / base
    _, low, high, _ = grid_interval((ours - value * theirs) / base)
    per_seed = ours.mean(axis=1) / theirs.mean(axis=1)
    draws = retention_draws(ours, theirs, n_boot=n_boot, seed=seed)
    return Retention(
        value=value,
        ci95=(value + low, value + high),
        bootstrap_ci95=percentiles(draws),
        per_seed=tuple(per_seed.tolist()),
        seed_ci95=seed_interval(per_seed),
        texts=ours.shape[1],
    )


def paired_gain(
    distilled: ArrayLike, alone: ArrayLike, *, n_boot: int = 1000, seed: int = 0
) -> Gain:
    """Distilled minus fine-tuned: the difference that a teacher made, with intervals.

    Parameters
    ----------
    distilled, alone : [S, N]
        A value for each seed and text: whether the answer is right, or a score such as the NLL.
        Row s of both was trained from the same seed, column n is the same text.
    n_boot, seed
        Of the bootstrap, which draws seeds and texts as `retention_draws` does.

    Raises
    ------
    InputError
        Shapes that differ.
    """
    first, second = np.asarray(distilled, dtype=float), np.asarray(alone, dtype=float)
    if first.shape != second.shape or first.ndim != 2:
        raise InputError(
            f"distilled {first.shape} and alone {second.shape} must both be [seeds, texts]: the "
            "same seeds and texts for both"
        )
    change = first - second
    value, low, high, _ = grid_interval(change)
    rng = np.random.default_rng(seed)
    seeds, texts = change.shape
    draws = np.array(
        [
            change[np.ix_(rng.integers(0, seeds, seeds), rng.integers(0, texts, texts))].mean()
            for _ in range(n_boot)
        ]
    )
    per_seed = change.mean(axis=1)
    return Gain(
        value=value,
        ci95=(low, high),
        bootstrap_ci95=percentiles(draws),
        per_seed=tuple(per_seed.tolist()),
        seed_ci95=seed_interval(per_seed),
        texts=texts,
    )


def percentiles(draws: Floats) -> Interval:
    """The 2.5 % and 97.5 % quantiles."""
    low, high = np.quantile(draws, [0.025, 0.975])
    return float(low), float(high)


def as_grids(student: ArrayLike, teacher: ArrayLike) -> tuple[Floats, Floats]:
    """Student and teacher as float64 [S, N]; one teacher is repeated for every seed."""
    ours, theirs = np.asarray(student, dtype=float), np.asarray(teacher, dtype=float)
    if ours.ndim != 2 or theirs.shape not in (ours.shape, ours.shape[1:]) or not ours.size:
        raise InputError(
            f"student {ours.shape} must be [seeds, texts] and teacher {theirs.shape} [texts] or "
            "[seeds, texts], of the same texts"
        )
    require(
        float(theirs.sum()) > 0, "teacher's accuracy", 0.0, "must be > 0", "there is none to retain"
    )
    return ours, np.broadcast_to(theirs, ours.shape)
