"""Silent failures of a fairness audit: a number that looks like an answer and is not.

Run them with ``python -m labs.lab3_fairness.traps [name]``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.data import load
from common.traps import Trap, show
from labs.lab3_fairness.confusion import demographic_parity_difference
from labs.lab3_fairness.resampling import gap, gap_null
from labs.lab3_fairness.row_metrics import evaluate_groups, selection_rate

GROUPS, SIZE, RATE = 8, 50, 0.3
CODES = np.repeat(np.arange(GROUPS), SIZE)


def _fair_decisions(rng: np.random.Generator) -> NDArray[np.int64]:
    """Everyone is selected with the same probability, whatever the group (synthetic)."""
    return (rng.random(len(CODES)) < RATE).astype(np.int64)


def the_gap_is_never_zero() -> Trap:
    """The max-min gap of groups that do not differ at all."""
    rng = np.random.default_rng(0)
    truth = np.zeros(len(CODES))
    gaps = [
        gap(evaluate_groups(selection_rate, truth, _fair_decisions(rng), CODES, GROUPS))
        for _ in range(2000)
    ]
    nulls = [
        gap_null(truth, _fair_decisions(rng), CODES, selection_rate, n_permutations=99, seed=seed)
        for seed in range(100)
    ]
    excess = float(np.mean([null.observed - null.mean for null in nulls]))
    return Trap(
        "A gap where there is none",
        wrong=("mean demographic parity difference, 8 equal groups of 50", float(np.mean(gaps))),
        right=("mean difference minus the mean of its permutation null", excess),
        why="The largest of eight noisy rates lies above the smallest though the truth is one "
        "rate. The permutation null says how large a gap chance gives; compare with that, not "
        "with 0.",
    )


def the_four_fifths_rule_fails_on_nothing() -> Trap:
    """The rule's verdict and the null's on data sets without any disparity."""
    rng = np.random.default_rng(0)
    truth = np.zeros(len(CODES))
    rule = null = 0
    tries = 500
    for number in range(tries):
        selected = _fair_decisions(rng)
        rates = evaluate_groups(selection_rate, truth, selected, CODES, GROUPS)
        rule += bool(rates.min() / rates.max() < 0.8)
        test = gap_null(truth, selected, CODES, selection_rate, n_permutations=199, seed=number)
        null += test.p_value <= 0.05
    return Trap(
        "Four fifths of nothing",
        wrong=("share of fair data sets that fail the four-fifths rule", rule / tries),
        right=("share that the permutation test rejects at 5 %", null / tries),
        why="The rule compares the extremes of noisy rates with a fixed bound and knows no "
        "sample size. With eight groups of 50 it fails nearly always. The test stays below 5 %: "
        "rates of 50 people come in steps of 0.02, so its p-values do too.",
    )


def dropping_sex_leaves_the_gap() -> Trap:
    """Adult: the model never sees sex, and treats the sexes as differently as one that does."""
    from sklearn.metrics import roc_auc_score

    from labs.lab3_fairness.tabular import features, fit_logistic_regression

    adult = load("adult")
    train, test = adult.table("train"), adult.table("test")

    def difference(train_table: Any, test_table: Any) -> float:
        predicted = fit_logistic_regression(train_table).predict(features(test_table))
        return demographic_parity_difference(test["income"], predicted, test["sex"])

    blind = difference(train, test)
    # Under another name the column passes features(), which removes only "sex".
    seeing = difference(train.assign(gender=train["sex"]), test.assign(gender=test["sex"]))
    guess = fit_logistic_regression(train.assign(income=(train["sex"] == "Male").astype(int)))
    auc = roc_auc_score(test["sex"] == "Male", guess.predict_proba(features(test))[:, 1])
    return Trap(
        "Fairness through unawareness",
        wrong=("what removing sex takes off the demographic parity difference", seeing - blind),
        right=("the difference that remains without the column", blind),
        why=f"The other columns give sex away: a model guesses it from them with AUC {auc:.3f} "
        "(relationship says Husband or Wife). Removing the column removes the means to measure "
        "the gap, not the gap.",
    )


TRAPS = (
    the_gap_is_never_zero,
    the_four_fifths_rule_fails_on_nothing,
    dropping_sex_leaves_the_gap,
)

if __name__ == "__main__":
    show(TRAPS)
