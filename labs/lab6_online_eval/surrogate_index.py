"""The surrogate index: a long-term effect from a short experiment and a long history.

The outcome that matters takes a year, the experiment two weeks. From past users, whose year is
known, the index learns what early behaviour says about the year; the experiment's effect on the
index is then its effect on the year. That holds if two things do: everything that the treatment
does to the year goes through the surrogates (surrogacy), and the surrogates mean in the history
what they mean in the experiment (comparability). Neither shows in the experiment's own data.

Athey, Chetty, Imbens & Kang (2019), The Surrogate Index: Combining Short-Term Proxies to Estimate
Long-Term Treatment Effects More Rapidly and Precisely, NBER working paper 26463.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from common.errors import require
from common.exercises import exercise
from labs.lab6_online_eval.cuped import as_columns

Floats = NDArray[np.float64]
Z95 = float(norm.isf(0.025))


@dataclass(frozen=True)
class SurrogateEffect:
    """The effect on the long-term outcome that the index predicts.

    Attributes
    ----------
    effect, se, ci95, p
        Estimate in units of the outcome, its standard error, 95 % interval and two-sided p-value.
    se_experiment, se_history
        The two parts of ``se``: the experiment's units, and the estimated index.
    coefficients
        Float [k]: change of the outcome by one unit of each surrogate, the others as they are.
    r2
        Share of the outcome's variance in the history that the surrogates explain. High or low, it
        says nothing about surrogacy.
    """

    effect: float
    se: float
    ci95: tuple[float, float]
    p: float
    se_experiment: float
    se_history: float
    coefficients: Floats
    r2: float


@exercise(
    "6.7",
    points=10,
    title="Estimate a long-term effect by the surrogate index",
    hint="The index is a regression on all surrogates together, with a constant. The effect is a "
    "product of two estimates, so it has two sources of error: which vector multiplies the "
    "covariance of the coefficients?",
)
def surrogate_index(
    control: Floats, treatment: Floats, history: Floats, history_outcome: Floats
) -> SurrogateEffect:
    """Effect of the treatment on the long-term outcome, by a linear surrogate index.

    From the history, ``y = a + s b`` by least squares; with d the difference of the surrogates'
    means (treatment minus control),

        effect = d b
        se^2   = Var(s b | treatment) / n_t + Var(s b | control) / n_c  +  d V d^T

    where V is the heteroscedasticity-consistent covariance of b, HC0:
    ``(X^T X)^-1 (X^T diag(e^2) X) (X^T X)^-1`` with ``X = [1, s]`` and the residuals e, without
    its row and column of the constant.

    Parameters
    ----------
    control, treatment
        Surrogates in the experiment, one row a unit: float [n_c, k], float [n_t, k].
    history
        The same surrogates of past units, float [n_h, k].
    history_outcome
        Their long-term outcome, float [n_h].

    Raises
    ------
    InputError
        Other shapes, values that are not finite, fewer than 2 units in an arm, a history that is
        not larger than k + 1, surrogates of which one is a combination of the others, or that
        vary nowhere in the experiment.

    Notes
    -----
    The surrogate index estimator of Athey et al. (2019) with a linear index. The variances of the
    arms are sample variances (n - 1).
    """
    control, treatment, history, history_outcome = _checked(
        control, treatment, history, history_outcome
    )
    # BEGIN SOLUTION
    design = np.column_stack([np.ones(len(history)), history])
    inverse = np.linalg.inv(design.T @ design)
    solution = inverse @ (design.T @ history_outcome)
    residuals = history_outcome - design @ solution
    coefficients = solution[1:]
    covariance = inverse @ ((design * residuals[:, None] ** 2).T @ design) @ inverse
    difference = treatment.mean(axis=0) - control.mean(axis=0)
    variance_experiment = sum(
        float((arm @ coefficients).var(ddof=1)) / len(arm) for arm in (control, treatment)
    )
    variance_history = float(difference @ covariance[1:, 1:] @ difference)
    r2 = 1 - float(residuals @ residuals) / float(
        ((history_outcome - history_outcome.mean()) ** 2).sum()
    )
    return summarize(
        float(difference @ coefficients), variance_experiment, variance_history, coefficients, r2
    )
    # END SOLUTION


def summarize(
    effect: float,
    variance_experiment: float,
    variance_history: float,
    coefficients: Floats,
    r2: float,
) -> SurrogateEffect:
    """The result with interval and p-value from an effect and the two parts of its variance."""
    se = sqrt(variance_experiment + variance_history)
    require(se > 0, "standard error of the index", se, "must be > 0", "do the surrogates vary?")
    return SurrogateEffect(
        effect=effect,
        se=se,
        ci95=(effect - Z95 * se, effect + Z95 * se),
        p=float(2 * norm.sf(abs(effect) / se)),
        se_experiment=sqrt(variance_experiment),
        se_history=sqrt(variance_history),
        coefficients=coefficients,
        r2=r2,
    )


def _checked(
    control: Floats, treatment: Floats, history: Floats, outcome: Floats
) -> tuple[Floats, Floats, Floats, Floats]:
    named = {"control": control, "treatment": treatment, "history": history}
    arms = [as_columns(name, values, len(values)) for name, values in named.items()]
    widths = [arm.shape[1] for arm in arms]
    require(len(set(widths)) == 1, "number of surrogates", widths, "must be the same everywhere")
    for name, arm in zip(named, arms[:2], strict=False):
        require(len(arm) >= 2, f"units in {name}", len(arm), "must be at least 2")
    past = as_columns("history_outcome", outcome, len(arms[2]))
    require(past.shape[1] == 1, "shape of history_outcome", past.shape, "must be [n]")
    least = widths[0] + 2
    require(len(past) >= least, "units in history", len(past), f"must be at least {least}")
    rank = int(np.linalg.matrix_rank(arms[2] - arms[2].mean(axis=0)))
    require(
        rank == widths[0],
        "rank of the surrogates in the history",
        rank,
        f"must be {widths[0]}",
        "leave out a surrogate that is constant or a combination of the others",
    )
    require(float(past.var()) > 0, "variance of history_outcome", 0.0, "must be > 0")
    return arms[0], arms[1], arms[2], past[:, 0]


@dataclass(frozen=True)
class LongTermWorld:
    """A simulated year: two surrogates of the first weeks, and an outcome months later.

    ``s1 = taste + e1 + effect_1 * w`` (clicks), ``s2 = .5 * s1 + e2 + effect_2 * w`` (return
    visits) and ``y = slopes . s + direct * w + confounding * taste + noise``, with the treatment w.

    Attributes
    ----------
    effects
        Direct effect of the treatment on each surrogate.
    slopes
        Effect of each surrogate on the outcome.
    direct
        Effect of the treatment past the surrogates: 0 is surrogacy. A clickbait list, say, that
        raises clicks now and costs trust later, has a negative one.
    confounding
        Effect of what the surrogates show only in part. Surrogacy of the treatment then fails in
        another way: the index gives s1 the credit that belongs to taste.
    noise
        Standard deviation of the outcome's own noise.
    """

    effects: tuple[float, float] = (0.10, 0.05)
    slopes: tuple[float, float] = (0.5, 1.0)
    direct: float = 0.0
    confounding: float = 0.0
    noise: float = 2.0

    @property
    def true_effect(self) -> float:
        """The effect on the long-term outcome."""
        first, second = self.effects
        return self.slopes[0] * first + self.slopes[1] * (0.5 * first + second) + self.direct

    def draw(self, rng: np.random.Generator, w: Floats) -> tuple[Floats, Floats]:
        """Surrogates float [..., 2] and outcome float [...] of units with treatment ``w``, 0 or 1
        (any shape)."""
        taste, e1, e2 = rng.standard_normal((3, *w.shape))
        first = taste + e1 + self.effects[0] * w
        second = 0.5 * first + e2 + self.effects[1] * w
        surrogates = np.stack([first, second], axis=-1)
        outcome = surrogates @ np.asarray(self.slopes) + self.direct * w
        outcome += self.confounding * taste + self.noise * rng.standard_normal(w.shape)
        return surrogates, outcome


WORLDS = {
    "surrogacy holds": LongTermWorld(),
    "a direct effect past the surrogates": LongTermWorld(direct=-0.2),
    "what both depend on is not seen": LongTermWorld(confounding=1.5),
}


@dataclass(frozen=True)
class SurrogateTrial:
    """One world, many experiments: what the index says and what waiting a year would have said.

    ``estimates`` float [n] of the index; ``coverage`` the share of its 95 % intervals that hold
    the ``truth``; ``se`` the mean standard error, ``se_waiting`` that of the difference of the
    arms' long-term means in the same experiments.
    """

    world: str
    truth: float
    estimates: Floats
    coverage: float
    se: float
    se_waiting: float

    @property
    def bias(self) -> float:
        return float(self.estimates.mean() - self.truth)

    @property
    def bias_se(self) -> float:
        """Standard error of ``bias``."""
        return float(self.estimates.std(ddof=1)) / sqrt(len(self.estimates))


def study_surrogates(
    *, n_units: int = 4000, n_history: int = 20_000, repeats: int = 200, seed: int = 0
) -> tuple[SurrogateTrial, ...]:
    """The index in each of `WORLDS`: where surrogacy holds, and where it does not.

    Parameters
    ----------
    n_units, n_history
        Units of each experiment (both arms together) and of its history.
    repeats
        Experiments a world.
    """
    require(repeats >= 2, "repeats", repeats, "must be at least 2")
    require(n_units >= 4, "n_units", n_units, "must be at least 4")
    trials = []
    for number, (name, world) in enumerate(WORLDS.items()):
        rng = np.random.default_rng([seed, number])
        w = np.repeat([0.0, 1.0], [n_units // 2, n_units - n_units // 2])
        found, waiting = [], []
        for _ in range(repeats):
            past, outcome = world.draw(rng, np.zeros(n_history))
            surrogates, later = world.draw(rng, w)
            found.append(surrogate_index(surrogates[w == 0], surrogates[w == 1], past, outcome))
            waiting.append(
                sqrt(sum(later[w == arm].var(ddof=1) / (w == arm).sum() for arm in (0, 1)))
            )
        held = [one.ci95[0] <= world.true_effect <= one.ci95[1] for one in found]
        trials.append(
            SurrogateTrial(
                world=name,
                truth=world.true_effect,
                estimates=np.array([one.effect for one in found]),
                coverage=float(np.mean(held)),
                se=float(np.mean([one.se for one in found])),
                se_waiting=float(np.mean(waiting)),
            )
        )
    return tuple(trials)
