"""The bootstrap of two arms against scipy draw by draw, and of event logs by Poisson weights."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from scipy import stats

from labs.lab6_online_eval import bootstrap
from labs.lab6_online_eval.ratio_metrics import RatioArm, compare_ratios

Rows = np.ndarray


def events(seed: int, n_units: int = 800, first: int = 0) -> tuple[Rows, Rows, Rows]:
    """Unit, clicks and sessions of each row of a log, in random order."""
    rng = np.random.default_rng(seed)
    busy = rng.gamma(1.0, 1.0, n_units)
    size = rng.poisson(3 * busy) + 1
    unit = np.repeat(np.arange(n_units), size)
    order = rng.permutation(len(unit))
    clicks = rng.poisson(0.5 * rng.gamma(1.0, 1.0, n_units)[unit]).astype(float)
    return (unit + first)[order], clicks[order], np.ones(len(unit))


@pytest.mark.parametrize("method", ["percentile", "BCa"])
@pytest.mark.parametrize(
    "statistic", [bootstrap.difference_of_means, bootstrap.relative_difference]
)
def test_it_equals_scipy_draw_by_draw(method: str, statistic: bootstrap.Statistic) -> None:
    """From the same generator: the same replicates, and the same interval to 1e-9."""
    rng = np.random.default_rng(0)
    control, treatment = rng.exponential(1, 40), rng.exponential(1.4, 60)
    its = stats.bootstrap(
        (control, treatment),
        statistic,
        n_resamples=999,
        method=method,
        rng=np.random.default_rng(7),
    )
    mine = {"percentile": bootstrap.percentile_bootstrap, "BCa": bootstrap.bca_bootstrap}[method]
    found = mine(control, treatment, statistic, n_boot=999, seed=7)
    np.testing.assert_allclose(found.replicates, its.bootstrap_distribution, atol=1e-12)
    assert found.ci95 == pytest.approx(its.confidence_interval, abs=1e-9)
    assert found.se == pytest.approx(its.standard_error, abs=1e-9)


def test_the_standard_error_is_that_of_the_formula() -> None:
    """For a mean there is one: ``sqrt(s_t^2/n_t + s_c^2/n_c)`` with n below the line."""
    rng = np.random.default_rng(1)
    control, treatment = rng.exponential(1, 300), rng.exponential(1, 200)
    found = bootstrap.percentile_bootstrap(control, treatment, n_boot=3000)
    expected = np.sqrt(control.var() / 300 + treatment.var() / 200)
    assert found.se == pytest.approx(expected, rel=0.05)
    assert found.estimate == pytest.approx(treatment.mean() - control.mean())


def test_bca_moves_a_skewed_interval_to_the_long_side() -> None:
    """The relative effect of a skewed metric in small arms: the interval moves to the right."""
    rng = np.random.default_rng(2)
    control, treatment = rng.exponential(1, 30), rng.lognormal(0, 1, 30)
    options = {"n_boot": 4000, "statistic": bootstrap.difference_of_means}
    plain = bootstrap.percentile_bootstrap(control, treatment, **options)
    better = bootstrap.bca_bootstrap(control, treatment, **options)
    assert better.ci95[0] > plain.ci95[0]
    assert better.ci95[1] > plain.ci95[1]


def test_many_metrics_share_one_set_of_draws() -> None:
    """Counts times values: the replicates of each metric, with the correlation between them."""
    rng = np.random.default_rng(3)
    values = rng.multivariate_normal([1.0, 2.0], [[1.0, 0.7], [0.7, 1.0]], 400).T
    found = bootstrap.bootstrap_means(values, n_boot=4000, seed=1)
    assert found.shape == (2, 4000)
    np.testing.assert_allclose(found.std(axis=1), values.std(axis=1) / 20, rtol=0.06)
    assert np.corrcoef(found)[0, 1] == pytest.approx(np.corrcoef(values)[0, 1], abs=0.05)
    drawn = values[:, np.random.default_rng(1).integers(0, 400, (4000, 400))[17]]
    np.testing.assert_allclose(found[:, 17], drawn.mean(axis=1))
    with pytest.raises(ValueError, match=r"shape of values = \(3,\) must be"):
        bootstrap.bootstrap_means([1.0, 2.0, 3.0])


def test_p_is_below_alpha_where_the_interval_leaves_zero_out() -> None:
    """The two sides of one statement, for effects from none to large."""
    rng = np.random.default_rng(4)
    control = rng.exponential(1, 80)
    for shift in (0.0, 0.2, 0.3, 0.4, 0.6):
        found = bootstrap.percentile_bootstrap(control, rng.exponential(1, 80) + shift)
        outside = not found.ci95[0] <= 0 <= found.ci95[1]
        assert outside == (found.p < 0.05) or abs(found.p - 0.05) < 0.003
    far = bootstrap.percentile_bootstrap(control, control + 9, n_boot=999)
    assert far.p == pytest.approx(2 / 1000)


def test_weights_are_poisson_and_depend_on_the_unit_alone() -> None:
    """Mean and variance 1, independent between replicates, the same wherever the unit is met."""
    weights = bootstrap.poisson_weights(np.arange(20_000), 50, seed=3)
    assert weights.mean() == pytest.approx(1, abs=0.005)
    assert weights.var() == pytest.approx(1, abs=0.01)
    assert (weights == 0).mean() == pytest.approx(np.exp(-1), abs=0.003)
    correlation = np.corrcoef(weights[:, :10].T) - np.eye(10)
    assert np.abs(correlation).max() < 0.03
    neighbours = np.corrcoef(weights[:-1].ravel(), weights[1:].ravel())[0, 1]
    assert abs(neighbours) < 0.005
    np.testing.assert_array_equal(bootstrap.poisson_weights([17, 4], 50, seed=3), weights[[17, 4]])
    assert (bootstrap.poisson_weights([17], 50, seed=4) != weights[17]).any()


def test_parts_of_a_log_add_up_to_the_whole() -> None:
    """A user's events lie in two files: both give the user the same weight."""
    unit, clicks, sessions = events(4)
    half = len(unit) // 2
    whole = bootstrap.poisson_sums(unit, clicks, sessions, n_boot=100)
    parts = [
        bootstrap.poisson_sums(unit[part], clicks[part], sessions[part], n_boot=100)
        for part in (slice(None, half), slice(half, None))
    ]
    together = parts[0] + parts[1]
    np.testing.assert_allclose(together.numerator, whole.numerator)
    np.testing.assert_allclose(together.denominator, whole.denominator)
    assert together.total == pytest.approx(whole.total)


