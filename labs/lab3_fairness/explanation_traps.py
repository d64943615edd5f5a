"""Silent failures of explanations and of promises about everybody together; ``traps`` runs them."""

from __future__ import annotations

from common.data import load
from common.traps import Trap


def the_masker_keeps_a_hundred_rows() -> Trap:
    """shap.maskers.Independent: the background that was given, and the one that is used."""
    import numpy as np
    import shap

    from labs.lab3_fairness.scoring import logistic_regression
    from labs.lab3_fairness.tabular import adult_task

    task = adult_task(load("adult").table("train"))
    model = logistic_regression(0).fit(task.features, task.labels)
    x = model[0].transform(task.features).toarray()
    regression = (model[-1].coef_[0], model[-1].intercept_[0])
    silent = shap.maskers.Independent(x)
    whole = shap.maskers.Independent(x, max_samples=len(x))
    credits = [
        np.asarray(shap.LinearExplainer(regression, masker).shap_values(x[:1]))[0]
        for masker in (silent, whole)
    ]
    moved = int(np.argmax(np.abs(credits[0] - credits[1])))
    name = model[0].get_feature_names_out()[moved].partition("__")[2]
    return Trap(
        "A background of 32,561 rows, of which 100 are used",
        wrong=(
            f"credit of {name}, first row, Independent(x): {len(silent.data)} rows",
            float(credits[0][moved]),
        ),
        right=(
            f"the same with max_samples=len(x): {len(whole.data):,} rows",
            float(credits[1][moved]),
        ),
        why="maskers.Independent subsamples to max_samples=100 and says nothing. Every credit is "
        "relative to the background's mean, and the mean of 100 rows of a skewed column is another "
        "one. TreeExplainer and Explainer wrap a plain array in the same masker.",
    )


def an_explained_model_can_know_that_it_is_explained() -> Trap:
    """The scaffolding attack on COMPAS: the explainer's verdict beside the group metric's."""
    from labs.lab3_fairness.scaffolding import fooling_experiment
    from labs.lab3_fairness.tabular import compas_task

    result = fooling_experiment(
        compas_task(load("compas").table("scores")), n_rows=30, n_samples=200, n_boot=100
    )
    name = "SHAP, k-means"
    fooled, gap = result.top(name, "scaffold"), result.outcomes[f"scaffold, {name}"].dp_diff
    return Trap(
        "The explanation says: a random column",
        wrong=("share of people whose top feature by Kernel SHAP is race", fooled.race),
        right=("demographic parity difference by race, real people", gap),
        why=f"The model decides by race for {result.obeyed[name]:.1%} of real people. Kernel "
        "SHAP asks about mixed rows; a forest recognises them, and they are answered by a coin "
        f"toss column ({fooled.unrelated:.0%} top). Count decisions about real people first. With "
        "real rows as background race is on top for "
        f"{result.top('SHAP, real rows', 'scaffold').race:.0%}, with conditional values for "
        f"{result.top('conditional', 'scaffold').race:.0%}.",
    )


def attention_looks_away_from_what_decides() -> Trap:
    """A transformer whose label is one column, trained to keep its attention off that column."""
    from labs.lab3_fairness.attention_study import planted_attention

    result = planted_attention(0.3)
    place = result.columns.index("group")
    return Trap(
        "The model hardly looks at the group",
        wrong=("last-layer attention of CLS to group, mean", float(result.attention[place])),
        right=("share of group in the effect of ablation", float(result.shares["ablation"][place])),
        why="The label is the group, nothing else in the rows says anything, and the model is "
        f"right for {result.accuracy:.0%} of fresh rows. A penalty on attention to the group cost "
        "nothing: in the first layer the other tokens copy it, and CLS reads it from them. Rollout "
        f"gives the group {result.shares['attention rollout'][place]:.0%}. Attention weights say "
        "where a layer reads, not which column the information came from. Replace the column and "
        "ask again.",
    )


def coverage_is_a_promise_about_everybody_together() -> Trap:
    """Adult: split conformal sets that hold the truth for 90 % of all."""
    from labs.lab3_fairness.calibration_study import cover_adult
    from labs.lab3_fairness.scoring import boosting

    adult = load("adult")
    result = cover_adult(adult.table("train"), adult.table("test"), boosting)
    sizes = result.mondrian["several"]
    return Trap(
        "90 % coverage",
        wrong=("coverage of all test rows", float(result.marginal["coverage"]["(all)"])),
        right=("coverage of the men among them", float(result.marginal["coverage"]["Male"])),
        why="The guarantee is an average over people, and women, whose incomes are easier to "
        "predict, are covered more. A threshold for each sex keeps the promise for both "
        f"({result.mondrian['coverage']['Male']:.3f} of men), and shows its price: no decision "
        f"for {sizes['Male']:.1%} of men in place of {result.marginal['several']['Male']:.1%}.",
    )


TRAPS = (
    the_masker_keeps_a_hundred_rows,
    an_explained_model_can_know_that_it_is_explained,
    attention_looks_away_from_what_decides,
    coverage_is_a_promise_about_everybody_together,
)
