"""Exercise 6.25: instrumental variables."""

from __future__ import annotations

import numpy as np
import pytest

from labs.lab6_online_eval import instrumental_variables

Data = tuple[np.ndarray, np.ndarray, np.ndarray]


def encouraged(seed: int, n: int = 2000, *, effect: float = 1.0, invited: float = 0.5) -> Data:
    """outcome, received, assigned: the keen accept an invitation, and have better outcomes."""
    rng = np.random.default_rng(seed)
    keen = rng.normal(0, 1, n)
    assigned = rng.random(n) < invited
    received = assigned & (keen > 0)
    return 2 * keen + effect * received + rng.normal(0, 1, n), received, assigned


def mean_error(outcome: np.ndarray, received: np.ndarray, assigned: np.ndarray) -> float:
    """The formula of the standard error, by the delta method on the four means."""
    variance = 0.0
    dy = outcome[assigned].mean() - outcome[~assigned].mean()
    dd = received[assigned].mean() - received[~assigned].mean()
    gradient = np.array([1 / dd, -dy / dd**2])
    for arm in (assigned, ~assigned):
        v = np.cov(outcome[arm], received[arm].astype(float)) / arm.sum()
        variance += gradient @ v @ gradient
    return float(np.sqrt(variance))


@pytest.mark.exercise("6.25")
def test_the_coins_effect_is_divided_by_the_take_up() -> None:
    """Half of the invited accept and the invited gain 1 on average, so the takers gain 2.

    The takers have 7 and the others 2, but that compares people, not the treatment.
    """
    outcome = np.array([7.0, 7.0, 1.0, 1.0, 3.0, 3.0, 3.0, 3.0])
    received = np.array([True, True] + [False] * 6)
    assigned = np.array([True] * 4 + [False] * 4)
    effect, _ = instrumental_variables.wald_estimate(outcome, received, assigned)
    assert effect == pytest.approx(2.0), f"expected (4 - 3) / (1/2) = 2, got {effect}"


@pytest.mark.exercise("6.25")
def test_a_choice_that_goes_with_the_outcome_does_not_mislead() -> None:
    """The keen accept: as treated they seem to gain over 3, per protocol too. The truth is 1."""
    outcome, received, assigned = encouraged(0, 100_000)
    effect, se = instrumental_variables.wald_estimate(outcome, received, assigned)
    assert effect == pytest.approx(1.0, abs=0.12), f"expected 1, got {effect:.3f} +- {se:.3f}"


@pytest.mark.exercise("6.25")
def test_the_error_uses_the_treatment_that_was_received() -> None:
    """Against the delta method, with two thirds invited.

    The second stage's own residual (with the predicted treatment) counts what the take-up explains
    as noise, or misses how outcome and take-up move together.
    """
    data = encouraged(1, 900, effect=4.0, invited=2 / 3)
    expected = mean_error(*data)
    _, se = instrumental_variables.wald_estimate(*data)
    assert se == pytest.approx(expected, rel=1e-9), f"expected the error {expected}, got {se}"


@pytest.mark.exercise("6.25")
def test_the_error_is_the_spread_of_the_estimate() -> None:
    """400 experiments with an effect of 4: the claimed error equals the estimates' own spread."""
    found = np.array(
        [
            instrumental_variables.wald_estimate(*encouraged(seed, 1000, effect=4.0))
            for seed in range(400)
        ]
    )
    spread, claimed = float(found[:, 0].std(ddof=1)), float(found[:, 1].mean())
    assert claimed == pytest.approx(spread, rel=0.12), f"spread {spread:.4f}, claimed {claimed:.4f}"


def test_two_stages_without_covariates_are_the_wald_estimate() -> None:
    """One binary instrument: the same effect and the same error (HC2 is Welch's) to 1e-9."""
    outcome, received, assigned = encouraged(2)
    wald = instrumental_variables.wald(outcome, received, assigned)
    two = instrumental_variables.two_stage_least_squares(
        outcome, received.astype(float), assigned.astype(float)
    )
    assert two.estimate.effect == pytest.approx(wald.effect, rel=1e-9)
    assert two.estimate.se == pytest.approx(wald.se, rel=1e-9)


