from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kstest, multivariate_normal, norm

from common.errors import InputError
from labs.lab6_online_eval import group_sequential as gs

PROFILE = settings(derandomize=True, deadline=None, max_examples=20)


@pytest.mark.parametrize(("looks", "constant"), [(1, 1.960), (2, 2.178), (5, 2.413), (10, 2.555)])
def test_pocock_boundaries_are_the_published_ones(looks: int, constant: float) -> None:
    """Jennison & Turnbull (2000), table 2.1."""
    assert gs.pocock(looks).z == pytest.approx(np.full(looks, constant), abs=6e-4)


@pytest.mark.parametrize(("looks", "last"), [(1, 1.960), (2, 1.977), (5, 2.040), (10, 2.087)])
def test_obrien_fleming_boundaries_are_the_published_ones(looks: int, last: float) -> None:
    """Jennison & Turnbull (2000), table 2.3; the others are ``last * sqrt(K / k)``."""
    k = np.arange(1, looks + 1)
    assert gs.obrien_fleming(looks).z == pytest.approx(last * np.sqrt(looks / k), abs=2.5e-3)


def test_spending_boundaries_are_the_published_ones() -> None:
    """Lan-DeMets, O'Brien-Fleming type, five looks at two-sided .05, as every package has them."""
    found = gs.spending_boundaries([1, 2, 3, 4, 5]).z
    assert found == pytest.approx([4.877, 3.357, 2.680, 2.290, 2.031], abs=5e-4)


@pytest.mark.parametrize(
    ("plan", "published"), [(gs.pocock(5), 1.207), (gs.obrien_fleming(5), 1.026)]
)
def test_the_inflation_is_the_published_one(plan: gs.Boundaries, published: float) -> None:
    """What five looks cost at power .9: Jennison & Turnbull (2000), tables 2.2 and 2.4."""
    assert gs.inflation(plan, target=0.9) == pytest.approx(published, abs=6e-4)


def test_the_recursion_is_the_multivariate_normal_integral() -> None:
    """Three looks, unequally spaced: the probability by scipy's joint law."""
    times, z = np.array([0.2, 0.7, 1.0]), np.array([2.5, 2.2, 2.1])
    above, below = gs.crossing_probabilities(times, z)
    covariance = np.sqrt(np.minimum.outer(times, times) / np.maximum.outer(times, times))
    inside = multivariate_normal.cdf(
        z, np.zeros(3), covariance, maxpts=10**6, abseps=1e-8, releps=1e-8, lower_limit=-z
    )
    assert float((above + below).sum()) == pytest.approx(1 - float(inside), abs=1e-6)


@PROFILE
@given(gaps=st.lists(st.floats(0.05, 1.0), min_size=1, max_size=8), alpha=st.floats(0.01, 0.2))
def test_any_spacing_spends_alpha_exactly(gaps: list[float], alpha: float) -> None:
    """Looks come when they come; the error that is spent by the last one is alpha."""
    for spending in (gs.obrien_fleming_spending, gs.pocock_spending):
        plan = gs.spending_boundaries(np.cumsum(gaps), spending, alpha=alpha)
        above, below = gs.crossing_probabilities(plan.times, plan.z)
        assert (above + below).sum() == pytest.approx(alpha, abs=1e-7)
        assert (above + below).cumsum() == pytest.approx(plan.spent, abs=1e-7)


def test_past_boundaries_do_not_depend_on_later_looks() -> None:
    """The plan may bend: with the same end, a look more or less leaves what was spent unchanged."""
    few = gs.spending_boundaries([0.3, 0.6, 1.0]).z
    more = gs.spending_boundaries([0.3, 0.6, 0.8, 0.9, 1.0]).z
    assert few[:2] == pytest.approx(more[:2], abs=1e-12)


def test_power_and_mean_sample_agree_with_simulation() -> None:
    """The integrals against 40,000 random walks."""
    plan, drift = gs.pocock(4), 2.5
    rng = np.random.default_rng(5)
    scores = (rng.standard_normal((40_000, 4)) / 2).cumsum(axis=1) + drift * plan.times
    z = scores / np.sqrt(plan.times)
    crossed = np.abs(z) >= plan.z
    share = np.where(crossed.any(axis=1), plan.times[crossed.argmax(axis=1)], 1.0)
    assert gs.power(plan, drift) == pytest.approx(float(crossed.any(axis=1).mean()), abs=0.01)
    assert gs.expected_information(plan, drift) == pytest.approx(float(share.mean()), abs=0.01)