def test_poisson_weights_give_the_error_of_the_delta_method() -> None:
    """Clicks a session over 800 users an arm: within 8 %. Weights by *row* give less than that."""
    logs = [events(5), events(6, first=10_000)]
    found = bootstrap.poisson_bootstrap(*(bootstrap.poisson_sums(*log) for log in logs))
    arms = []
    for unit, clicks, sessions in logs:
        code = unit - unit.min()
        arms.append(RatioArm(np.bincount(code, clicks), np.bincount(code, sessions)))
    delta = compare_ratios(*arms)
    assert found.estimate == pytest.approx(delta.effect)
    assert found.se == pytest.approx(delta.se, rel=0.08)
    by_row = bootstrap.poisson_bootstrap(
        *(bootstrap.poisson_sums(np.arange(len(u)), c, s) for u, c, s in logs)
    )
    assert by_row.se < 0.75 * delta.se


@pytest.mark.parametrize("method", [bootstrap.percentile_bootstrap, bootstrap.bca_bootstrap])
@pytest.mark.parametrize(
    ("arms", "options", "message"),
    [
        (([1.0], [1.0, 2.0]), {}, "values in control = 1 must be at least 2"),
        (([1.0, np.inf], [1.0, 2.0]), {}, "not finite = 1 must be 0"),
        (([1.0, 1.0], [2.0, 2.0]), {}, "spread of the replicates = 0.0 must be > 0"),
        (([1.0, 2.0], [1.0, 2.0]), {"n_boot": 5}, "n_boot = 5 must be at least 100"),
        (([1.0, 2.0], [1.0, 2.0]), {"alpha": 2}, "alpha = 2 must be between 0 and 1"),
    ],
)
def test_unusable_input_is_refused(
    method: object, arms: tuple, options: dict, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        method(*arms, **options)  # type: ignore[operator]


def test_a_relative_effect_around_zero_is_refused() -> None:
    """A replicate whose control has mean 0 has no relative effect."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(ValueError, match="replicates that are not finite"):
            bootstrap.percentile_bootstrap([0.0, 1.0], [1.0, 2.0], bootstrap.relative_difference)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (([0.5], [1.0], [1.0]), "type of unit = 'float64' must be an integer"),
        (([-1], [1.0], [1.0]), "smallest unit = -1 must be at least 0"),
        (([1, 2], [1.0], [1.0]), r"shape of unit = \(2,\) must be \(1,\)"),
        (([1], [np.nan], [1.0]), "not finite = 1 must be 0"),
    ],
)
def test_unusable_rows_are_refused(rows: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        bootstrap.poisson_sums(*rows)


def test_a_denominator_of_zero_is_refused() -> None:
    """A few units: in some replicate none of them comes."""
    few = bootstrap.poisson_sums([1, 2], [1.0, 0.0], [1.0, 1.0])
    with pytest.raises(ValueError, match="smallest denominator of control"):
        bootstrap.poisson_bootstrap(few, few)