def test_two_stages_with_covariates_and_two_instruments_are_statsmodels() -> None:
    """statsmodels' IV2SLS gives the coefficients to 1e-9, and its residuals the clustered error."""
    from statsmodels.regression.linear_model import OLS
    from statsmodels.sandbox.regression.gmm import IV2SLS

    rng = np.random.default_rng(3)
    outcome, received, assigned = encouraged(3, 1200)
    distance = rng.normal(0, 1, (1200, 2))
    instruments = np.column_stack([assigned, assigned * rng.random(1200)])
    village = rng.integers(0, 60, 1200)
    ours = instrumental_variables.two_stage_least_squares(
        outcome, received.astype(float), instruments, distance, clusters=village
    )
    rest = np.column_stack([np.ones(1200), distance])
    design, z = np.column_stack([received, rest]), np.column_stack([instruments, rest])
    theirs = IV2SLS(outcome, design.astype(float), z).fit()
    assert ours.fit.coefficients == pytest.approx(theirs.params, rel=1e-9)
    assert ours.fit.residuals == pytest.approx(theirs.resid, abs=1e-9)
    fitted = z @ np.linalg.lstsq(z, design.astype(float), rcond=None)[0]
    clustered = OLS(fitted @ theirs.params + theirs.resid, fitted).fit(
        cov_type="cluster", cov_kwds={"groups": village}
    )
    assert ours.fit.se == pytest.approx(clustered.bse, rel=1e-8)
    first = OLS(received.astype(float), z).fit(
        cov_type="cluster", cov_kwds={"groups": village, "use_t": False}
    )
    restriction = np.eye(2, 5)
    f = float(first.wald_test(restriction, use_f=False, scalar=True).statistic) / 2
    assert ours.first_stage_f == pytest.approx(f, rel=1e-8)


@pytest.mark.usefixtures("econml")
def test_econml_finds_the_same_effect_with_the_same_residuals() -> None:
    """EconML's OrthoIV takes the other fold's mean off everything; our two stages then agree."""
    from econml.iv.dml import OrthoIV
    from sklearn.dummy import DummyRegressor

    outcome, received, assigned = encouraged(4, 1000)
    half = np.arange(1000) < 500
    folds = [
        (np.flatnonzero(half), np.flatnonzero(~half)),
        (np.flatnonzero(~half), np.flatnonzero(half)),
    ]
    theirs = OrthoIV(
        model_y_xw=DummyRegressor(),
        model_t_xw=DummyRegressor(),
        model_z_xw=DummyRegressor(),
        cv=folds,
    ).fit(outcome, received.astype(float), Z=assigned.astype(float), W=np.ones((1000, 1)))
    columns = [
        column - np.where(half, column[~half].mean(), column[half].mean())
        for column in (outcome, received.astype(float), assigned.astype(float))
    ]
    ours = instrumental_variables.two_stage_least_squares(*columns)
    expected = float(np.ravel(theirs.const_marginal_effect())[0])
    assert ours.estimate.effect == pytest.approx(expected, rel=1e-9)


def test_the_anderson_rubin_set_is_what_a_grid_of_tests_keeps() -> None:
    """Every effect in the set is one at which the coin's arms do not differ, and no other."""
    for seed, n in ((5, 500), (6, 60), (7, 30)):
        outcome, received, assigned = encouraged(seed, n)
        found = instrumental_variables.anderson_rubin(outcome, received, assigned)
        for b in np.linspace(-20, 20, 400):
            u = outcome - b * received
            parts = [u[arm].var(ddof=1) / arm.sum() for arm in (assigned, ~assigned)]
            difference = u[assigned].mean() - u[~assigned].mean()
            kept = difference**2 <= 1.959963984540054**2 * sum(parts)
            assert found.covers(b) == kept, (seed, b, found)


def test_a_weak_instrument_has_no_normal_interval_but_an_unbounded_set() -> None:
    """3 % take-up of 80: `wald` refuses by its F, and the honest set has no end."""
    rng = np.random.default_rng(8)
    assigned = np.arange(160) < 80
    received = assigned & (np.arange(160) % 40 == 0)
    outcome = rng.normal(0, 1, 160)
    with pytest.raises(ValueError, match="first-stage F"):
        instrumental_variables.wald(outcome, received, assigned)
    assert not instrumental_variables.anderson_rubin(outcome, received, assigned).bounded


def test_a_coin_that_moves_nobody_is_refused() -> None:
    outcome, _, assigned = encouraged(9, 100)
    with pytest.raises(ValueError, match=r"first-stage F = 0\.0"):
        instrumental_variables.wald(outcome, np.zeros(100), assigned)
    with pytest.raises(ValueError, match="values of received"):
        instrumental_variables.wald(outcome, np.full(100, 0.5), assigned)


def test_comparing_by_choice_is_reported_beside_and_is_wrong() -> None:
    """The analysis holds the truth; as treated and per protocol do not."""
    found = instrumental_variables.analyse_encouragement(*encouraged(10, 5000))
    assert found.one_sided
    assert found.cace.covers(1.0)
    assert found.anderson_rubin.covers(1.0)
    assert not found.as_treated.covers(1.0)
    assert not found.per_protocol.covers(1.0)
    assert found.itt.effect == pytest.approx(found.cace.effect * found.take_up.effect)
