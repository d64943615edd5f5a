"""Exercise 6.23: difference in differences."""

from __future__ import annotations

import numpy as np
import pytest

from labs.lab6_online_eval import difference_in_differences
from labs.lab6_online_eval.causal_estimate import difference_in_means

Panel = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def panel(
    seed: int, *, units: int = 60, periods: int = 6, effect: float = 2.0, treated_level: float = 5.0
) -> Panel:
    """outcome, treated, after, unit of a long table: units differ in level, and drift slowly."""
    rng = np.random.default_rng(seed)
    unit = np.repeat(np.arange(units), periods)
    after = np.tile(np.arange(periods) >= periods // 2, units)
    treated = unit < units // 3
    level = rng.normal(0, 3, units) + treated_level * (np.arange(units) < units // 3)
    reaction = rng.normal(0, 1, units)
    outcome = level[unit] + (1.5 + reaction[unit]) * after + effect * (treated & after)
    outcome = outcome + rng.normal(0, 0.5, len(unit))
    order = rng.permutation(len(unit))
    return outcome[order], treated[order], after[order], unit[order]


@pytest.mark.exercise("6.23")
def test_a_common_trend_and_a_difference_in_level_cancel() -> None:
    """The treated start 5 higher and everybody gains 3; the treatment adds 2, and 2 is the answer.

    Treated against control afterwards gives 7; after against before among the treated gives 5.
    """
    outcome = np.array([0.0, 2.0, 3.0, 5.0, 5.0, 7.0, 10.0, 12.0])
    treated = np.array([False] * 4 + [True] * 4)
    after = np.array([False, False, True, True] * 2)
    unit = np.array([0, 1, 0, 1, 2, 3, 2, 3])
    effect, _ = difference_in_differences.did_with_clustered_error(outcome, treated, after, unit)
    assert effect == pytest.approx(2.0), f"expected the effect 2.0, got {effect}"


@pytest.mark.exercise("6.23")
def test_the_error_adds_up_a_unit_before_it_squares() -> None:
    """Against the same formula written as loops, for a panel in any order of rows.

    Rows of a unit are not independent: what they contribute to the effect is added up, with its
    sign, and then squared. Rows as units, or squares before sums, give another number.
    """
    outcome, treated, after, unit = panel(0)
    cells = {(t, p): (treated == t) & (after == p) for t in (0, 1) for p in (0, 1)}
    sums = dict.fromkeys(range(60), 0.0)
    for (t, p), rows in cells.items():
        mean, count = outcome[rows].mean(), rows.sum()
        for row in np.flatnonzero(rows):
            sign = 1 if t == p else -1
            sums[int(unit[row])] += sign * (outcome[row] - mean) / count
    n, groups = len(outcome), 60
    variance = groups / (groups - 1) * (n - 1) / (n - 4) * sum(v * v for v in sums.values())
    expected = float(np.sqrt(variance))
    _, se = difference_in_differences.did_with_clustered_error(outcome, treated, after, unit)
    assert se == pytest.approx(expected, rel=1e-9), f"expected the error {expected}, got {se}"


@pytest.mark.exercise("6.23")
def test_the_error_is_the_spread_of_the_estimate() -> None:
    """Over 300 simulated panels the mean standard error equals the estimates' own spread.

    With rows as independent units the interval has the wrong width, here by half: levels that
    cancel are counted as noise, and reactions that do not are counted as if each row had its own.
    """
    found = np.array(
        [difference_in_differences.did_with_clustered_error(*panel(seed)) for seed in range(300)]
    )
    spread, claimed = float(found[:, 0].std(ddof=1)), float(found[:, 1].mean())
    assert claimed == pytest.approx(spread, rel=0.15), f"spread {spread:.3f}, claimed {claimed:.3f}"


def test_it_is_the_interaction_of_a_regression_with_clustered_errors() -> None:
    """statsmodels gives the same effect and error to 1e-9."""
    import statsmodels.api as sm

    for seed in range(5):
        outcome, treated, after, unit = panel(seed)
        design = np.column_stack([np.ones(len(unit)), treated, after, treated & after])
        fit = sm.OLS(outcome, design).fit(cov_type="cluster", cov_kwds={"groups": unit})
        ours = difference_in_differences.difference_in_differences(outcome, treated, after, unit)
        assert ours.effect == pytest.approx(fit.params[3], rel=1e-9)
        assert ours.se == pytest.approx(fit.bse[3], rel=1e-9)


def test_with_two_periods_it_is_the_comparison_of_changes() -> None:
    """A balanced panel's effect is the difference of mean changes, its error nearly Welch's."""
    rng = np.random.default_rng(1)
    before, after = rng.normal(0, 1, (2, 500))
    treated = np.arange(500) < 200
    ours = difference_in_differences.did_of_panel(before, after, treated)
    welch = difference_in_means(after - before, treated)
    assert ours.effect == pytest.approx(welch.effect, abs=1e-12)
    assert ours.se == pytest.approx(welch.se, rel=0.01)


def test_a_trend_of_the_treated_alone_is_found_before_the_start() -> None:
    """The pre-period check sees a trend that is not parallel, and passes one that is."""
    rng = np.random.default_rng(2)
    treated = np.arange(400) < 200
    earlier = rng.normal(0, 1, 400)
    steady = earlier + 1 + rng.normal(0, 0.5, 400)
    assert difference_in_differences.parallel_trends(earlier, steady, treated).covers(0)
    drifting = steady + 0.5 * treated
    assert not difference_in_differences.parallel_trends(earlier, drifting, treated).covers(0)


def test_two_way_fixed_effects_fail_where_effects_grow_and_group_time_effects_do_not() -> None:
    """Staggered adoption: the one coefficient is not even half of the mean effect."""
    outcome, start, truth = difference_in_differences.simulate_rollout(np.random.default_rng(0))
    one = difference_in_differences.two_way_fixed_effects(outcome, start)
    mended = difference_in_differences.group_time_effects(outcome, start)
    assert one < truth / 2
    assert mended.mean == pytest.approx(truth, abs=0.2)


def test_two_way_fixed_effects_are_the_regression_with_dummies() -> None:
    """The doubly demeaned treatment gives statsmodels' coefficient to 1e-9."""
    import statsmodels.api as sm

    rng = np.random.default_rng(3)
    outcome, start, _ = difference_in_differences.simulate_rollout(rng, n_units=30)
    now = (start[:, None] >= 0) & (np.arange(12) >= start[:, None])
    units, periods = np.kron(np.eye(30), np.ones((12, 1))), np.tile(np.eye(12), (30, 1))
    design = np.column_stack([now.ravel(), units, periods[:, 1:]]).astype(float)
    expected = sm.OLS(outcome.ravel(), design).fit().params[0]
    ours = difference_in_differences.two_way_fixed_effects(outcome, start)
    assert ours == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"after": np.zeros(8, dtype=bool)}, "rows a cell"),
        ({"treated": np.array([0, 1, 0, 1, 1, 1, 1, 0], dtype=bool)}, "change their group"),
        ({"outcome": np.array([np.nan, *range(7)])}, "missing values in outcome = 1"),
        ({"unit": np.zeros(3)}, "shapes of outcome"),
    ],
)
def test_unusable_panels_are_refused(change: dict[str, np.ndarray], message: str) -> None:
    given = {
        "outcome": np.arange(8.0),
        "treated": np.arange(8) >= 4,
        "after": np.arange(8) % 2 == 1,
        "unit": np.arange(8) // 2,
    }
    with pytest.raises(ValueError, match=message):
        difference_in_differences.difference_in_differences(**(given | change))


def test_a_rollout_without_a_holdout_is_refused() -> None:
    with pytest.raises(ValueError, match="never treated units = 0"):
        difference_in_differences.group_time_effects(np.ones((4, 5)), np.array([1, 2, 3, 3]))
