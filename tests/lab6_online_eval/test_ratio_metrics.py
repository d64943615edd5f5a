"""Exercise 6.10, and ratios against tea-tasting, from rows and from sums."""

from __future__ import annotations

import numpy as np
import pytest

from labs.lab6_online_eval import ratio_metrics
from labs.lab6_online_eval.ratio_metrics import RatioArm, RatioSums

Rows = np.ndarray


def arm(seed: int, n: int = 400, lift: float = 0.0) -> tuple[Rows, Rows, Rows, Rows]:
    """Clicks, sessions, and both before, float [n]; busy users also click more."""
    rng = np.random.default_rng(seed)
    busy = rng.gamma(1.0, 1.0, n)
    rate = 0.2 + 0.1 * busy + lift
    sessions, before = rng.poisson(3 * busy) + 1.0, rng.poisson(3 * busy) + 1.0
    return rng.poisson(sessions * rate) * 1.0, sessions, rng.poisson(before * rate) * 1.0, before


@pytest.mark.exercise("6.10")
def test_the_ratio_is_that_of_the_sums() -> None:
    """1 click in 1 session, 0 in 9: 0.1 clicks a session. The mean of the users' ratios is 0.5."""
    found = ratio_metrics.ratio_moments(np.array([1.0, 0.0]), np.array([1.0, 9.0]))
    assert found.n == 2, f"expected 2 units, got {found.n}"
    assert found.mean == pytest.approx(0.1), f"expected a ratio of 0.1, got {found.mean}"


@pytest.mark.exercise("6.10")
def test_the_variance_is_that_of_the_linearised_unit() -> None:
    """Each user contributes ``(a - R b) / mean(b)`` to the ratio; its variance is the answer.

    Every user's clicks rise with the sessions, so the covariance takes most of the variance of the
    numerator away.
    """
    clicks, sessions, _, _ = arm(0)
    ratio = clicks.sum() / sessions.sum()
    expected = ((clicks - ratio * sessions) / sessions.mean()).var(ddof=1)
    found = ratio_metrics.ratio_moments(clicks, sessions).variance
    assert found == pytest.approx(expected, rel=1e-9), f"expected {expected:.6f}, got {found:.6f}"


@pytest.mark.exercise("6.10")
def test_a_ratio_that_is_the_same_for_all_does_not_vary() -> None:
    """Two clicks in every session, however many sessions: the ratio is 2 in every sample.

    Only with all three terms does the variance vanish.
    """
    sessions = np.array([1.0, 2.0, 3.0, 10.0])
    found = ratio_metrics.ratio_moments(2 * sessions, sessions).variance
    assert found == pytest.approx(0.0, abs=1e-12), f"expected a variance of 0, got {found:.6f}"


@pytest.mark.exercise("6.10")
def test_its_standard_error_is_the_spread_of_repeated_samples() -> None:
    """2,000 samples of 200 users: the ratios spread by what the formula says, within 5 %."""
    rng = np.random.default_rng(1)
    busy = rng.gamma(1.0, 1.0, (2000, 200))
    sessions = rng.poisson(3 * busy) + 1.0
    clicks = rng.poisson(sessions * (0.2 + 0.1 * busy)) * 1.0
    spread = (clicks.sum(axis=1) / sessions.sum(axis=1)).std()
    each = [ratio_metrics.ratio_moments(*pair) for pair in zip(clicks[:200], sessions[:200])]
    found = np.mean([np.sqrt(moments.variance / moments.n) for moments in each])
    assert found == pytest.approx(spread, rel=0.05), f"spread {spread:.5f}, formula {found:.5f}"


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("covariates", [False, True])
def test_it_equals_tea_tasting(seed: int, covariates: bool) -> None:
    """RatioOfMeans with and without CUPED: effect, interval and p to 1e-9."""
    import pandas as pd
    import tea_tasting as tt

    arms = [arm(10 + 2 * seed, 300), arm(11 + 2 * seed, 500, lift=0.03)]
    data = pd.DataFrame(np.vstack([np.column_stack(each) for each in arms]), columns=list("abcd"))
    data["arm"] = [0] * 300 + [1] * 500
    metric = tt.RatioOfMeans(*"abcd") if covariates else tt.RatioOfMeans(*"ab")
    its = tt.Experiment({"m": metric}, variant="arm").analyze(data)["m"]
    mine = ratio_metrics.compare_ratios(
        *(RatioArm(*each[: 4 if covariates else 2]) for each in arms)
    )
    assert mine.effect == pytest.approx(its.effect_size, abs=1e-9)
    assert mine.p == pytest.approx(its.pvalue, abs=1e-9)
    assert mine.ci95 == pytest.approx(
        (its.effect_size_ci_lower, its.effect_size_ci_upper), abs=1e-9
    )
    assert (mine.variance_reduction > 0) == covariates


