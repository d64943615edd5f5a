"""Does a 95 % interval hold the truth in 95 % of samples, and a 5 % test reject 5 % of fair ones?

The only way to know is to make data whose truth is known and count. Data sets are tables of
counts (:mod:`cell_bootstrap`), so a thousand data sets of a thousand replicates take seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.stats import norm

from common.errors import require
from common.statistics import Z95
from labs.lab3_fairness.cell_bootstrap import (
    Cells,
    bootstrap_from_counts,
    cell_weights,
    rates,
    shuffled_counts,
)
from labs.lab3_fairness.resampling import gaps_of
from labs.lab3_fairness.row_metrics import RowMetric
from labs.lab3_fairness.score_intervals import (
    all_pairs_z,
    difference_interval,
    largest_difference_interval,
    wilson,
)

Floats = NDArray[np.float64]
Limits = tuple[Floats, Floats]

SETS_AT_ONCE = 2_000_000  # replicated groups held in memory


@dataclass(frozen=True)
class Scenario:
    """A population with known rates, and the sizes of the groups that are sampled from it.

    Attributes
    ----------
    sizes : int64 array of shape [g]
        Rows that a data set has of each group.
    shares : float64 array of shape [g, c]
        The share of each cell in each group; rows sum to 1.
    values, counted : arrays of shape [m, c]
        The metrics, as :func:`cell_bootstrap.cell_weights` gives them; all are rates.
    """

    name: str
    sizes: NDArray[np.int64]
    shares: Floats
    metrics: tuple[str, ...]
    values: Floats
    counted: NDArray[np.bool_]

    @property
    def truth(self) -> Floats:
        """The true value of each metric in each group, [g, m]."""
        return rates(self.shares, self.values, self.counted)


def rate_scenario(name: str, sizes: ArrayLike, true_rates: ArrayLike) -> Scenario:
    """Groups of given sizes whose selection rates are given, both of shape [g]."""
    rate = np.asarray(true_rates, dtype=float)
    ok = bool(((rate > 0) & (rate < 1)).all())
    require(ok, "true_rates", rate.tolist(), "must be between 0 and 1")
    return Scenario(
        name=name,
        sizes=np.broadcast_to(np.asarray(sizes, dtype=np.int64), rate.shape),
        shares=np.stack([rate, 1 - rate], axis=1),
        metrics=("selection_rate",),
        values=np.array([[1.0, 0.0]]),
        counted=np.ones((1, 2), dtype=bool),
    )


def data_scenario(name: str, cells: Cells, metrics: Mapping[str, RowMetric]) -> Scenario:
    """A population with the cells of a real data set, sampled in the sizes of that data set."""
    values, counted = cell_weights(list(metrics.values()), cells)
    sizes = cells.counts.sum(axis=1)
    shares = cells.counts / sizes[:, np.newaxis]
    return Scenario(name, sizes, shares, tuple(metrics), values, counted)


def coverage(
    scenario: Scenario, *, n_sets: int = 1000, n_boot: int = 1000, seed: int = 0
) -> pd.DataFrame:
    """How often each kind of 95 % interval holds the truth of a scenario.

    Parameters
    ----------
    scenario
    n_sets
        Data sets drawn from it.
    n_boot
        Bootstrap replicates of each.
    seed
        Of data sets and replicates.

    Returns
    -------
    DataFrame
        One row an interval and method. ``of``: "value" (of a group), "difference" (second minus
        first group, where there are two) or "largest difference" (max - min). Columns scenario,
        metric, group, n, truth, method, coverage (0 to 1), below and above (how often the
        truth is under or over the interval) and width (mean). Intervals without a value (nobody
        counted) are left out.

    Raises
    ------
    InputError
        For fewer than 100 data sets or replicates.
    """
    require(n_sets >= 100, "n_sets", n_sets, "must be >= 100", "try 1000")
    require(n_boot >= 100, "n_boot", n_boot, "must be >= 100", "try 1000")
    rng = np.random.default_rng(seed)
    n_groups = len(scenario.sizes)
    size = max(1, SETS_AT_ONCE // (n_boot * n_groups))
    parts = [
        _intervals(scenario, min(size, n_sets - start), n_boot, rng)
        for start in range(0, n_sets, size)
    ]
    truth, rows = scenario.truth, []
    for of, method in parts[0]:
        low, high = (np.concatenate([part[of, method][end] for part in parts]) for end in (0, 1))
        known = ~np.isnan(low)
        true = _true(truth, of)
        below, above = (true < low - 1e-12) & known, (true > high + 1e-12) & known
        n = known.sum(axis=0)
        for group, number in np.ndindex(true.shape):
            at = (slice(None), group, number)
            rows.append(
                {
                    "scenario": scenario.name,
                    "metric": scenario.metrics[number],
                    "of": of,
                    "group": group if of == "value" else -1,
                    "n": int(scenario.sizes[group]) if of == "value" else int(scenario.sizes.sum()),
                    "truth": float(true[group, number]),
                    "method": method,
                    "coverage": float(1 - (below[at].sum() + above[at].sum()) / n[group, number]),
                    "below": float(below[at].sum() / n[group, number]),
                    "above": float(above[at].sum() / n[group, number]),
                    "width": float(np.nanmean(high[at] - low[at])),
                }
            )
    return pd.DataFrame(rows)


def _true(truth: Floats, of: str) -> Floats:
    """The quantity an interval is of, [groups or 1, m]."""
    if of == "value":
        return truth
    if of == "difference":
        return truth[1:] - truth[:1]
    return gaps_of(truth.T)[np.newaxis]


def _intervals(
    scenario: Scenario, n_sets: int, n_boot: int, rng: np.random.Generator
) -> dict[tuple[str, str], Limits]:
    """Limits of each kind and method, each [n_sets, groups or 1, m]."""
    g, c = scenario.shares.shape
    m = len(scenario.metrics)
    counts = rng.multinomial(scenario.sizes, scenario.shares, size=(n_sets, g))
    # Every group of every data set is a stratum of one large bootstrap.
    replicates = bootstrap_from_counts(
        counts.reshape(-1, c), scenario.values, scenario.counted, n_boot=n_boot, seed=rng
    ).reshape(n_boot, n_sets, g, m)
    n = counts @ scenario.counted.T.astype(float)
    hits = counts @ (scenario.values * scenario.counted).T
    value = rates(counts, scenario.values, scenario.counted)
    # Sums of squares and cubes of the jackknife's influence values, of each group.
    with np.errstate(invalid="ignore", divide="ignore"):
        squares = value * (1 - value) / n
        cubes = squares * (1 - 2 * value) / n
    found = bootstrap_intervals(value, replicates, squares, cubes)
    out = {("value", method): limits for method, limits in found.items()}
    out["value", "Wilson"] = wilson(hits, n)
    if g == 2:
        d, boot = value[:, 1:] - value[:, :1], replicates[:, :, 1:] - replicates[:, :, :1]
        sums = squares.sum(axis=1, keepdims=True), cubes[:, 1:] - cubes[:, :1]
        for method, limits in bootstrap_intervals(d, boot, *sums).items():
            out["difference", method] = limits
        ends = out["value", "Wilson"]
        first, second = (tuple(end[:, at] for end in ends) for at in (slice(0, 1), slice(1, 2)))
        out["difference", "Newcombe"] = difference_interval(
            value[:, 1:], (second[0], second[1]), value[:, :1], (first[0], first[1])
        )
    by_metric = np.swapaxes(value, 1, 2)  # [n_sets, m, g]
    top, bottom = by_metric.argmax(axis=-1), by_metric.argmin(axis=-1)

    def of_extremes(sums: Floats, sign: int) -> Floats:
        turned = np.swapaxes(sums, 1, 2)
        ends = [np.take_along_axis(turned, at[..., np.newaxis], -1) for at in (top, bottom)]
        return np.swapaxes(ends[0] + sign * ends[1], 1, 2)

    boot = gaps_of(np.swapaxes(replicates, 2, 3))[:, :, np.newaxis]
    spread = gaps_of(by_metric)[:, np.newaxis]
    sums = of_extremes(squares, 1), of_extremes(cubes, -1)
    for method, limits in bootstrap_intervals(spread, boot, *sums).items():
        out["largest difference", method] = limits
    low, high = (np.swapaxes(end, 1, 2) for end in wilson(hits, n, z=all_pairs_z(g)))
    low, high = largest_difference_interval(by_metric, (low, high))
    out["largest difference", "all pairs"] = low[:, np.newaxis], high[:, np.newaxis]
    return out


def bootstrap_intervals(
    value: Floats, replicates: Floats, squares: Floats, cubes: Floats
) -> dict[str, Limits]:
    """Three 95 % intervals from the same replicates: percentile, basic and BCa.

    Parameters
    ----------
    value : array of shape [...]
        The estimates.
    replicates : array of shape [B, ...]
    squares, cubes : arrays of shape [...]
        Sums of squared and of cubed influence values, for BCa's acceleration
        ``cubes / (6 squares^1.5)``.

    Returns
    -------
    dict of (low, high), each of shape [...]

    References
    ----------
    Efron: Better Bootstrap Confidence Intervals, JASA 82, 1987, equations 2.3 and 6.6. Davison
    and Hinkley: Bootstrap Methods and their Application, 1997, section 5.2 (basic).
    """
    ordered = np.sort(replicates, axis=0)  # NaN last
    known = len(ordered) - np.isnan(ordered).sum(axis=0)

    def quantile(level: ArrayLike) -> Floats:
        place = np.asarray(level) * (known - 1)
        lower = np.floor(place).astype(int).clip(0)
        upper = np.minimum(lower + 1, np.maximum(known - 1, 0))
        a, b = (np.take_along_axis(ordered, at[np.newaxis], 0)[0] for at in (lower, upper))
        return a + (b - a) * (place - lower)

    low, high = quantile(0.025), quantile(0.975)
    under = np.sum(replicates < value, axis=0) + 0.5 * np.sum(replicates == value, axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        share = (under / known).clip(1 / (len(ordered) + 1), 1 - 1 / (len(ordered) + 1))
        bias = norm.ppf(share)
        acceleration = np.where(squares > 0, cubes / (6 * squares**1.5), 0.0)
        ends = []
        for z in (-Z95, Z95):
            tilted = bias + (bias + z) / (1 - acceleration * (bias + z))
            ends.append(quantile(np.nan_to_num(norm.cdf(tilted), nan=0.5)))
    return {
        "percentile": (low, high),
        "basic": (2 * value - high, 2 * value - low),
        "BCa": (ends[0], ends[1]),
    }


def null_false_positives(
    scenario: Scenario,
    *,
    n_sets: int = 1000,
    n_permutations: int = 199,
    seed: int = 0,
    level: float = 0.05,
) -> float:
    """The share of fair data sets that the permutation null calls unfair at ``level``.

    Parameters
    ----------
    scenario
        Of rates (:func:`rate_scenario`), the same in every group.
    n_sets, n_permutations
        Data sets, and shuffles of each; a level of 0.05 is exact with 199 of them.
    seed
        Of both.

    Raises
    ------
    InputError
        When the groups' true rates differ, or the scenario has several metrics.
    """
    truth = scenario.truth
    require(truth.shape[1] == 1, "metrics", len(scenario.metrics), "must be 1: a rate_scenario")
    apart = float(np.ptp(truth))
    require(apart < 1e-12, "largest true difference", apart, "must be 0: fair data is wanted")
    rng = np.random.default_rng(seed)
    g = len(scenario.sizes)
    size = max(1, SETS_AT_ONCE // (n_permutations * g))
    rejected = 0
    for start in range(0, n_sets, size):
        n = min(size, n_sets - start)
        counts = rng.multinomial(scenario.sizes, scenario.shares, size=(n, g))

        def gaps(table: NDArray[np.int64]) -> Floats:
            return gaps_of(table[..., 0] / scenario.sizes)

        shuffled = gaps(shuffled_counts(counts, n_permutations, seed=rng))
        reached = np.sum(shuffled >= gaps(counts) - 1e-12, axis=0)
        rejected += int(np.sum((1 + reached) / (1 + n_permutations) <= level))
    return rejected / n_sets


SIZES, RATES = (10, 20, 50, 200, 1000), (0.05, 0.1, 0.3, 0.5)
TWO_SIZES = ((20, 20), (20, 200), (50, 50), (50, 500), (200, 200), (1000, 1000))
TWO_RATES = ((0.1, 0.1), (0.1, 0.3), (0.3, 0.3), (0.5, 0.7))
MANY = ((4, 50), (8, 20), (8, 50), (8, 200))
FAIR = ((2, 50, 0.3), (2, 500, 0.3), (4, 200, 0.1), (8, 50, 0.3), (8, 200, 0.1))


@dataclass(frozen=True)
class Study:
    """Coverage of every method, and what the null rejects on fair data.

    Attributes
    ----------
    table : DataFrame
        As :func:`coverage` returns it, of all scenarios.
    false_positives : dict
        Scenario to the share of fair data sets with p <= 0.05.
    """

    n_sets: int
    n_boot: int
    table: pd.DataFrame
    false_positives: dict[str, float]

    def averages(self, of: str) -> pd.DataFrame:
        """Coverage by method (columns), averaged over the rates of each choice of sizes (rows)."""
        chosen = self.table[(self.table["of"] == of) & self.table["generated"]]
        rows = "n" if of == "value" else "sizes"
        return chosen.pivot_table(index=rows, columns="method", values="coverage", sort=False)

    def worst(self, of: str, method: str) -> float:
        """The average of :meth:`averages` that is farthest from 0.95."""
        column = self.averages(of)[method]
        return float(column.iloc[int((column - 0.95).abs().argmax())])

    def worst_single(self, of: str, method: str) -> float:
        """The lowest coverage of any one rate, sizes and population: not averaged over anything."""
        return float(self._single(of, method).min())

    def largest_single(self, of: str, method: str) -> float:
        """The highest coverage of any one: how far beyond 0.95 a method that is safe goes."""
        return float(self._single(of, method).max())

    def _single(self, of: str, method: str) -> pd.Series:
        chosen = (self.table["of"] == of) & (self.table["method"] == method)
        known = sorted(set(self.table["method"][self.table["of"] == of]))
        require(bool(chosen.any()), "method", method, f"must be one of {known} for {of!r}")
        return self.table.loc[chosen, "coverage"]

    def on_data(self, of: str) -> pd.DataFrame:
        """Coverage by metric and method where the population is that of real data."""
        chosen = self.table[(self.table["of"] == of) & ~self.table["generated"]]
        return chosen.pivot_table(
            index=["metric", "group"], columns="method", values="coverage", sort=False
        )


def study(
    data: Mapping[str, tuple[Cells, Mapping[str, RowMetric]]],
    *,
    n_sets: int = 500,
    n_boot: int = 1000,
    seed: int = 0,
) -> Study:
    """Coverage over groups of several sizes and rates and on populations of real data.

    Parameters
    ----------
    data
        Name to the cells of a real data set, and metrics; its population has the same cells.
    n_sets, n_boot, seed
        As for :func:`coverage`; the null gets four times ``n_sets`` data sets.
    """
    scenarios = [
        ("one group", rate_scenario("rates", np.repeat(SIZES, len(RATES)), RATES * len(SIZES)))
    ]
    for sizes in TWO_SIZES:
        name = f"{sizes[0]} and {sizes[1]}"
        scenarios += [(name, rate_scenario(f"{name}: {pair}", sizes, pair)) for pair in TWO_RATES]
    for g, n in MANY:
        name = f"{g} of {n}"
        for kind, true_rates in (("equal", np.full(g, 0.3)), ("spread", np.linspace(0.2, 0.5, g))):
            scenarios.append((f"{name}, {kind}", rate_scenario(f"{name}: {kind}", n, true_rates)))
    scenarios += [("", data_scenario(name, *given)) for name, given in data.items()]
    tables = [
        coverage(scenario, n_sets=n_sets, n_boot=n_boot, seed=seed + number).assign(
            sizes=sizes, generated=bool(sizes)
        )
        for number, (sizes, scenario) in enumerate(scenarios)
    ]
    table = pd.concat(tables, ignore_index=True)
    # Values are judged on "one group" alone, the largest difference where there are groups.
    one = table["sizes"] == "one group"
    table = table[~table["generated"] | (one == (table["of"] == "value"))]
    false_positives = {
        f"{g} groups of {n}, rate {rate}": null_false_positives(
            rate_scenario("fair", n, np.full(g, rate)), n_sets=4 * n_sets, seed=seed
        )
        for g, n, rate in FAIR
    }
    return Study(n_sets, n_boot, table.reset_index(drop=True), false_positives)
