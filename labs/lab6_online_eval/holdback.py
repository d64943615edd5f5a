"""What a season of launches was worth: a holdback against the sum of its experiments.

Each launch was chosen because its estimate was significant, and what is chosen for a high estimate
is on average worse than that estimate (the winner's curse). A group that got none of the launches
measures all of them at once, and has not been chosen.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from common.errors import require

Floats = NDArray[np.float64]


def winners_curse(estimates: Floats, se: Floats, threshold: float = 1.959964) -> float:
    """Expected amount by which the launched estimates sum to more than their true effects.

    An experiment is launched if ``x_i > threshold * se_i``. Over all experiments, launched or not,

        E[ sum over launched (x_i - tau_i) ] = sum_i se_i phi((threshold se_i - tau_i) / se_i),

    with phi the normal density. The unknown tau_i is replaced by x_i.

    Parameters
    ----------
    estimates, se
        Float [n] each: every experiment of the season, also those that were not launched.

    Raises
    ------
    InputError
        Shapes that differ, no experiment, values that are not finite, a standard error <= 0.

    Notes
    -----
    Lee & Shen (2018), Winner's Curse: Bias Estimation for Total Effects of Features in Online
    Controlled Experiments, KDD. Replacing tau by the noisier x flattens the density, so
    the correction is itself an estimate; `shrunken` uses the spread of all effects instead.
    """
    estimates, se = _season(estimates, se)
    return float((se * norm.pdf(threshold - estimates / se)).sum())


def shrunken(estimates: Floats, se: Floats) -> Floats:
    """Empirical Bayes estimates of each effect, float [n].

        tau_i = m + (x_i - m) v / (v + se_i^2),   v = max(0, Var(x) - mean(se^2)),   m = mean(x)

    A posterior mean does not mind that its experiment was chosen: given all data, the sum over
    launched experiments of these is unbiased as far as the effects are normal around m.

    Notes
    -----
    Efron (2011), Tweedie's Formula and Selection Bias, JASA 106.
    """
    estimates, se = _season(estimates, se)
    require(len(estimates) >= 3, "experiments", len(estimates), "must be at least 3")
    spread = max(0.0, float(estimates.var(ddof=1) - (se**2).mean()))
    mean = float(estimates.mean())
    return np.asarray(mean + (estimates - mean) * spread / (spread + se**2))


@dataclass(frozen=True)
class SeasonSum:
    """Three answers to what the launches of a season are worth together.

    ``naive`` sums the launched estimates, ``corrected`` subtracts `winners_curse`, ``bayes`` sums
    the `shrunken` ones. ``n_launched`` of ``n`` experiments.
    """

    n: int
    n_launched: int
    naive: float
    corrected: float
    bayes: float


def season_sum(estimates: Floats, se: Floats, threshold: float = 1.959964) -> SeasonSum:
    """The season's sums from every experiment's estimate and standard error, float [n] each."""
    estimates, se = _season(estimates, se)
    launched = estimates > threshold * se
    naive = float(estimates[launched].sum())
    return SeasonSum(
        n=len(estimates),
        n_launched=int(launched.sum()),
        naive=naive,
        corrected=naive - winners_curse(estimates, se, threshold),
        bayes=float(shrunken(estimates, se)[launched].sum()),
    )


def holdback_se(sd: float, n: int, share: float) -> float:
    """Standard error of the difference between the holdback and all others.

        sd * sqrt(1 / (n share) + 1 / (n (1 - share)))

    Parameters
    ----------
    sd
        Standard deviation of the metric over units.
    n, share
        Units, and the share of them that is held back.
    """
    require(0 < share < 1, "share", share, "must be in (0, 1)", "try 0.05")
    require(n * min(share, 1 - share) >= 2, "units", n, "must leave at least 2 in each group")
    require(0 < sd < np.inf, "sd", sd, "must be > 0 and finite")
    return sd * sqrt(1 / (n * share) + 1 / (n * (1 - share)))


def _season(estimates: Floats, se: Floats) -> tuple[Floats, Floats]:
    estimates, se = np.asarray(estimates, dtype=float), np.asarray(se, dtype=float)
    require(estimates.ndim == 1, "shape of estimates", estimates.shape, "must be [n]")
    require(se.shape == estimates.shape, "shape of se", se.shape, f"must be {estimates.shape}")
    require(len(estimates) >= 1, "experiments", 0, "must be at least 1")
    good = np.isfinite(estimates).all() and np.isfinite(se).all()
    require(bool(good), "estimates and se", "NaN or infinity", "must be finite")
    require(float(se.min()) > 0, "smallest se", float(se.min()), "must be > 0")
    return estimates, se


@dataclass(frozen=True)
class Seasons:
    """Simulated seasons: float [n_seasons] each, in units of the metric.

    ``truth`` is what the launches together do, ``alone`` the sum of what each does alone; with
    ``overlap`` > 0 they differ. ``holdback`` is the holdback's estimate, ``holdback_se`` its
    standard error.
    """

    truth: Floats
    alone: Floats
    naive: Floats
    corrected: Floats
    bayes: Floats
    holdback: Floats
    holdback_se: float
    n_launched: Floats

    def ratio(self, name: str) -> float:
        """Mean of an estimate as a share of the mean truth: 1.0 is unbiased."""
        return float(getattr(self, name).mean() / self.truth.mean())


def study_holdback(
    *,
    n_experiments: int = 60,
    n_seasons: int = 1000,
    effect_sd: float = 0.005,
    n_units: int = 200_000,
    sd: float = 1.0,
    n_all: int = 2_000_000,
    share: float = 0.05,
    overlap: float = 0.15,
    seed: int = 0,
) -> Seasons:
    """Simulate seasons of experiments, launch what is significant, and measure by a holdback.

    Parameters
    ----------
    n_experiments, n_seasons
        Experiments a season; seasons.
    effect_sd
        Standard deviation of the true effects, which are normal around 0.
    n_units, sd
        Units of each experiment, in two halves, and the metric's standard deviation.
    n_all, share
        All units, and the share that is held back through the season.
    overlap
        Share of the summed effect that is lost because launches do the same job twice.
    """
    require(n_seasons >= 2, "n_seasons", n_seasons, "must be at least 2")
    require(0 <= overlap < 1, "overlap", overlap, "must be at least 0 and below 1")
    rng = np.random.default_rng(seed)
    se = np.full(n_experiments, sd * sqrt(4 / n_units))
    effects = effect_sd * rng.standard_normal((n_seasons, n_experiments))
    estimates = effects + se * rng.standard_normal(effects.shape)
    sums = [season_sum(each, se) for each in estimates]
    alone = (effects * (estimates > 1.959964 * se)).sum(axis=1)
    truth = (1 - overlap) * alone
    noise = holdback_se(sd, n_all, share)
    return Seasons(
        truth=truth,
        alone=alone,
        naive=np.array([each.naive for each in sums]),
        corrected=np.array([each.corrected for each in sums]),
        bayes=np.array([each.bayes for each in sums]),
        holdback=truth + noise * rng.standard_normal(n_seasons),
        holdback_se=noise,
        n_launched=np.array([float(each.n_launched) for each in sums]),
    )
