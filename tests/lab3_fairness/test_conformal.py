import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mapie.classification import SplitConformalClassifier
from sklearn.base import BaseEstimator, ClassifierMixin

from common.data import load
from common.errors import InputError
from labs.lab3_fairness import conformal
from labs.lab3_fairness.scoring import boosting, scores
from labs.lab3_fairness.tabular import compas_task


@pytest.mark.exercise("3.16")
@pytest.mark.parametrize(
    ("n", "alpha", "expected"),
    [(9, 0.1, 9), (10, 0.1, 10), (19, 0.1, 18), (100, 0.1, 91), (15, 0.2, 13), (19, 0.05, 19)],
)
def test_the_threshold_is_a_score_at_the_rank_that_counts_the_new_row(n, alpha, expected):
    """Of the scores 1 to n, the ceil((n + 1)(1 - alpha))-th, and no number between two scores.

    The new row is one of n + 1. A quantile of the n alone, or one that interpolates, covers too
    little, and much too little when a group has few calibration rows.
    """
    scores = np.random.default_rng(0).permutation(np.arange(1.0, n + 1))
    found = conformal.conformal_quantile(scores, alpha)
    assert found == expected, f"n = {n}, alpha = {alpha}: expected {expected}, got {found}"


@pytest.mark.exercise("3.16")
@pytest.mark.parametrize(("n", "alpha"), [(15, 0.2), (12, 0.1), (30, 0.1)])
def test_a_new_score_stays_below_the_threshold_as_often_as_promised(n, alpha):
    """Uniform scores, so that a threshold is its own coverage; mean of 4,000 calibration sets.

    The promise is 1 - alpha or more, and at most 1 / (n + 1) above that.
    """
    rng = np.random.default_rng(0)
    found = [min(1.0, conformal.conformal_quantile(rng.random(n), alpha)) for _ in range(4000)]
    mean, error = float(np.mean(found)), 3 * float(np.std(found)) / np.sqrt(4000)
    low, high = 1 - alpha - error, 1 - alpha + 1 / (n + 1) + error
    assert low <= mean <= high, f"coverage: expected {low:.4f} to {high:.4f}, got {mean:.4f}"


@pytest.mark.exercise("3.16")
def test_too_few_rows_promise_nothing():
    """Eight scores, alpha 0.1: the new one is the largest of nine with probability 1/9.

    No finite threshold keeps that below 0.1; the set must hold every label. The largest score would
    be a promise of 0.9 that is kept 0.889 of the time.
    """
    found = conformal.conformal_quantile(np.arange(8.0), 0.1)
    assert found == np.inf, f"8 rows, alpha = 0.1: expected inf, got {found}"


@settings(derandomize=True, deadline=None, max_examples=40)
@given(
    st.lists(st.floats(0, 1), min_size=1, max_size=60),
    st.floats(0.01, 0.99),
)
def test_at_least_the_promised_share_of_the_n_and_one_more_lies_below(values, alpha):
    threshold = conformal.conformal_quantile(values, alpha)
    below = np.sum(np.asarray(values) <= threshold) + (threshold == np.inf)
    assert below >= (len(values) + 1) * (1 - alpha) - 1e-6


def test_coverage_is_beta_binomial_over_calibration_sets():
    """100 rows promise 0.9 on average: of 50 new rows, 39 to 49 are covered in 95 % of cases."""
    rng = np.random.default_rng(0)
    law = conformal.coverage_law(100, 50, 0.1)
    covered = np.array(
        [
            np.sum(rng.random(50) <= conformal.conformal_quantile(rng.random(100), 0.1))
            for _ in range(4000)
        ]
    )
    assert covered.mean() == pytest.approx(law.mean(), abs=0.15)
    assert covered.std() == pytest.approx(law.std(), rel=0.05)
    for count in (40, 43, 45, 48):
        assert np.mean(covered <= count) == pytest.approx(law.cdf(count), abs=0.025)
    assert law.mean() / 50 == pytest.approx(91 / 101)
    assert law.interval(0.95) == (39, 49)
    with pytest.raises(InputError, match="must be >= 9"):
        conformal.coverage_law(8, 50, 0.1)


