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
from labs.lab3_fairness.explanation_traps import TRAPS as MODEL_TRAPS
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


def fair_margins_hide_an_intersection() -> Trap:
    """Equal selection by sex and by age, and two intersections selected at half the rate."""
    import pandas as pd

    from labs.lab3_fairness.intersections import intersect
    from labs.lab3_fairness.resampling import gap
    from labs.lab3_fairness.row_metrics import evaluate_groups, group_codes, selection_rate

    rng = np.random.default_rng(0)
    table = pd.DataFrame({"sex": rng.choice(["F", "M"], 8000), "age": rng.choice(["-", "+"], 8000)})
    crossed = (table["sex"] == "F").to_numpy() == (table["age"] == "+").to_numpy()
    selected = (rng.random(8000) < np.where(crossed, 0.2, 0.4)).astype(int)

    def largest(groups: object) -> float:
        codes, names = group_codes(groups, 8000)  # type: ignore[arg-type]
        return gap(evaluate_groups(selection_rate, selected, selected, codes, len(names)))

    return Trap(
        "Fair by sex, fair by age",
        wrong=("largest difference by sex or by age", max(largest(table[c]) for c in table)),
        right=("largest difference by both", largest(intersect(table, ["sex", "age"]))),
        why="Old women and young men are selected at half the rate of the others. A margin mixes "
        "one of them with one of the others, so each looks equal. An audit column by column cannot "
        "see it; an audit of intersections can, if they are large enough.",
    )


def the_worst_slice_of_noise() -> Trap:
    """The worst of thousands of slices, when every row errs with the same probability."""
    from labs.lab3_fairness.slice_confirmation import halves
    from labs.lab3_fairness.slice_study import planted_data
    from labs.lab3_fairness.slices import search_slices

    literals, loss = planted_data(8000, lift=0.0, seed=0)
    first, second = halves(loss.counted)
    table = search_slices(literals, loss.on(first), max_literals=3)
    worst = int(table.p_value.argmin())
    inside = table.rows(worst) & second
    held_out = loss.values[inside].mean() - loss.values[second & ~inside].mean()
    return Trap(
        "The worst slice of noise",
        wrong=(f"{table.text(worst)}: excess error where it was found", float(table.effect[worst])),
        right=("the same slice on rows that did not find it", float(held_out)),
        why=f"Every row errs with probability 0.15 (synthetic), in every slice. The smallest of "
        f"{len(table):,} p-values is {table.p_value[worst]:.1e}, which is what so many tests give "
        f"by chance: {int((table.p_value <= 0.05).sum())} of them are at most 0.05. A slice chosen "
        "for its error is measured on other rows.",
    )


def the_randomised_predictor_cut_at_one_half() -> Trap:
    """Adult: a mixture that keeps equalized odds, and the majority vote of the same mixture."""
    from labs.lab3_fairness.decisions import outcome
    from labs.lab3_fairness.reductions import (
        decision_probability,
        fit_exponentiated_gradient,
        linear,
    )
    from labs.lab3_fairness.tabular import adult_task

    adult = load("adult")
    train, test = adult_task(adult.table("train")), adult_task(adult.table("test"))
    learner = linear(train, test, 0)
    model = fit_exponentiated_gradient(train, learner, constraint="eo", iterations=10)
    chance = decision_probability(model, learner.test_features)
    rule = outcome(test.labels, chance, test.groups, n_boot=100)
    cut = outcome(test.labels, (chance >= 0.5).astype(float), test.groups, n_boot=100)
    return Trap(
        "A randomised predictor cut at one half",
        wrong=("equalized odds difference of its probabilities cut at 0.5", cut.eo_diff),
        right=("equalized odds difference of the predictor", rule.eo_diff),
        why="ExponentiatedGradient returns a mixture of models, and its constraint holds for the "
        "mixture. _pmf_predict is the chance of a positive decision, 0, 1 or the weight of the "
        "models that say yes; it is not a score of the person, and the majority vote is another "
        f"rule that nobody constrained. The price of the mixture: {rule.flips:.1%} of decisions "
        "come out otherwise when the same person is asked again.",
    )


