"""All that a test needs of ten million units: counts, means, and products about the mean.

A mean, a proportion and a ratio, each with or without CUPED, are functions of a few sums over the
units. The sums are taken where the data lie, by one scan; what leaves is a k by k matrix an arm.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from common.errors import InputError, require
from common.exercises import exercise
from labs.lab6_online_eval.significance import Comparison, Moments, compare_moments

Floats = NDArray[np.float64]
CENTRE_ROWS = 10_000


@dataclass(frozen=True)
class SufficientStatistics:
    """What is kept of some units and k columns.

    Attributes
    ----------
    columns
        Their names, k of them.
    n
        Number of units.
    mean
        Float [k].
    scatter
        Float [k, k]: sums over units of ``(x_i - mean_i) (x_j - mean_j)``. Pairs that no metric
        asked for are NaN.
    """

    columns: tuple[str, ...]
    n: int
    mean: Floats
    scatter: Floats

    @classmethod
    def of(cls, columns: Sequence[str], rows: Floats) -> SufficientStatistics:
        """From all values, float [n, k]: two passes in memory, the plain way."""
        mean = rows.mean(axis=0)
        centred = rows - mean
        return cls(tuple(columns), len(rows), mean, centred.T @ centred)

    def __add__(self, other: SufficientStatistics) -> SufficientStatistics:
        """The statistics of both sets of units together.

            S = S_a + S_b + d d^T n_a n_b / (n_a + n_b),    d = mean_b - mean_a

        Chan, Golub & LeVeque (1983), The American Statistician 37, equation 2.1.
        """
        if self.columns != other.columns:
            raise InputError(f"columns {other.columns} must be {self.columns} to be added")
        n = self.n + other.n
        apart = other.mean - self.mean
        between = np.outer(apart, apart) * (self.n * other.n / n)
        return SufficientStatistics(
            self.columns,
            n,
            self.mean + apart * (other.n / n),
            self.scatter + other.scatter + between,
        )

    def only(self, columns: Sequence[str]) -> SufficientStatistics:
        """The same units, with some of the columns."""
        places = [self.columns.index(name) for name in columns]
        return SufficientStatistics(
            tuple(columns), self.n, self.mean[places], self.scatter[np.ix_(places, places)]
        )

    @property
    def covariance(self) -> Floats:
        """Sample covariance (n - 1), float [k, k]."""
        return np.asarray(self.scatter / (self.n - 1))


@dataclass(frozen=True)
class Columns:
    """The columns of a unit table that make one metric.

    A mean or a proportion has ``numerator`` alone. ``covariate`` and ``covariate_denominator`` are
    the same before the exposure; without them there is no CUPED.
    """

    numerator: str
    denominator: str | None = None
    covariate: str | None = None
    covariate_denominator: str | None = None

    @property
    def cuped(self) -> bool:
        """Whether there is a covariate."""
        return self.covariate is not None

    @property
    def all(self) -> tuple[str, ...]:
        """Those that there are."""
        named = (self.numerator, self.denominator, self.covariate, self.covariate_denominator)
        return tuple(name for name in named if name is not None)


@dataclass(frozen=True)
class Pair:
    """A metric y and its covariate x in some units: sizes, means, sample variances (n - 1).

    Without a covariate, its mean, variance and covariance are 0.
    """

    n: int
    mean_y: float
    mean_x: float
    variance_y: float
    variance_x: float
    covariance: float


def pair(statistics: SufficientStatistics, columns: Columns) -> Pair:
    """One metric's y and x in the units of ``statistics``.

    A ratio ``R = sum(a) / sum(b)`` is linearised by the delta method: near its value it behaves as
    the mean over units of

        y = R + (a - R b) / mean(b),

    whose variance is ``g^T S g`` with the gradient ``g = (1, -R) / mean(b)`` over the columns a, b.

    Notes
    -----
    Deng, Knoblich & Lu (2018), Applying the Delta Method in Metric Analytics, KDD, section 3.
    """
    covariance = statistics.covariance
    mean_y, y = _gradient(statistics, columns.numerator, columns.denominator)
    mean_x, x = _gradient(statistics, columns.covariate, columns.covariate_denominator)
    return Pair(
        n=statistics.n,
        mean_y=mean_y,
        mean_x=mean_x,
        variance_y=_product(y, covariance, y),
        variance_x=_product(x, covariance, x),
        covariance=_product(y, covariance, x),
    )


@dataclass(frozen=True)
class CupedMoments:
    """Both arms after CUPED: what a test needs of each, and the coefficient."""

    control: Moments
    treatment: Moments
    theta: float


@exercise(
    "6.9",
    points=10,
    title="CUPED without a single row: from each arm's sums",
    hint="theta comes from the units of both arms together, and so does the mean on which the "
    "covariate is centred. The variance of a difference Y - theta X has three terms.",
)
def cuped_moments(control: Pair, treatment: Pair, everyone: Pair) -> CupedMoments:
    """The moments of the adjusted metric, exactly those that `cuped_adjust` gives unit by unit.

    The adjusted metric of a unit is ``Y - theta (X - m)``, with one theta and one m for the whole
    experiment: those of all its units.

    Parameters
    ----------
    control, treatment
        Metric y and covariate x in each arm: sizes, means, sample variances and covariance.
    everyone
        The same over the units of both arms together.

    Returns
    -------
    CupedMoments
        ``control`` and ``treatment``: size, mean and sample variance of the adjusted metric in
        each arm; ``theta``, which is 0 for a covariate that does not vary.

    Notes
    -----
    Deng et al. (2013), equations 4 to 6.
    """
    # BEGIN SOLUTION
    theta = everyone.covariance / everyone.variance_x if everyone.variance_x > 0 else 0.0

    def adjusted(arm: Pair) -> Moments:
        return Moments(
            arm.n,
            arm.mean_y - theta * (arm.mean_x - everyone.mean_x),
            arm.variance_y - 2 * theta * arm.covariance + theta**2 * arm.variance_x,
        )

    return CupedMoments(adjusted(control), adjusted(treatment), theta)
    # END SOLUTION


def compare_statistics(
    control: SufficientStatistics,
    treatment: SufficientStatistics,
    columns: Columns,
    *,
    alpha: float = 0.05,
) -> Comparison:
    """Welch's test of one metric from the sums of two arms, with CUPED where it has a covariate.

    Raises
    ------
    InputError
        Fewer than two units in an arm, a metric that does not vary in either, a ratio whose
        denominator is 0 in an arm, or sums that are not finite.
    """
    moments = adjusted_moments(control, treatment, columns)
    before = [pair(arm.only(columns.all), columns) for arm in (control, treatment)]
    raw = sum(arm.variance_y / arm.n for arm in before)
    left = sum(arm.variance / arm.n for arm in (moments.control, moments.treatment))
    reduction = 1 - left / raw if columns.covariate is not None and raw > 0 else 0.0
    return compare_moments(
        moments.control, moments.treatment, alpha=alpha, variance_reduction=reduction
    )


def adjusted_moments(
    control: SufficientStatistics, treatment: SufficientStatistics, columns: Columns
) -> CupedMoments:
    """The moments on which a metric is tested; theta is 0 without a covariate.

    Raises
    ------
    InputError
        As `compare_statistics`.
    """
    control, treatment = control.only(columns.all), treatment.only(columns.all)
    for name, arm in (("control", control), ("treatment", treatment)):
        require(arm.n >= 2, f"units in {name}", arm.n, "must be at least 2")
        _require_usable(name, arm, columns)
    everyone = control + treatment
    return cuped_moments(*(pair(part, columns) for part in (control, treatment, everyone)))


def scan(table: Path, metrics: Sequence[Columns], *, arms: int = 2) -> list[SufficientStatistics]:
    """The statistics of each arm of a unit table, by one scan with DuckDB.

    Parameters
    ----------
    table
        Parquet: one row a unit, ``arm`` (an integer from 0) and the columns of the metrics.
    metrics
        Products are summed for pairs of columns of one metric only.
    arms
        How many there are; one without units has ``n = 0``.

    Raises
    ------
    InputError
        A column with missing values, an arm that is none of ``arms``, no units at all.

    Notes
    -----
    ``sum(x^2) - n mean^2`` loses all digits when the mean is large against the spread. Products are
    taken about the mean of the first rows instead, which one scan can know, and moved to each arm's
    own mean afterwards (Chan, Golub & LeVeque 1983, section 3: shifted data).
    """
    import duckdb

    columns = tuple(dict.fromkeys(name for metric in metrics for name in metric.all))
    require(bool(columns), "metrics", list(metrics), "must name at least one column")
    place = {name: i for i, name in enumerate(columns)}
    pairs = sorted(
        {
            (min(place[a], place[b]), max(place[a], place[b]))
            for metric in metrics
            for a in metric.all
            for b in metric.all
        }
    )
    with duckdb.connect() as database:
        centre = _centre(database, table, columns)
        shifted = ", ".join(
            f'CAST("{_quoted(name)}" AS DOUBLE) - {value!r} AS x{i}'
            for i, (name, value) in enumerate(zip(columns, centre.tolist(), strict=True))
        )
        wanted = [
            *(f"count(x{i})" for i in range(len(columns))),
            *(f"sum(x{i})" for i in range(len(columns))),
            *(f"sum(x{i} * x{j})" for i, j in pairs),
        ]
        rows = database.execute(
            f"SELECT arm, count(*), {', '.join(wanted)} "
            f"FROM (SELECT arm, {shifted} FROM read_parquet($1)) GROUP BY arm",
            [str(table)],
        ).fetchall()
    require(bool(rows), "units", 0, "must be at least 1", f"{table} is empty")
    found: dict[int, SufficientStatistics] = {}
    for arm, n, *numbers in rows:
        _require_complete(arm, n, numbers[: len(columns)], columns, arms)
        sums = np.array(numbers[len(columns) : 2 * len(columns)], dtype=float)
        scatter = np.full((len(columns), len(columns)), np.nan)
        for (i, j), product in zip(pairs, numbers[2 * len(columns) :], strict=True):
            with np.errstate(invalid="ignore"):  # infinite values: refused where they are used
                scatter[i, j] = scatter[j, i] = product - sums[i] * sums[j] / n
        found[int(arm)] = SufficientStatistics(columns, int(n), centre + sums / n, scatter)
    empty = SufficientStatistics(
        columns, 0, np.zeros(len(columns)), np.zeros((len(columns), len(columns)))
    )
    return [found.get(arm, empty) for arm in range(arms)]


def _centre(database: object, table: Path, columns: tuple[str, ...]) -> Floats:
    """The mean of the first rows of each column, float [k]; 0 where it is no number."""
    means = ", ".join(f'avg("{_quoted(name)}")' for name in columns)
    inner = ", ".join(f'"{_quoted(name)}"' for name in columns)
    (row,) = database.execute(  # type: ignore[attr-defined]
        f"SELECT {means} FROM (SELECT {inner} FROM read_parquet($1) LIMIT {CENTRE_ROWS})",
        [str(table)],
    ).fetchall()
    centre = np.array([0.0 if value is None else value for value in row], dtype=float)
    return np.where(np.isfinite(centre), centre, 0.0)


def _gradient(
    statistics: SufficientStatistics, numerator: str | None, denominator: str | None
) -> tuple[float, dict[int, float]]:
    """Value of a mean or ratio, and its derivative by the mean of each column: place to number."""
    if numerator is None:
        return 0.0, {}
    top = statistics.columns.index(numerator)
    above = float(statistics.mean[top])
    if denominator is None:
        return above, {top: 1.0}
    bottom = statistics.columns.index(denominator)
    below = float(statistics.mean[bottom])
    return above / below, {top: 1 / below, bottom: -above / below**2}


def _product(left: dict[int, float], covariance: Floats, right: dict[int, float]) -> float:
    return float(sum(a * covariance[i, j] * b for i, a in left.items() for j, b in right.items()))


def _require_usable(name: str, arm: SufficientStatistics, columns: Columns) -> None:
    numbers = np.append(arm.mean, arm.scatter)
    bad = int(np.count_nonzero(~np.isfinite(numbers)))
    require(
        bad == 0,
        f"sums of {columns.numerator} in {name} that are not finite",
        bad,
        "must be 0",
        "find the events whose value is NaN or infinite",
    )
    for column in (columns.denominator, columns.covariate_denominator):
        if column is not None:
            mean = float(arm.mean[arm.columns.index(column)])
            require(mean != 0, f"mean of {column} in {name}", mean, "must not be 0 below a line")


def _require_complete(
    arm: int | None, n: int, counts: Sequence[int], columns: tuple[str, ...], arms: int
) -> None:
    require(arm is not None and 0 <= arm < arms, "arm", arm, f"must be from 0 to {arms - 1}")
    for name, count in zip(columns, counts, strict=True):
        require(
            count == n,
            f"missing values of {name} in arm {arm}",
            n - count,
            "must be 0",
            "a unit without events counts as 0; dropping it breaks the randomisation",
        )


def _quoted(name: str) -> str:
    """A column's name inside double quotes of SQL."""
    return name.replace('"', '""')