class Fixed(ClassifierMixin, BaseEstimator):
    """A fitted classifier whose features are its probabilities."""

    def __init__(self, n_labels=3):
        self.n_labels = n_labels

    def fit(self, X, y):
        return self

    def __sklearn_is_fitted__(self):
        return True

    @property
    def classes_(self):
        return np.arange(self.n_labels)

    def predict_proba(self, X):
        return np.asarray(X)

    def predict(self, X):
        return np.argmax(X, axis=1)


def made_up(n, n_labels, seed):
    rng = np.random.default_rng(seed)
    chances = rng.dirichlet(np.ones(n_labels), n)
    return chances, np.array([rng.choice(n_labels, p=row) for row in chances])


@pytest.mark.parametrize("n_labels", [2, 3, 5])
@pytest.mark.parametrize("alpha", [0.05, 0.1, 0.3])
def test_sets_are_those_of_mapie(n_labels, alpha):
    calibration, labels = made_up(203, n_labels, 0)
    test, _ = made_up(300, n_labels, 1)
    mapie = SplitConformalClassifier(Fixed(n_labels), confidence_level=1 - alpha, prefit=True)
    mapie.conformalize(calibration, labels)
    theirs = mapie.predict_set(test)[1][:, :, 0]
    ours = conformal.split_conformal(
        conformal.lac_scores(calibration), labels, conformal.lac_scores(test), alpha=alpha
    )
    np.testing.assert_array_equal(ours, theirs)


def test_adaptive_scores_are_those_of_mapie():
    chances, labels = made_up(150, 4, 0)
    mapie = SplitConformalClassifier(
        Fixed(4), confidence_level=0.9, conformity_score="aps", prefit=True, random_state=5
    )
    mapie.conformalize(chances, labels)
    uniform = np.random.RandomState(5).uniform(size=150)
    ours = conformal.of_label(conformal.aps_scores(chances, uniform), labels)
    np.testing.assert_allclose(ours, np.ravel(mapie.conformity_scores))


def test_adaptive_sets_cover_as_promised():
    calibration, labels = made_up(2000, 4, 0)
    test, truth = made_up(4000, 4, 1)
    rng = np.random.default_rng(2)
    sets = conformal.split_conformal(
        conformal.aps_scores(calibration, rng.random(2000)),
        labels,
        conformal.aps_scores(test, rng.random(4000)),
    )
    assert sets[np.arange(4000), truth].mean() == pytest.approx(0.9, abs=0.02)


def unequal(n, seed):
    """Group ``hard`` has scores that say nothing, group ``easy`` scores that say nearly all."""
    rng = np.random.default_rng(seed)
    groups = np.where(rng.random(n) < 0.3, "hard", "easy").astype(object)
    y = rng.integers(0, 2, n)
    signal = np.where(groups == "hard", 0.0, 3.0) * (2 * y - 1) + rng.normal(0, 1, n)
    return conformal.two_labels(1 / (1 + np.exp(-signal))), y, groups


def test_the_marginal_promise_hides_a_group_and_a_threshold_a_group_keeps_it():
    chances, y, groups = unequal(6000, 0)
    new, truth, there = unequal(6000, 1)
    ours, theirs = conformal.lac_scores(chances), conformal.lac_scores(new)
    marginal = conformal.coverage_by_group(conformal.split_conformal(ours, y, theirs), truth, there)
    each = conformal.coverage_by_group(
        conformal.mondrian_conformal(ours, y, groups, theirs, there), truth, there
    )
    assert marginal.loc["(all)", "coverage"] == pytest.approx(0.9, abs=0.02)
    assert marginal.loc["hard", "high"] < 0.8
    for group in ("hard", "easy"):
        assert each.loc[group, "coverage"] == pytest.approx(0.9, abs=0.025)
    assert each.loc["hard", "mean_size"] > marginal.loc["hard", "mean_size"] + 0.1


def test_mondrian_is_split_conformal_on_the_rows_of_a_group():
    chances, y, groups = unequal(300, 0)
    new, _, there = unequal(200, 1)
    ours, theirs = conformal.lac_scores(chances), conformal.lac_scores(new)
    each = conformal.mondrian_conformal(ours, y, groups, theirs, there)
    for group in ("hard", "easy"):
        own, rows = groups == group, there == group
        np.testing.assert_array_equal(
            each[rows], conformal.split_conformal(ours[own], y[own], theirs[rows])
        )