def test_futility_bounds_meet_the_upper_ones_and_spend_beta() -> None:
    """A plan that may give up: under the effect it is planned for it does so with probability
    beta, and at the end there is no third outcome."""
    plan = gs.obrien_fleming(5)
    lower, drift = gs.futility_bounds(plan, beta=0.2)
    assert lower[-1] == pytest.approx(plan.z[-1], abs=1e-6)
    assert (np.diff(lower) > 0).all()
    bounds = np.minimum(lower, plan.z - 1e-12)
    above, below = gs.crossing_probabilities(plan.times, plan.z, bounds, drift=drift)
    assert float(above.sum()) == pytest.approx(0.8, abs=1e-6)
    assert float(below.sum()) == pytest.approx(0.2, abs=1e-6)
    under_null, _ = gs.crossing_probabilities(plan.times, plan.z, bounds)
    assert float(under_null.sum()) < 0.025


def test_stagewise_p_values_are_uniform_and_agree_with_the_boundary() -> None:
    """p <= alpha exactly when a boundary was crossed, and under no effect p is uniform."""
    plan = gs.spending_boundaries([1, 2, 4, 5, 8])
    rng = np.random.default_rng(6)
    steps = np.sqrt(np.diff(plan.times, prepend=0))
    z = (rng.standard_normal((5000, 5)) * steps).cumsum(axis=1) / np.sqrt(plan.times)
    crossed = np.abs(z) >= plan.z
    look = np.where(crossed.any(axis=1), crossed.argmax(axis=1), 4)
    p = gs.stagewise_p(plan, look, z[np.arange(5000), look])
    assert ((p < 0.05) == crossed.any(axis=1)).all()
    assert kstest(p, "uniform").pvalue > 0.001


def test_one_look_is_the_plain_test() -> None:
    """The degenerate plan: everything reduces to z = 1.96 and the two-sided p."""
    plan = gs.spending_boundaries([7.0])
    assert plan.z[0] == pytest.approx(norm.isf(0.025), abs=1e-9)
    assert plan.nominal_p[0] == pytest.approx(0.05)
    p = gs.stagewise_p(plan, np.zeros(1, dtype=np.int64), np.array([-1.3]))
    assert p[0] == pytest.approx(2 * norm.sf(1.3))
    assert gs.expected_information(plan, 1.0) == 1.0


@pytest.mark.parametrize("information", [[], [0, 1], [1, 1], [2, 1], [1, float("nan")]])
def test_information_that_does_not_grow_is_refused(information: list[float]) -> None:
    """A look without new data is no look."""
    with pytest.raises(InputError, match="must be"):
        gs.spending_boundaries(information)


@pytest.mark.parametrize("look", [0, 2, 4])
def test_the_repeated_p_is_below_alpha_exactly_beyond_the_boundary(look: int) -> None:
    """At an interim look the plain p is peeking: z = 3 at the first of five is no evidence yet."""
    looks = [1, 2, 3, 4, 5]
    for alpha in (0.01, 0.05, 0.1):
        at = gs.spending_boundaries(looks, alpha=alpha).z[look]
        assert gs.repeated_p(looks, look, float(at)) == pytest.approx(alpha, rel=1e-6)
        assert gs.repeated_p(looks, look, -float(at) * 1.01) < alpha
        assert gs.repeated_p(looks, look, float(at) * 0.99) > alpha
    assert gs.repeated_p(looks, 0, 3.0) > 0.3
    assert gs.repeated_p(looks, look, 0.0) == 1.0


def test_a_stagewise_p_of_a_running_experiment_is_refused() -> None:
    """It would be the plain p of the first look: .003 where nothing was crossed."""
    plan = gs.spending_boundaries([1, 2, 3])
    with pytest.raises(InputError, match="have not ended"):
        gs.stagewise_p(plan, np.array([0]), np.array([3.0]))
    with pytest.raises(InputError, match="look"):
        gs.repeated_p([1, 2], 2, 1.0)