def one_gap_closed_another_opened() -> Trap:
    """Adult: thresholds for demographic parity, looked at by equalized odds."""
    from fairlearn.postprocessing import ThresholdOptimizer

    from labs.lab3_fairness.decisions import outcome
    from labs.lab3_fairness.scoring import logistic_regression
    from labs.lab3_fairness.tabular import adult_task

    adult = load("adult")
    train, test = adult_task(adult.table("train")), adult_task(adult.table("test"))
    model = logistic_regression().fit(train.features, train.labels)
    before = outcome(test.labels, model.predict(test.features), test.groups, n_boot=100)
    optimizer = ThresholdOptimizer(
        estimator=model,
        constraints="demographic_parity",
        prefit=True,
        predict_method="predict_proba",
    )
    optimizer.fit(train.features, train.labels, sensitive_features=train.groups)
    chance = optimizer._pmf_predict(test.features, sensitive_features=test.groups)[:, 1]
    after = outcome(test.labels, chance.clip(0, 1), test.groups, n_boot=100)
    return Trap(
        "One gap closed, another opened",
        wrong=("demographic parity difference after the fix", after.dp_diff),
        right=("equalized odds difference after the fix", after.eo_diff),
        why=f"Before it they were {before.dp_diff:.4f} and {before.eo_diff:.4f}. The base rates "
        "of the sexes differ (31 % and 11 %), so equal selection rates need other error rates: "
        "more women without a high income are selected and more men with one are not. A report "
        "with only the metric that was optimised calls it solved.",
    )


def the_rule_was_chosen_on_the_test_half() -> Trap:
    """Adult: a rule with equalized odds chosen on the rows that it is reported on."""
    from labs.lab3_fairness.decisions import outcome
    from labs.lab3_fairness.relaxed_odds import relaxed_odds, score_bins
    from labs.lab3_fairness.scoring import boosting, scores
    from labs.lab3_fairness.tabular import adult_task

    adult = load("adult")
    train, test = adult_task(adult.table("train")), adult_task(adult.table("test"))
    score = scores(boosting().fit(train.features, train.labels), test.features)
    rng = np.random.default_rng(0)
    promised, kept, eo = [], [], []
    for _ in range(20):
        order = rng.permutation(len(test))
        first, second = np.array_split(order, 2)
        bins = score_bins(score[first], test.labels[first], test.groups[first], n_bins=400)
        rule = relaxed_odds(bins, eo_bound=0.0)
        positive = rule.positive(score[second], test.groups[second])
        other = outcome(test.labels[second], positive, test.groups[second], n_boot=1)
        promised.append(rule.accuracy)
        kept.append(other.accuracy)
        eo.append(other.eo_diff)
    return Trap(
        "A rule chosen on the test half",
        wrong=("accuracy at an equalized odds difference of 0, where chosen", np.mean(promised)),
        right=("accuracy of the same rules on other rows", np.mean(kept)),
        why="The linear programme picks the bins that happen to hold many positives, and two rates "
        "that happen to be equal. On rows that had no say (half of the test half, 20 splits) the "
        f"equalized odds difference is {np.mean(eo):.3f}, not 0. The more bins, the larger the "
        "winner's curse: choose on validation rows, and keep the rule monotone.",
    )


TRAPS = (
    the_gap_is_never_zero,
    the_four_fifths_rule_fails_on_nothing,
    fair_margins_hide_an_intersection,
    dropping_sex_leaves_the_gap,
    the_worst_slice_of_noise,
    one_gap_closed_another_opened,
    the_randomised_predictor_cut_at_one_half,
    the_rule_was_chosen_on_the_test_half,
    *MODEL_TRAPS,
)

if __name__ == "__main__":
    show(TRAPS)
