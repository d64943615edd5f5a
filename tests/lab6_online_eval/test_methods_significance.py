"""The fixed-horizon methods pass the gate, and the three classic mistakes do not."""

from __future__ import annotations

import numpy as np
import pytest

from labs.lab6_online_eval import methods_significance as subject
from labs.lab6_online_eval.quantiles import clustered_quantile
from labs.lab6_online_eval.validation import validate

METHODS = {method.name: method for method in subject.methods()}
QUICK = ("welch", "proportion_z", "newcombe", "bootstrap_percentile")
MISTAKES = ("events_as_units", "quantile_as_independent")


@pytest.mark.parametrize("name", QUICK)
def test_a_test_for_its_metric_is_offered(name: str) -> None:
    """The quick ones here; a run of the lab tries all of them."""
    verdict = validate(METHODS[name], 2000, seed=0)
    assert verdict.offered, verdict.reasons


@pytest.mark.parametrize("name", sorted(set(METHODS) - set(QUICK) - {"ratio_of_user_means"}))
def test_the_others_work_and_are_near_the_promise(name: str) -> None:
    """200 experiments of each kind: coverage and power to a few points, nothing that is NaN."""
    method = METHODS[name]
    found = method.simulate(np.random.default_rng(1), 200, method.effect)
    covered = ((found.low <= method.effect) & (method.effect <= found.high)).mean()
    assert np.isfinite(found.p).all()
    if method.flawed:
        assert name in MISTAKES
        assert covered < 0.86, covered
        return
    assert covered > 0.89, covered
    assert method.power is not None
    assert (found.p < 0.05).mean() == pytest.approx(method.power, abs=0.12)


def test_means_of_user_ratios_are_not_biased_without_an_effect_and_are_with_one() -> None:
    """A/A experiments cannot find this mistake: both arms answer the wrong question alike."""
    method = METHODS["ratio_of_user_means"]
    verdict = validate(method, 400, seed=0)
    assert verdict.flawed
    assert not verdict.offered
    assert verdict.fpr == pytest.approx(0.05, abs=0.02)
    assert verdict.coverage < 0.93
    found = method.simulate(np.random.default_rng(2), 400, method.effect)
    assert found.effect.mean() < 0.7 * method.effect


def test_the_effect_of_that_world_is_on_the_ratio_of_sums() -> None:
    """10 million sessions: the ratio of sums rises by what was asked for."""
    rng = np.random.default_rng(0)
    sessions = 1 + rng.poisson(3 * rng.gamma(2.0, 1.0, 1_000_000))
    lift = 0.05 * 7 * (sessions - 1) / 66
    assert (sessions * lift).sum() / sessions.sum() == pytest.approx(0.05, rel=0.005)


def test_the_variance_behind_the_quantiles_promise_is_that_of_its_world() -> None:
    """From the law of the events, against the clustered estimate on 20,000 units."""
    rng = np.random.default_rng(1)
    units = 20_000
    values = rng.exponential(1.0, (units, subject.EVENTS)) + rng.exponential(1.5, (units, 1))
    unit = np.repeat(np.arange(units), subject.EVENTS)
    found = clustered_quantile(values.ravel(), unit, subject.TAIL)
    assert units * found.se**2 == pytest.approx(subject.tail_variance(), rel=0.12)
