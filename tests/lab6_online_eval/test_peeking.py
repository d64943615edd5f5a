from __future__ import annotations

import numpy as np
import pytest

from common.errors import InputError
from labs.lab6_online_eval import peeking
from labs.lab6_online_eval.methods_sequential import methods
from labs.lab6_online_eval.validation import validate

METHODS = (
    "confidence_sequence",
    "msprt",
    "always_valid_harm",
    "obrien_fleming",
    "pocock",
    "non_inferiority",
    "naive_peeking",
)


@pytest.fixture(scope="module")
def study() -> peeking.PeekingStudy:
    return peeking.study_peeking(looks=(1, 20), n_experiments=4000, seed=1)


@pytest.mark.parametrize(
    ("looks", "expected"), [(1, 0.050), (2, 0.083), (5, 0.142), (10, 0.193), (20, 0.248)]
)
def test_naive_false_positives_are_the_published_ones(looks: int, expected: float) -> None:
    """Armitage, McPherson & Rowe (1969): a quarter of the A/A tests "win" within 20 looks."""
    assert peeking.naive_false_positives(looks) == pytest.approx(expected, abs=6e-4)


@pytest.mark.parametrize("rule", peeking.RULES)
def test_the_integral_agrees_with_simulated_experiments(rule: str) -> None:
    """Two ways to the same false-positive rate."""
    plan = peeking.boundaries_of(rule, 10)
    z = peeking.z_statistics(np.random.default_rng(0), 20_000, plan.times, 0.0)
    _, crossed = peeking.first_crossing(z, plan.z)
    found = float(crossed.mean())
    assert found == pytest.approx(float(plan.spent[-1]), abs=0.01), f"{rule}: {found}"


def test_planned_looks_cost_less_than_any_look(study: peeking.PeekingStudy) -> None:
    """The price list: O'Brien-Fleming, Pocock, always valid; and only naive peeking is free, and
    false."""
    rows = [study.row(rule, 20) for rule in ("obrien_fleming", "pocock", "confidence_sequence")]
    prices = [row.inflation for row in rows]
    assert 1 < prices[0] < prices[1] < prices[2], f"{prices} must rise"
    assert all(row.false_positives <= 0.05 + 1e-9 for row in rows)
    assert study.row("naive_peeking", 20).false_positives > 0.2
    assert study.row("naive_peeking", 1).mean_share == 1.0


def test_the_earlier_it_stops_the_more_it_exaggerates(study: peeking.PeekingStudy) -> None:
    """The winner's curse: the estimate that stopped the experiment is among its largest."""
    exaggeration = [study.row(rule, 20).exaggeration for rule in ("obrien_fleming", "pocock")]
    once = study.row("naive_peeking", 1).exaggeration
    assert 1 < once < exaggeration[0] < exaggeration[1]


@pytest.mark.parametrize("name", METHODS)
def test_each_method_is_offered_or_found_out(name: str) -> None:
    """The gate that decides whether a method is used: 1,000 A/A experiments and 1,000 with an
    effect, 20 looks each."""
    method = next(method for method in methods() if method.name == name)
    verdict = validate(method, n=1000, seed=4)
    assert verdict.offered != method.flawed, verdict.reasons
    if method.flawed:
        assert 0.2 < verdict.fpr < 0.3


def test_no_method_is_left_out() -> None:
    """The list above is the module's."""
    assert [method.name for method in methods()] == list(METHODS)


def test_an_unknown_rule_is_named() -> None:
    """A rule that does not exist has no boundary."""
    with pytest.raises(InputError, match="rule"):
        peeking.boundaries_of("hope", 5)
