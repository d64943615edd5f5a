"""Targets, rehearsals and the margin that they choose."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from common.errors import InputError
from labs.lab3_fairness import target_rules
from labs.lab3_fairness.target_rules import ScoredRows, Target


def synthetic(seed: int, n: int = 6000) -> ScoredRows:
    rng = np.random.default_rng(seed)
    groups = np.where(rng.random(n) < 0.4, "b", "a").astype(object)
    logits = rng.normal(np.where(groups == "a", -0.3, -1.2), 1.7)
    labels = (rng.random(n) < 1 / (1 + np.exp(-logits))).astype(np.int64)
    return ScoredRows(1 / (1 + np.exp(-logits)), labels, groups)


def features(rows: ScoredRows) -> pd.DataFrame:
    return pd.DataFrame({"number": np.arange(len(rows.labels))})


@pytest.mark.parametrize("decide", [target_rules.lottery, target_rules.bands, target_rules.hashed])
def test_a_rehearsal_is_judged_on_rows_that_did_not_choose(decide):
    """What was promised is kept only up to chance: gaps of 0 where chosen are not 0 elsewhere."""
    found = target_rules.rehearse(
        synthetic(0), Target("eo", eo_diff=0.05), 0.0, decide=decide, repeats=4
    )
    assert found.eo_diff.shape == (4,)
    assert (found.eo_diff > 1e-4).all()
    assert np.abs(found.promised - found.accuracy).max() < 0.05


def test_aiming_lower_reaches_the_gap_more_often_and_costs_accuracy():
    """The margin buys certainty with accuracy."""
    rows, target = synthetic(1), Target("dp", dp_diff=0.03)
    lax = target_rules.rehearse(rows, target, 1.0, repeats=20)
    strict = target_rules.rehearse(rows, target, 0.2, repeats=20)
    assert strict.reached > lax.reached
    assert strict.accuracy.mean() < lax.accuracy.mean()


def test_the_laxest_sufficient_margin_is_chosen():
    """A target that everything reaches needs no margin; one that nothing reaches gets the best."""
    rows = synthetic(2)
    easy = target_rules.choose_share(rows, Target("easy", dp_diff=0.5), repeats=3)
    assert (easy.share, easy.reached) == (1.0, 1.0)
    impossible = target_rules.choose_share(
        rows, Target("impossible", eo_diff=0.1, accuracy=0.999), repeats=3, shares=(0.5, 1.0)
    )
    assert (impossible.share, impossible.reached) == (1.0, 0.0)


def test_a_pursuit_judges_three_rules_and_only_one_tosses_coins():
    validation, test = synthetic(3), synthetic(4)
    found = target_rules.pursue(
        validation, test, features(test), Target("joint", 0.1, 0.15), repeats=3, n_boot=50
    )
    attempts = (found.programme, found.bands, found.hashed)
    assert [attempt.outcome.deterministic for attempt in attempts] == [False, True, True]
    assert [attempt.method.randomised for attempt in attempts] == [True, False, False]
    assert all(attempt.method.needs_group for attempt in attempts)
    assert len({attempt.method.name for attempt in attempts}) == 3


def test_labels_of_the_test_rows_decide_nothing():
    """Were a threshold chosen on them, other labels would give other decisions."""
    validation, test = synthetic(3), synthetic(4)
    other = ScoredRows(test.scores, 1 - test.labels, test.groups)
    found = [
        target_rules.pursue(
            validation, rows, features(rows), Target("eo", eo_diff=0.1), repeats=2, n_boot=10
        )
        for rows in (test, other)
    ]
    for kind in ("programme", "bands", "hashed"):
        first, second = (getattr(each, kind).method.positive for each in found)
        assert np.array_equal(first, second), kind


def test_a_missed_gap_has_no_accuracy():
    """Accuracy at a target that was missed is None, so that no claim can rest on it."""
    validation, test = synthetic(3), synthetic(4)
    lax, strict = (
        target_rules.pursue(
            validation, test, features(test), target, repeats=2, n_boot=10
        ).programme
        for target in (Target("lax", eo_diff=0.9), Target("strict", eo_diff=1e-7, accuracy=0.5))
    )
    assert lax.accuracy_at_target == lax.outcome.accuracy
    assert strict.accuracy_at_target is None
    assert not strict.reached


def test_a_gap_that_does_not_exist_reaches_nothing():
    nan = np.array([np.nan])
    assert not Target("eo", eo_diff=0.5).reached(np.array([0.9]), np.array([0.1]), nan).any()


def test_columns_of_different_length_and_a_bad_share_are_errors():
    rows = synthetic(0, 300)
    with pytest.raises(InputError, match="differ in rows"):
        ScoredRows(rows.scores[:5], rows.labels, rows.groups)
    with pytest.raises(InputError, match="share"):
        target_rules.programme(rows, Target("eo", eo_diff=0.1), 1.5)