@pytest.mark.parametrize("k", [2, 4])
def test_sums_give_the_same_as_rows(k: int) -> None:
    """A query that returns means and covariances is enough."""
    arms = [arm(20)[:k], arm(21, 600)[:k]]
    rows = ratio_metrics.compare_ratios(*(RatioArm(*each) for each in arms))
    sums = ratio_metrics.compare_ratio_sums(
        *(RatioSums(len(e[0]), np.mean(e, axis=1), np.cov(e)) for e in arms)
    )
    for name in ("effect", "p", "se", "relative", "relative_p", "variance_reduction"):
        assert getattr(sums, name) == pytest.approx(getattr(rows, name), abs=1e-12), name


def test_a_unit_without_sessions_counts() -> None:
    """It adds nothing to either sum; the ratio stays, and the linearised unit at 0 is a unit."""
    clicks, sessions, _, _ = arm(30)
    more = ratio_metrics.ratio_moments(np.append(clicks, 0.0), np.append(sessions, 0.0))
    plain = ratio_metrics.ratio_moments(clicks, sessions)
    assert more.mean == pytest.approx(plain.mean)
    assert more.n == plain.n + 1
    # the squared error hardly moves: residuals gain a zero
    assert more.variance / more.n == pytest.approx(plain.variance / plain.n, rel=0.01)


def test_the_mean_of_ratios_answers_another_question() -> None:
    """The treatment helps users with one session and harms busy ones: the two disagree in sign."""
    sessions = np.tile([1.0, 20.0], 200)
    rng = np.random.default_rng(0)
    control = rng.binomial(sessions.astype(int), 0.3).astype(float)
    treated = rng.binomial(sessions.astype(int), np.tile([0.5, 0.2], 200)).astype(float)
    of_sums = ratio_metrics.compare_ratios(RatioArm(control, sessions), RatioArm(treated, sessions))
    of_users = [ratio_metrics.mean_of_ratios(c, sessions).mean for c in (control, treated)]
    assert of_sums.effect < -0.05 < 0.02 < of_users[1] - of_users[0]


GOOD = RatioArm([1.0, 2.0, 0.0], [1.0, 3.0, 2.0])


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (RatioArm([1.0], [1.0]), "numerator = 1 must be at least 2"),
        (RatioArm([1.0, np.nan], [1.0, 2.0]), "not finite = 1 must be 0"),
        (RatioArm([1.0, 2.0], [1.0, 2.0, 3.0]), "length of denominator = 3 must be 2"),
        (RatioArm([1.0, 2.0], [0.0, 0.0]), "sum of the denominator = 0.0 must be > 0"),
        (RatioArm([1.0, 2.0], [-1.0, 2.0]), "smallest denominator = -1.0 must be >= 0"),
        (RatioArm([1.0, 2.0], [1.0, 2.0], [1.0, 2.0]), "one is None"),
        (RatioArm([1.0, 2.0], [1.0, 2.0], [1.0, 2.0], [1.0, 2.0]), "both arms or for none"),
        (RatioArm([1.0, 2.0], [1.0, 2.0], [1.0] * 3, [1.0] * 3), "units of the covariate = 3"),
    ],
)
def test_unusable_ratios_are_refused(bad: RatioArm, message: str) -> None:
    """Each message names the value and the limit."""
    with pytest.raises(ValueError, match=message):
        ratio_metrics.compare_ratios(GOOD, bad)


def test_sums_of_the_wrong_shape_are_refused() -> None:
    """A covariance of two columns beside four means."""
    good = RatioSums(10, [1.0, 2.0], np.eye(2))
    with pytest.raises(ValueError, match="shape of covariance"):
        ratio_metrics.compare_ratio_sums(good, RatioSums(10, [1.0] * 4, np.eye(2)))
    with pytest.raises(ValueError, match="both arms or for none"):
        ratio_metrics.compare_ratio_sums(good, RatioSums(10, [1.0] * 4, np.eye(4)))
