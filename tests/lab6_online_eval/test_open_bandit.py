"""Open Bandit's known answers, the policy that it evaluates, and the study over it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from common.data import load
from labs.lab6_online_eval import off_policy, open_bandit
from labs.lab6_online_eval.open_bandit import Log, read_log, read_prior, thompson_probabilities
from labs.lab6_online_eval.open_bandit_study import Direction, evaluate, event_coverage
from labs.lab6_online_eval.reward_model import cross_fitted


@pytest.fixture(scope="module")
def logs() -> dict[tuple[str, str], Log]:
    dataset = load("open-bandit")
    names = [(p, c) for p in open_bandit.POLICIES for c in open_bandit.CAMPAIGNS]
    return {name: read_log(dataset, *name) for name in names}


@pytest.fixture(scope="module")
def women_reverse(logs: dict[tuple[str, str], Log]) -> Direction:
    log, judge = logs["bts", "women"], logs["random", "women"]
    return evaluate(log, open_bandit.uniform_probabilities(log.n_actions), judge, n_boot=100)


def test_the_clicks_of_the_six_logs_are_the_published_ones(
    logs: dict[tuple[str, str], Log],
) -> None:
    """All 38 and 42, Men 46 and 69, Women 46 and 46, random and BTS."""
    clicks = {name: log.clicks for name, log in logs.items()}
    assert [clicks["random", c] for c in open_bandit.CAMPAIGNS] == [38, 46, 46]
    assert [clicks["bts", c] for c in open_bandit.CAMPAIGNS] == [42, 69, 46]
    assert {log.n for log in logs.values()} == {10_000}


def test_ipw_of_bts_from_random_is_the_known_answer(logs: dict[tuple[str, str], Log]) -> None:
    """.00457 with simulated action probabilities; .004563 with the integral they approximate.

    The simulation of 100,000 draws has a standard error of .00002 of its own, which the known
    answer contains: the integral is the value that all such simulations scatter about.
    """
    log = logs["random", "all"]
    prior = read_prior(load("open-bandit"), "all")

    def value(probabilities: np.ndarray) -> float:
        chosen = probabilities[log.action, log.position]
        weights = off_policy.importance_weights(log.propensity, chosen)
        return float(off_policy.ipw(log.reward, weights).mean())

    simulated = value(open_bandit.simulated_probabilities(*prior, 100_000, 0))
    assert round(simulated, 5) == 0.00457, f"expected .00457, got {simulated}"
    exact = value(thompson_probabilities(*prior))
    assert exact == pytest.approx(0.00456274, abs=5e-9)
    assert abs(simulated - exact) < 3 * 1.84e-5


@pytest.mark.parametrize(
    ("campaign", "ess"), [("all", 340.378), ("men", 655.710), ("women", 2.0778)]
)
def test_the_reverse_direction_has_the_known_effective_sample_size(
    logs: dict[tuple[str, str], Log], campaign: str, ess: float
) -> None:
    """340, 656 and 2.1 of 10,000 rows; the largest weight, for Women, is 21,739."""
    log = logs["bts", campaign]
    target = np.full(log.n, 1 / log.n_actions)
    weights = off_policy.importance_weights(log.propensity, target)
    assert off_policy.effective_sample_size(weights) == pytest.approx(ess, abs=1e-3)
    if campaign == "women":
        assert weights.max() == pytest.approx(21_739.13, abs=0.01)


def test_probabilities_by_integral_agree_with_simulation_and_with_symmetry() -> None:
    """Equal arms share every place; unequal ones agree with 200,000 draws."""
    equal = thompson_probabilities(np.full(5, 2.0), np.full(5, 7.0))
    assert equal == pytest.approx(np.full((5, 3), 0.2), abs=1e-9)
    a, b = np.array([1.0, 5.0, 40.0, 3.0]), np.array([9.0, 20.0, 200.0, 3.0])
    found = thompson_probabilities(a, b)
    assert found.sum(axis=0) == pytest.approx(np.ones(3))
    simulated = open_bandit.simulated_probabilities(a, b, 200_000, 0)
    assert found == pytest.approx(simulated, abs=0.005)


def test_no_row_helps_to_predict_itself(logs: dict[tuple[str, str], Log]) -> None:
    """Cross-fitting: a row's prediction is the same whatever its own click was."""
    log = logs["random", "men"]
    first = cross_fitted(log)
    reward = log.reward.copy()
    fold = np.arange(log.n) % 3 == 0
    reward[fold] = np.random.default_rng(0).permutation(reward[fold])
    second = cross_fitted(replace(log, reward=reward))
    assert first.shape == (log.n, 34)
    assert np.array_equal(first[fold], second[fold])
    assert not np.array_equal(first[~fold], second[~fold])
    assert first.mean() == pytest.approx(log.reward.mean(), rel=0.15)


