"""Power by simulation: agrees with the formula where it holds, and shows where it does not."""

from __future__ import annotations

import numpy as np
import pytest

from labs.lab6_online_eval.power import Baseline, TwoArms, power_t
from labs.lab6_online_eval.simulated_power import pilot_promises, simulated_power


def test_simulation_and_formula_agree_for_counts() -> None:
    """Poisson counts, 300 and 150 units: within two points over 4,000 experiments."""
    rng = np.random.default_rng(0)
    control = rng.poisson(2.0, 20_000).astype(float)
    treatment = rng.poisson(2.35, 20_000).astype(float)
    arms = TwoArms(300, 150, control.var(), treatment.var())
    formula = power_t(float(treatment.mean() - control.mean()), arms)
    found = simulated_power(control, treatment, 300, 150, n_experiments=4000)
    assert 0.5 < formula < 0.8
    assert found.power == pytest.approx(formula, abs=0.02)
    assert found.ci95[0] < found.power < found.ci95[1]


def test_a_covariate_raises_power_by_what_the_formula_says() -> None:
    """Half of the variance is the past's: power as with twice the units."""
    rng = np.random.default_rng(1)
    past = rng.standard_normal(20_000)
    control = past + rng.standard_normal(20_000)
    treatment = control + 0.35
    options = {"n_experiments": 4000, "seed": 2}
    raw = simulated_power(control, treatment, 150, 150, **options).power
    adjusted = simulated_power(
        control, treatment, 150, 150, control_covariate=past, treatment_covariate=past, **options
    ).power
    variance = Baseline.of(control).variance
    assert raw == pytest.approx(power_t(0.35, TwoArms.of(300, variance)), abs=0.02)
    reduction = float(np.corrcoef(past, control)[0, 1] ** 2)
    left = TwoArms.of(300, variance * (1 - reduction))
    assert adjusted == pytest.approx(power_t(0.35, left), abs=0.02)
    assert adjusted > raw + 0.15


def test_without_an_effect_the_power_is_alpha() -> None:
    rng = np.random.default_rng(3)
    values = rng.standard_normal(10_000)
    found = simulated_power(values, values, 50, 80, n_experiments=4000)
    assert found.power == pytest.approx(0.05, abs=0.01)


def test_the_formula_fails_for_a_heavy_tail_of_few_units() -> None:
    """Lognormal with sigma 2, 50 units an arm, A/A: Welch finds far fewer than 5 %.

    So the t law does not hold, and no formula built on it can.
    """
    values = np.exp(2 * np.random.default_rng(4).standard_normal(100_000))
    found = simulated_power(values, values, 50, 50, n_experiments=2000)
    assert found.power < 0.035


def test_a_pilot_of_a_heavy_tail_promises_power_that_is_not_there() -> None:
    """The median pilot of 100 misses the tail; of a normal metric it keeps its promise."""
    rng = np.random.default_rng(5)
    heavy = pilot_promises(np.exp(2 * rng.standard_normal(100_000)), 0.2, n_pilots=200)
    normal = pilot_promises(10 + rng.standard_normal(100_000), 0.02, n_pilots=200)
    assert np.median(heavy.real_power) < 0.4
    assert np.median(normal.real_power) == pytest.approx(0.8, abs=0.02)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"control": [1.0, np.nan]}, "values in control that are not finite = 1"),
        ({"n_control": 1}, r"units = \(1, 10\) must be >= 2"),
        ({"n_experiments": 10}, "n_experiments = 10 must be at least 100"),
        ({"control_covariate": [1.0, 2.0]}, "must be given for both arms or for none"),
    ],
)
def test_what_cannot_be_simulated_is_refused(options: dict, message: str) -> None:
    given = {"control": [1.0, 2.0], "treatment": [1.0, 2.0], "n_control": 10, "n_treatment": 10}
    with pytest.raises(ValueError, match=message):
        simulated_power(**(given | options))


def test_a_metric_that_does_not_vary_in_an_experiment_finds_nothing() -> None:
    found = simulated_power([0.0, 0.0], [1.0, 1.0], 5, 5, n_experiments=100)
    assert found.power == 0
