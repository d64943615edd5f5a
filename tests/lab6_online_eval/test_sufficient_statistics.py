"""Exercise 6.9, and tests from the sums of a scan against every unit's row and other libraries."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labs.lab6_online_eval import sufficient_statistics
from labs.lab6_online_eval.sufficient_statistics import Columns, Pair, SufficientStatistics

Rows = np.ndarray


def rows(seed: int, n: int = 300, slope: float = 1.5, shift: float = 0.0) -> Rows:
    """Metric and covariate of one arm, float [n, 2]."""
    rng = np.random.default_rng(seed)
    x = rng.gamma(2.0, 1.5, n) + shift
    return np.column_stack([slope * x + rng.normal(0, 1, n), x])


def pair_of(values: Rows) -> Pair:
    """What the exercise is given, by plain numpy."""
    (mean_y, mean_x), cov = values.mean(axis=0), np.cov(values.T)
    return Pair(len(values), mean_y, mean_x, cov[0, 0], cov[1, 1], cov[0, 1])


def adjusted(control: Rows, treatment: Rows) -> sufficient_statistics.CupedMoments:
    return sufficient_statistics.cuped_moments(
        pair_of(control), pair_of(treatment), pair_of(np.vstack([control, treatment]))
    )


def by_rows(control: Rows, treatment: Rows) -> tuple[Rows, Rows, float]:
    """CUPED unit by unit: Y - theta (X - mean X), theta over both arms together."""
    both = np.vstack([control, treatment])
    cov = np.cov(both.T)
    theta = cov[0, 1] / cov[1, 1]
    centre = both[:, 1].mean()
    return (
        control[:, 0] - theta * (control[:, 1] - centre),
        treatment[:, 0] - theta * (treatment[:, 1] - centre),
        theta,
    )


@pytest.mark.exercise("6.9")
def test_theta_comes_from_the_units_of_both_arms() -> None:
    """The slopes of the arms differ (1 and 3) and so do their sizes: theta is that of everyone.

    With the control's theta the treatment is adjusted by a rule that does not fit it, and less
    variance is removed than could be.
    """
    control, treatment = rows(0, 300, 1.0), rows(1, 100, 3.0)
    expected = by_rows(control, treatment)[2]
    found = adjusted(control, treatment).theta
    assert found == pytest.approx(expected, rel=1e-9), f"expected {expected:.6f}, got {found:.6f}"


@pytest.mark.exercise("6.9")
def test_the_means_are_those_of_the_adjusted_units() -> None:
    """By chance the treated were busier before: their mean falls by theta times that surplus.

    Centred on each arm's own mean instead, nothing would be adjusted at all; uncentred, the level
    of the metric is lost, and with it the relative effect.
    """
    control, treatment = rows(2), rows(3, 200, shift=0.4)
    left, right, _ = by_rows(control, treatment)
    found = adjusted(control, treatment)
    for name, values, moments in (
        ("control", left, found.control),
        ("treatment", right, found.treatment),
    ):
        assert moments.n == len(values), f"{name}: expected {len(values)} units, got {moments.n}"
        assert moments.mean == pytest.approx(values.mean(), rel=1e-9), (
            f"{name}: expected the mean {values.mean():.6f}, got {moments.mean:.6f}"
        )


@pytest.mark.exercise("6.9")
def test_the_variances_are_those_of_the_adjusted_units() -> None:
    """Var(Y - theta X) = Var Y - 2 theta Cov(X, Y) + theta^2 Var X, in each arm with its own terms.

    Without the cross term CUPED would *add* variance. "(1 - correlation^2) Var Y" of the pooled
    units is near, and wrong when the arms differ, as here.
    """
    control, treatment = rows(4, 300, 1.0), rows(5, 200, 2.0)
    left, right, _ = by_rows(control, treatment)
    found = adjusted(control, treatment)
    for name, values, moments in (
        ("control", left, found.control),
        ("treatment", right, found.treatment),
    ):
        expected = values.var(ddof=1)
        assert moments.variance == pytest.approx(expected, rel=1e-9), (
            f"{name}: expected the variance {expected:.6f}, got {moments.variance:.6f}"
        )


@pytest.mark.exercise("6.9")
def test_a_covariate_that_does_not_vary_changes_nothing() -> None:
    """All units new: the covariate is 0 for each, theta is 0 and not 0 / 0."""
    control, treatment = rows(6), rows(7)
    control[:, 1] = treatment[:, 1] = 0.0
    found = adjusted(control, treatment)
    assert found.theta == 0, f"expected theta 0, got {found.theta}"
    expected = control[:, 0].mean()
    assert found.control.mean == pytest.approx(expected), (
        f"expected the mean {expected:.6f}, got {found.control.mean:.6f}"
    )


@settings(derandomize=True, deadline=None, max_examples=30)
@given(seed=st.integers(0, 10_000), shift=st.sampled_from([0.0, 1e3, 1e6]))
def test_adding_the_arms_is_the_same_as_all_rows_at_once(seed: int, shift: float) -> None:
    """The statistics of two sets of units add up to those of both, however far from 0 they lie."""
    first, second = rows(seed, 20, shift=shift), rows(seed + 1, 35, shift=shift + 2)
    total = SufficientStatistics.of("yx", first) + SufficientStatistics.of("yx", second)
    expected = SufficientStatistics.of("yx", np.vstack([first, second]))
    assert total.n == expected.n
    np.testing.assert_allclose(total.mean, expected.mean, rtol=1e-12)
    np.testing.assert_allclose(total.scatter, expected.scatter, rtol=1e-8)


RATIO = Columns("clicks", "sessions", "clicks_before", "sessions_before")
MEAN = Columns("revenue", covariate="revenue_before")
SHARE = Columns("active")


def units(seed: int, n: int = 4000, level: float = 20.0) -> dict[str, Rows]:
    """A unit table: arm, a mean near ``level``, a ratio, a proportion, and what was before."""
    rng = np.random.default_rng(seed)
    arm = rng.integers(0, 2, n)
    busy = rng.gamma(2, 1, n)
    sessions, before = 1 + rng.poisson(3 * busy), 1 + rng.poisson(3 * busy)
    revenue_before = rng.normal(level, 1, n)
    return {
        "arm": arm.astype(np.int8),
        "clicks": rng.binomial(sessions, 0.3 + 0.01 * arm).astype(np.int32),
        "sessions": sessions.astype(np.int32),
        "clicks_before": rng.binomial(before, 0.3).astype(np.int32),
        "sessions_before": before.astype(np.int32),
        "revenue": revenue_before + rng.normal(0.05 * arm, 1),
        "revenue_before": revenue_before,
        "active": (rng.random(n) < 0.4 + 0.02 * arm).astype(np.int8),
    }


def write(path: Path, table: dict[str, Rows]) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table(table), path, row_group_size=1000)
    return path


def test_one_scan_gives_the_products_of_plain_numpy(tmp_path: Path) -> None:
    """A revenue of 10 million with a spread of 1: the sum of squares has 14 digits before the one
    that matters, so `sum(x^2) - n mean^2` would give noise."""
    table = units(0, level=1e7)
    found = sufficient_statistics.scan(write(tmp_path / "u.parquet", table), [RATIO, MEAN, SHARE])
    for arm in (0, 1):
        mine = np.column_stack([table[name] for name in found[arm].columns])[table["arm"] == arm]
        expected = SufficientStatistics.of(found[arm].columns, mine.astype(float))
        assert found[arm].n == expected.n
        np.testing.assert_allclose(found[arm].mean, expected.mean, rtol=1e-12)
        asked = ~np.isnan(found[arm].scatter)
        assert asked.sum() == 16 + 4 + 1
        np.testing.assert_allclose(
            found[arm].scatter[asked], expected.scatter[asked], rtol=1e-9, atol=1e-6
        )
    naive = table["revenue"][table["arm"] == 0]
    lost = (np.sum(naive**2) - naive.sum() ** 2 / len(naive)) / (len(naive) - 1)
    assert abs(lost / naive.var(ddof=1) - 1) > 1e-4  # what shifting the data avoids


@pytest.mark.parametrize("seed", range(3))
def test_means_and_ratios_with_cuped_equal_tea_tasting(tmp_path: Path, seed: int) -> None:
    """The same effects, intervals and p-values from the scan as from its rows in pandas."""
    import pandas as pd
    import tea_tasting as tt

    table = units(seed)
    found = sufficient_statistics.scan(write(tmp_path / "u.parquet", table), [RATIO, MEAN, SHARE])
    theirs = tt.Experiment(
        {
            "ratio": tt.RatioOfMeans("clicks", "sessions", "clicks_before", "sessions_before"),
            "mean": tt.Mean("revenue", "revenue_before"),
            "share": tt.Mean("active"),
        },
        variant="arm",
    ).analyze(pd.DataFrame(table))
    for name, columns in (("ratio", RATIO), ("mean", MEAN), ("share", SHARE)):
        mine = sufficient_statistics.compare_statistics(*found, columns)
        its = theirs[name]
        assert mine.effect == pytest.approx(its.effect_size, abs=1e-9)
        assert mine.p == pytest.approx(its.pvalue, abs=1e-9)
        interval = (its.effect_size_ci_lower, its.effect_size_ci_upper)
        assert mine.ci95 == pytest.approx(interval, abs=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_each_part_equals_statsmodels(seed: int) -> None:
    """Welch's p; theta as the slope of least squares; a ratio as a weighted mean with a robust
    variance (HC0, which divides by n where the sample variance divides by n - 1)."""
    import statsmodels.api as sm
    from statsmodels.stats.weightstats import ttest_ind

    table = units(seed)
    names = ("clicks", "sessions", "revenue", "revenue_before", "active")
    matrix = np.column_stack([table[name] for name in names]).astype(float)
    arms = [SufficientStatistics.of(names, matrix[table["arm"] == arm]) for arm in (0, 1)]
    control, treatment = (table["active"][table["arm"] == arm].astype(float) for arm in (0, 1))
    p = ttest_ind(treatment, control, usevar="unequal")[1]
    assert sufficient_statistics.compare_statistics(*arms, SHARE).p == pytest.approx(p, abs=1e-9)
    slope = sm.OLS(table["revenue"], sm.add_constant(table["revenue_before"])).fit().params[1]
    theta = sufficient_statistics.adjusted_moments(*arms, MEAN).theta
    assert theta == pytest.approx(slope, abs=1e-9)
    for arm in (0, 1):
        mine = table["arm"] == arm
        clicks, sessions = table["clicks"][mine], table["sessions"][mine].astype(float)
        fit = sm.WLS(clicks / sessions, np.ones(len(clicks)), weights=sessions).fit(cov_type="HC0")
        ratio = sufficient_statistics.pair(arms[arm], Columns("clicks", "sessions"))
        assert ratio.mean_y == pytest.approx(fit.params[0], abs=1e-9)
        n = len(clicks)
        assert ratio.variance_y / n * (n - 1) / n == pytest.approx(fit.bse[0] ** 2, abs=1e-9)


def test_a_mean_with_cuped_equals_the_comparison_of_all_rows() -> None:
    """`compare` on every unit and `compare_statistics` on the sums give one answer."""
    from labs.lab6_online_eval.significance import compare

    control, treatment = rows(8), rows(9, 250, shift=0.2)
    arms = [SufficientStatistics.of(("y", "x"), part) for part in (control, treatment)]
    found = sufficient_statistics.compare_statistics(*arms, Columns("y", covariate="x"))
    expected = compare(
        control[:, 0], treatment[:, 0],
        control_covariate=control[:, 1], treatment_covariate=treatment[:, 1],
    )  # fmt: skip
    assert found.effect == pytest.approx(expected.effect, abs=1e-9)
    assert found.ci95 == pytest.approx(expected.ci95, abs=1e-9)
    assert found.variance_reduction == pytest.approx(expected.variance_reduction, abs=1e-9)


def test_bad_tables_are_refused(tmp_path: Path) -> None:
    """Missing values, values that are no numbers, arms that do not exist, an empty arm."""
    table = units(0, 200)
    clean = write(tmp_path / "clean.parquet", table)
    with pytest.raises(ValueError, match="arm = 1 must be from 0 to 0"):
        sufficient_statistics.scan(clean, [SHARE], arms=1)
    three = sufficient_statistics.scan(clean, [SHARE], arms=3)
    with pytest.raises(ValueError, match="units in treatment = 0 must be at least 2"):
        sufficient_statistics.compare_statistics(three[0], three[2], SHARE)
    holes = [None if i == 7 else v for i, v in enumerate(table["revenue"].tolist())]
    with pytest.raises(ValueError, match=r"missing values of revenue in arm \d = 1 must be 0"):
        sufficient_statistics.scan(
            write(tmp_path / "h.parquet", table | {"revenue": holes}), [MEAN]
        )
    table["revenue"][5] = np.inf
    found = sufficient_statistics.scan(write(tmp_path / "inf.parquet", table), [MEAN, SHARE])
    with pytest.raises(ValueError, match=r"sums of revenue in .* that are not finite"):
        sufficient_statistics.compare_statistics(*found, MEAN)
    assert np.isfinite(sufficient_statistics.compare_statistics(*found, SHARE).p)


def test_a_ratio_over_nothing_is_refused() -> None:
    """No session in an arm: there is no click rate, and no p-value of one."""
    matrix = np.column_stack([np.arange(5.0), np.zeros(5)])
    arm = SufficientStatistics.of(("clicks", "sessions"), matrix)
    with pytest.raises(ValueError, match=r"mean of sessions in control = 0\.0 must not be 0"):
        sufficient_statistics.compare_statistics(arm, arm, Columns("clicks", "sessions"))
