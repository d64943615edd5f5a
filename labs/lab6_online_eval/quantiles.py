"""Quantiles, such as the p99 of latency, when events are many and users are what was randomised.

A quantile is where the distribution function crosses q. An error of the function is therefore an
error of the quantile: divided by the density there, or read off the ordered values. The function at
a point is a share of events, and a share of events by users is a ratio (`ratio_metrics`).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, sqrt

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import norm

from common.errors import InputError, require
from labs.lab6_online_eval.estimates import finite
from labs.lab6_online_eval.significance import Comparison, Moments, compare_moments

Floats = NDArray[np.float64]

Z = 1.959963984540054
CELLS = 4_000_000


@dataclass(frozen=True)
class QuantileEstimate:
    """A quantile of one arm.

    Attributes
    ----------
    value, se
        The quantile and its standard error.
    cdf_se
        Standard error of the empirical distribution function at the quantile.
    n_events, n_units
        Values, and the independent units that they come from.
    """

    value: float
    se: float
    cdf_se: float
    n_events: int
    n_units: int

    @property
    def moments(self) -> Moments:
        """As though it were the mean of n units, for `compare_moments`."""
        return Moments(self.n_units, self.value, self.se**2 * self.n_units)


def independent_quantile(values: ArrayLike, q: float) -> QuantileEstimate:
    """The quantile of values that are independent: one a unit.

        cdf_se = sqrt(q (1 - q) / n)
        se = (x(q + z cdf_se) - x(q - z cdf_se)) / (2 z),    z = 1.96

    with x(.) the empirical quantile: the ordered values themselves say how dense they lie.

    Raises
    ------
    InputError
        q outside (0, 1), values that are not finite, or too few for this quantile.

    Notes
    -----
    Price & Bonett (2001), Estimating the variance of the sample median, J. Stat. Comput. Simul. 68.
    """
    ordered = np.sort(_values(values, q))
    cdf_se = sqrt(q * (1 - q) / len(ordered))
    return _estimate(ordered, q, cdf_se, len(ordered))


def clustered_quantile(values: ArrayLike, unit: ArrayLike, q: float) -> QuantileEstimate:
    """The quantile of events that come in units, from units of any number of events.

    At the quantile x, unit i has ``b_i`` events of which ``a_i`` are at most x. The distribution
    function is the ratio ``sum a / sum b``, whose delta-method error over the units

        cdf_se^2 = G / (G - 1) sum (a_i - F b_i)^2 / (sum b)^2,    F = sum a / sum b

    takes the place of ``sqrt(q (1 - q) / n)``. Events of one unit that resemble each other
    make it larger.

    Parameters
    ----------
    values
        The events' values, float [n].
    unit
        The unit of each event, int [n]. Units without events change nothing and need not appear.

    Raises
    ------
    InputError
        As `independent_quantile`; also fewer than two units.

    Notes
    -----
    Deng, Knoblich & Lu (2018), Applying the Delta Method in Metric Analytics, KDD;
    Liu, Sun, Varshney & Xu (2019), Large-Scale Online Experimentation with Quantile Metrics.
    """
    events = _values(values, q)
    code = _codes(_units(unit, len(events)))
    ordered = np.sort(events)
    size = np.bincount(code).astype(float)
    n_units = int(np.count_nonzero(size))
    require(n_units >= 2, "units", n_units, "must be at least 2")
    below = np.bincount(code[events <= _at(ordered, q)], minlength=len(size))
    residual = below - below.sum() / len(events) * size
    variance = float(residual @ residual) / (n_units - 1) * n_units / len(events) ** 2
    return _estimate(ordered, q, sqrt(variance), n_units)


def compare_quantiles(
    control: ArrayLike,
    treatment: ArrayLike,
    q: float,
    *,
    control_unit: ArrayLike | None = None,
    treatment_unit: ArrayLike | None = None,
    alpha: float = 0.05,
) -> Comparison:
    """The difference of a quantile between arms, with the standard error that fits the data.

    Parameters
    ----------
    control, treatment
        The events' values, float [n_control], float [n_treatment].
    control_unit, treatment_unit
        The unit of randomisation of each event; leave both out when each value is a unit's own.

    Returns
    -------
    Comparison
        ``n_control`` and ``n_treatment`` count units.

    Raises
    ------
    InputError
        As `clustered_quantile`; units for one arm only; a quantile that does not vary, as where
        half of the values are the same.
    """
    if control_unit is None and treatment_unit is None:
        arms = independent_quantile(control, q), independent_quantile(treatment, q)
    elif control_unit is None or treatment_unit is None:
        raise InputError("units must be given for both arms or for none: one is None")
    else:
        arms = (
            clustered_quantile(control, control_unit, q),
            clustered_quantile(treatment, treatment_unit, q),
        )
    return compare_moments(arms[0].moments, arms[1].moments, alpha=alpha)


def density_se(values: ArrayLike, q: float) -> float:
    """The textbook standard error, ``sqrt(q (1 - q) / n) / f(x_q)``, f by a Gaussian kernel.

    The density has to be estimated where values are few, and a bandwidth that suits the bulk
    smooths the tail away: compare it with `independent_quantile` at q = 0.99.

    Notes
    -----
    Bandwidth by Silverman (1986), equation 3.31: ``0.9 min(s, IQR / 1.34) n^(-1/5)``.
    """
    x = _values(values, q)
    low, cut, high = np.quantile(x, [0.25, q, 0.75])
    spread = min(float(x.std(ddof=1)), float(high - low) / 1.34)
    require(spread > 0, "spread of values", spread, "must be > 0", "they are nearly all the same")
    bandwidth = 0.9 * spread * len(x) ** -0.2
    density = float(norm.pdf((x - cut) / bandwidth).mean()) / bandwidth
    return sqrt(q * (1 - q) / len(x)) / density


def bootstrap_quantiles(
    values: ArrayLike, unit: ArrayLike, q: float, *, n_boot: int = 400, seed: int = 0
) -> Floats:
    """The quantile of ``n_boot`` samples in which *units* are drawn again, float [n_boot].

    A unit that is drawn twice brings all its events twice. No formula: what `clustered_quantile`
    is held against.
    """
    events = _values(values, q)
    names, code = np.unique(_units(unit, len(events)), return_inverse=True)
    require(n_boot >= 100, "n_boot", n_boot, "must be at least 100", "try 400")
    rng = np.random.default_rng(seed)
    order = np.argsort(events, kind="stable")
    ordered, code = events[order], code[order]
    n, rows = len(names), max(1, CELLS // len(events))
    found = []
    for start in range(0, n_boot, rows):
        drawn = rng.multinomial(n, np.full(n, 1 / n), size=min(rows, n_boot - start))
        reached = np.cumsum(drawn[:, code], axis=1)
        found.append(ordered[(reached >= q * reached[:, -1:]).argmax(axis=1)])
    return np.concatenate(found)


def _estimate(ordered: Floats, q: float, cdf_se: float, n_units: int) -> QuantileEstimate:
    low, high = q - Z * cdf_se, q + Z * cdf_se
    n = len(ordered)
    enough = ceil(n * (Z * cdf_se / min(q, 1 - q)) ** 2)
    require(
        low >= 0 and high <= 1,
        f"events for the quantile {q}",
        n,
        f"must be about {enough} of this kind",
        "wait for more, or watch a quantile nearer to the middle",
    )
    se = (_at(ordered, high) - _at(ordered, low)) / (2 * Z)
    return QuantileEstimate(_at(ordered, q), se, cdf_se, n, n_units)


def _at(ordered: Floats, level: float) -> float:
    """The empirical quantile of ordered values, linear between them, as `numpy.quantile`."""
    place = level * (len(ordered) - 1)
    below = min(int(place), len(ordered) - 2)
    low, high = float(ordered[below]), float(ordered[below + 1])
    return low + (place - below) * (high - low)


def _codes(unit: NDArray[np.generic]) -> NDArray[np.intp]:
    """Each event's unit as a number from 0, with gaps perhaps: a table's row numbers stay."""
    if unit.dtype.kind in "iu" and len(unit):
        first, last = int(unit.min()), int(unit.max())
        if last - first < 4 * len(unit):
            return np.asarray(unit.astype(np.intp) - first)
    return np.unique(unit, return_inverse=True)[1]


def _values(values: ArrayLike, q: float) -> Floats:
    require(0 < q < 1, "q", q, "must be in (0, 1)", "0.99 is the p99")
    return finite("values", values)


def _units(unit: ArrayLike, n: int) -> NDArray[np.generic]:
    units = np.asarray(unit)
    require(units.shape == (n,), "shape of unit", units.shape, f"must be [{n}], one an event")
    return units
