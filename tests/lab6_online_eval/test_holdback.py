"""A season's launches: the sum of the winners' estimates, its corrections, and the holdback."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm

from common.errors import InputError
from labs.lab6_online_eval.holdback import (
    holdback_se,
    season_sum,
    shrunken,
    study_holdback,
    winners_curse,
)


def test_the_winners_curse_of_known_effects_is_the_formula() -> None:
    """Launches of an effect of 1 se at 1.96 se: the excess is se phi(.96) an experiment."""
    rng = np.random.default_rng(0)
    estimates = 1.0 + rng.standard_normal(400_000)
    excess = np.where(estimates > 1.959964, estimates - 1.0, 0.0).mean()
    assert excess == pytest.approx(float(norm.pdf(0.959964)), abs=0.004)
    assert winners_curse(np.array([1.0]), np.array([1.0])) == pytest.approx(norm.pdf(0.959964))


def test_the_sum_of_the_winners_is_too_large_and_the_holdback_is_not() -> None:
    """Twice the truth with overlap; the corrections repair the choice, only the holdback both."""
    seasons = study_holdback(n_seasons=600)
    assert seasons.ratio("naive") > 1.7
    assert seasons.ratio("holdback") == pytest.approx(1.0, abs=0.03)
    assert seasons.ratio("alone") == pytest.approx(1 / 0.85)
    apart = study_holdback(n_seasons=600, overlap=0.0)
    assert apart.ratio("bayes") == pytest.approx(1.0, abs=0.1)
    assert apart.ratio("corrected") == pytest.approx(1.0, abs=0.15)
    assert apart.ratio("naive") > 1.5


def test_precise_experiments_need_no_correction() -> None:
    """Effects of many standard errors: all three sums agree."""
    effects = np.array([10.0, 20.0, 40.0, -15.0])
    found = season_sum(effects, np.ones(4))
    assert found.n_launched == 3
    assert found.naive == 70.0
    assert found.corrected == pytest.approx(70.0, abs=1e-6)
    assert found.bayes == pytest.approx(70.0, abs=0.5)


def test_without_real_effects_everything_shrinks_to_the_mean() -> None:
    """A season of A/A tests that launches its false positives is worth nothing."""
    x = np.array([2.1, -0.5, 0.3, -1.1, 0.4, -0.6, 0.2, 0.1, -0.9, 0.0])
    assert x.var(ddof=1) < 1
    assert shrunken(x, np.ones(10)) == pytest.approx(np.zeros(10), abs=1e-9)
    assert season_sum(x, np.ones(10)).naive == 2.1


def test_the_holdbacks_standard_error_is_that_of_two_groups() -> None:
    assert holdback_se(2.0, 1000, 0.1) == pytest.approx(2 * np.sqrt(1 / 100 + 1 / 900))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: season_sum(np.ones(3), np.ones(2)), "shape of se"),
        (lambda: season_sum(np.ones(0), np.ones(0)), "experiments = 0"),
        (lambda: season_sum(np.array([1, np.nan, 1]), np.ones(3)), "must be finite"),
        (lambda: season_sum(np.ones(3), np.zeros(3)), "smallest se"),
        (lambda: shrunken(np.ones(2), np.ones(2)), "at least 3"),
        (lambda: holdback_se(1.0, 100, 0.0), "share = 0"),
        (lambda: holdback_se(1.0, 10, 0.05), "at least 2 in each"),
        (lambda: study_holdback(overlap=1.0), "overlap"),
    ],
)
def test_unusable_seasons_are_refused(call, message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()