def test_a_group_with_eight_calibration_rows_gets_every_label():
    chances, y, _ = unequal(50, 0)
    groups = np.array(["few"] * 8 + ["many"] * 42, dtype=object)
    ours = conformal.lac_scores(chances)
    sets = conformal.mondrian_conformal(ours, y, groups, ours, groups)
    assert sets[:8].all()
    with pytest.raises(InputError, match="'new' has no calibration rows"):
        conformal.mondrian_conformal(ours, y, groups, ours[:1], ["new"])


def test_calibrating_on_the_rows_of_training_breaks_the_promise():
    """The model is surer of the rows it was fitted on, so the threshold is too low for new ones."""
    task = compas_task(load("compas").table("scores"))
    order = np.random.default_rng(0).permutation(len(task))
    parts = [task.rows(part) for part in np.array_split(order, 3)]
    model = boosting().fit(parts[0].features, parts[0].labels)
    own, fresh, new = (
        conformal.lac_scores(conformal.two_labels(scores(model, part.features))) for part in parts
    )
    coverage = [
        conformal.coverage_by_group(
            conformal.split_conformal(seen, part.labels, new), parts[2].labels, parts[2].groups
        ).loc["(all)", "coverage"]
        for seen, part in ((own, parts[0]), (fresh, parts[1]))
    ]
    law = conformal.coverage_law(len(fresh), len(new), 0.1)
    low, high = np.array(law.interval(0.99)) / len(new)
    assert coverage[0] < low
    assert low <= coverage[1] <= high + 0.01  # equal scores can only add


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: conformal.conformal_quantile([0.1], 1.0), "alpha = 1.0"),
        (lambda: conformal.conformal_quantile([], 0.1), "shape of scores"),
        (lambda: conformal.conformal_quantile([0.1, np.nan], 0.1), "NaN"),
        (lambda: conformal.two_labels([0.2, 1.3]), "no distribution"),
        (lambda: conformal.lac_scores([[0.2, 0.3]]), "no distribution"),
        (lambda: conformal.lac_scores([0.2, 0.3]), "at least two labels"),
        (lambda: conformal.of_label(np.zeros((2, 2)), [0, 2]), "of 0 to 1"),
        (lambda: conformal.aps_scores([[0.5, 0.5]], [0.1, 0.2]), "shape of uniform"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(InputError, match=message):
        call()


def test_a_score_that_is_missing_is_an_error_and_not_a_label_ruled_out():
    """NaN <= threshold is false: the label would leave the set, as if it had been tested."""
    chances, y, groups = unequal(100, 0)
    ours = conformal.lac_scores(chances)
    new = ours[:4].copy()
    new[2, 1] = np.nan
    with pytest.raises(InputError, match=r"test\[2, 1\] is NaN"):
        conformal.split_conformal(ours, y, new)
    with pytest.raises(InputError, match=r"test\[2, 1\] is NaN"):
        conformal.mondrian_conformal(ours, y, groups, new, groups[:4])
    with pytest.raises(InputError, match=r"calibration\[2, 1\] is NaN"):
        conformal.split_conformal(np.concatenate([new, ours[4:]]), y, ours)


def test_test_rows_have_the_labels_of_the_calibration_rows():
    """A single column would be compared with every label's threshold."""
    chances, y, groups = unequal(100, 0)
    ours = conformal.lac_scores(chances)
    with pytest.raises(InputError, match=r"test \(4, 1\) must be \[n, 2\]"):
        conformal.split_conformal(ours, y, ours[:4, :1])
    with pytest.raises(InputError, match=r"test \(4, 1\) must be \[n, 2\]"):
        conformal.mondrian_conformal(ours, y, groups, ours[:4, :1], groups[:4])


@pytest.mark.parametrize("missing", [None, np.nan])
def test_a_new_row_without_a_group_has_no_threshold(missing):
    chances, y, groups = unequal(100, 0)
    ours = conformal.lac_scores(chances)
    there = groups[:3].copy()
    there[1] = missing
    with pytest.raises(InputError, match=r"test_groups\[1\] is missing"):
        conformal.mondrian_conformal(ours, y, groups, ours[:3], there)
