"""Exercise 6.7: the surrogate index, its standard error, and how it fails."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import InputError
from labs.lab6_online_eval import surrogate_index


def draw(seed: int, n: int = 300, n_history: int = 500, uneven: float = 1.0):
    """Correlated surrogates far from 0, and an outcome whose noise grows with the first."""
    rng = np.random.default_rng(seed)
    mix = np.array([[1.0, 0.8], [0.0, 0.6]])
    control, treatment, history = (
        rng.standard_normal((size, 2)) @ mix + [5.0, 3.0] for size in (n, n + 40, n_history)
    )
    treatment += np.array([0.3, -0.1])
    noise = rng.standard_normal(n_history) * (1 + uneven * np.abs(history[:, 0] - 5.0))
    outcome = 7.0 + history @ [1.5, -1.0] + noise
    return control, treatment, history, outcome


@pytest.mark.exercise("6.7")
def test_an_outcome_without_noise_gives_the_effect_of_its_formula() -> None:
    """With y = 7 + 1.5 s1 - s2 the effect is 1.5 d1 - d2, d being the differences of the means.

    The surrogates are correlated, so regressions on one at a time count what they share twice; and
    they are far from 0, so a regression without a constant bends to reach the origin.
    """
    control, treatment, history, _ = draw(0)
    found = surrogate_index.surrogate_index(control, treatment, history, 7 + history @ [1.5, -1.0])
    expected = float((treatment.mean(axis=0) - control.mean(axis=0)) @ [1.5, -1.0])
    assert found.effect == pytest.approx(expected, abs=1e-9), (
        f"expected an effect of {expected}, got {found.effect}"
    )
    assert found.coefficients == pytest.approx([1.5, -1.0]), (
        f"expected the coefficients 1.5 and -1, got {found.coefficients}"
    )
    assert found.r2 == pytest.approx(1.0), f"expected an R2 of 1, got {found.r2}"


@pytest.mark.exercise("6.7")
def test_the_standard_error_has_both_parts() -> None:
    """The experiment's units and the estimated coefficients, by the formula of the docstring.

    The history is not infinite. Without its part the interval is too narrow, and the more so the
    larger the effect is.
    """
    control, treatment, history, outcome = draw(1)
    found = surrogate_index.surrogate_index(control, treatment, history, outcome)
    design = np.column_stack([np.ones(len(history)), history])
    solution = np.linalg.lstsq(design, outcome, rcond=None)[0]
    bread = np.linalg.pinv(design)
    meat = (bread * (outcome - design @ solution) ** 2) @ bread.T
    apart = treatment.mean(axis=0) - control.mean(axis=0)
    from_history = float(np.sqrt(apart @ meat[1:, 1:] @ apart))
    index = [arm @ solution[1:] for arm in (control, treatment)]
    from_experiment = float(np.sqrt(sum(i.var(ddof=1) / len(i) for i in index)))
    assert found.se_history == pytest.approx(from_history, rel=1e-9), (
        f"history: expected {from_history}, got {found.se_history}"
    )
    assert found.se_experiment == pytest.approx(from_experiment, rel=1e-9), (
        f"experiment: expected {from_experiment}, got {found.se_experiment}"
    )
    expected = float(np.hypot(from_history, from_experiment))
    assert found.se == pytest.approx(expected, rel=1e-9), f"expected {expected}, got {found.se}"


@pytest.mark.exercise("6.7")
def test_the_standard_error_is_the_spread_of_the_estimates() -> None:
    """Over 400 simulated experiments, each with a history of its own, within 10 %."""
    found = [surrogate_index.surrogate_index(*draw(seed, 100, 150)) for seed in range(400)]
    spread = float(np.std([one.effect for one in found], ddof=1))
    promised = float(np.sqrt(np.mean([one.se**2 for one in found])))
    assert promised == pytest.approx(spread, rel=0.1), (
        f"the estimates spread by {spread:.4f}, the standard error promises {promised:.4f}"
    )


def test_the_index_is_statsmodels_regression() -> None:
    """Coefficients and their HC0 covariance."""
    import statsmodels.api as sm

    control, treatment, history, outcome = draw(2)
    fit = sm.OLS(outcome, sm.add_constant(history)).fit(cov_type="HC0")
    found = surrogate_index.surrogate_index(control, treatment, history, outcome)
    apart = treatment.mean(axis=0) - control.mean(axis=0)
    assert found.coefficients == pytest.approx(fit.params[1:], rel=1e-9)
    assert found.r2 == pytest.approx(fit.rsquared, rel=1e-9)
    expected = float(np.sqrt(apart @ fit.cov_params()[1:, 1:] @ apart))
    assert found.se_history == pytest.approx(expected, rel=1e-9)


def test_many_experiments_at_once_are_each_one_alone() -> None:
    """The batch that validation runs is the function that is taught."""
    from labs.lab6_online_eval.methods_longterm import surrogate_batch

    drawn = [draw(seed) for seed in range(5)]
    effect, se = surrogate_batch(*(np.stack(part) for part in zip(*drawn, strict=True)))
    alone = [surrogate_index.surrogate_index(*one) for one in drawn]
    assert effect == pytest.approx([one.effect for one in alone], rel=1e-9)
    assert se == pytest.approx([one.se for one in alone], rel=1e-9)


@settings(derandomize=True, deadline=None, max_examples=30)
@given(scale=st.floats(0.01, 100), shift=st.floats(-100, 100))
def test_units_of_measurement_do_not_matter(scale: float, shift: float) -> None:
    """Clicks or kiloclicks, from any origin: the effect on the outcome is the same."""
    control, treatment, history, outcome = draw(3)
    plain = surrogate_index.surrogate_index(control, treatment, history, outcome)
    moved = [arm * scale + shift for arm in (control, treatment, history)]
    found = surrogate_index.surrogate_index(*moved, outcome)
    assert (found.effect, found.se) == pytest.approx((plain.effect, plain.se), rel=1e-5)


def test_the_index_is_right_where_surrogacy_holds_and_wrong_where_it_does_not() -> None:
    """A direct harm of .2 is invisible to it: the estimate is .15, the truth -.05."""
    holds, direct, hidden = surrogate_index.study_surrogates(repeats=80, n_history=5000)
    assert abs(holds.bias) < 4 * holds.bias_se
    assert holds.coverage > 0.87
    assert holds.se < holds.se_waiting
    assert direct.bias == pytest.approx(0.2, abs=4 * direct.bias_se)
    assert direct.coverage < 0.3
    assert hidden.bias > 4 * hidden.bias_se


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"control": np.ones((1, 2))}, "units in control"),
        ({"control": np.ones((30, 1))}, "must be the same everywhere"),
        ({"treatment": np.full((30, 2), np.nan)}, "missing values in treatment"),
        ({"history_outcome": np.ones(500)}, "variance of history_outcome"),
        ({"history_outcome": np.ones(20)}, "shape of history_outcome"),
        ({"history": np.ones((500, 2))}, "rank of the surrogates"),
        ({"control": np.ones((9, 2)), "treatment": np.ones((9, 2))}, "do the surrogates vary"),
    ],
)
def test_unusable_data_are_refused(change: dict, message: str) -> None:
    names = ("control", "treatment", "history", "history_outcome")
    data = dict(zip(names, draw(0), strict=True)) | change
    with pytest.raises(InputError, match=message):
        surrogate_index.surrogate_index(**data)