def test_women_in_the_reverse_direction_is_refused_and_says_why(women_reverse: Direction) -> None:
    """Two effective rows of 10,000. Without the refusal doubly robust would say -3.2 per 1,000."""
    assert women_reverse.refused == "effective sample size 2.1 rows; at least 100"
    for each in women_reverse.estimates:
        assert each.refused is not None, each
    assert women_reverse.estimate("doubly_robust").value < 0
    low, high = women_reverse.truth_ci
    assert low < women_reverse.truth == 0.0046 < high
    assert women_reverse.relative_error("ipw") == pytest.approx(0.617, abs=1e-3)
    assert women_reverse.ipw_gamma[1] > 1, "the honest interval says that nothing is known"


def test_a_model_fitted_to_bts_choices_is_contradicted_by_its_own_log(
    logs: dict[tuple[str, str], Log],
) -> None:
    """Men, random from BTS: the direct method says 6.6, random itself has 4.6 clicks per 1,000.

    BTS showed what was clicked; the model takes that level for everybody. The weights know better.
    """
    log, judge = logs["bts", "men"], logs["random", "men"]
    uniform = open_bandit.uniform_probabilities(log.n_actions)
    found = evaluate(log, uniform, judge, n_boot=100)
    direct, robust = found.estimate("direct"), found.estimate("doubly_robust")
    assert found.refused is None
    assert "outside the doubly robust interval" in str(direct.refused)
    assert direct.low > found.truth_ci[1]
    assert robust.low < found.truth < robust.high


def test_the_normal_interval_fails_with_few_clicks_and_the_gamma_interval_does_not(
    logs: dict[tuple[str, str], Log],
) -> None:
    """Below ten effective clicks four in five hold the truth; that is why they are refused."""
    probabilities = thompson_probabilities(*read_prior(load("open-bandit"), "all"))
    few, many = event_coverage(
        probabilities, logs["random", "all"], 1000, 0, sizes=(10_000, 160_000)
    )
    assert few.events < 10 < many.events
    assert few.coverage < 0.87, few
    assert 0.92 < many.coverage < 0.965, many
    assert few.gamma > 0.95, few
    assert many.gamma > 0.945, many


def test_bad_logs_are_refused(logs: dict[tuple[str, str], Log]) -> None:
    log = logs["random", "men"]
    wrong = log.propensity.copy()
    wrong[0] = 0.0
    with pytest.raises(ValueError, match=r"propensities outside \(0, 1\] = 1"):
        open_bandit.checked_log(replace(log, propensity=wrong))
    with pytest.raises(ValueError, match="actions outside 0 to 33"):
        open_bandit.checked_log(replace(log, action=log.action + 1))
    with pytest.raises(ValueError, match="rewards other than 0 and 1"):
        open_bandit.checked_log(replace(log, reward=log.reward - 1))
    with pytest.raises(ValueError, match="campaign = 'children'"):
        read_log(load("open-bandit"), "bts", "children")
    with pytest.raises(ValueError, match="parameters that are not above 0 = 1"):
        thompson_probabilities([1, 1, 0], [1, 1, 1])
    with pytest.raises(ValueError, match="clicks to fit on = 0"):
        cross_fitted(replace(log, reward=np.zeros(log.n)))
