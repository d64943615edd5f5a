import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.calibration import calibration_curve

from common.errors import InputError
from labs.lab3_fairness import calibration

TWO = np.array(["a", "b"], dtype=object)


def beside_a_group(y, scores):
    """The rows as group a, with four calibrated rows of group b to make two groups."""
    groups = np.repeat(TWO, [len(y), 4])
    return np.append(y, [0, 1, 0, 1]), np.append(scores, [0.5] * 4), groups


def errors_of_a(y, scores, n_bins):
    return calibration.calibration_errors(*beside_a_group(y, scores), n_bins=n_bins).loc["a"]


@pytest.mark.exercise("3.15")
def test_a_bin_counts_as_many_times_as_it_has_rows():
    """Nine rows at 0.2, none positive, three at 0.8, all positive, ten at 0.3, three positive.

    The first two bins are 0.2 off, the third is right: 12 / 22 of 0.2. The mean over bins would be
    2 / 3 of 0.2; there, a bin of two rows weighs like one of ninety.
    """
    y = np.array([0] * 9 + [1] * 3 + [1] * 3 + [0] * 7)
    scores = np.array([0.2] * 9 + [0.8] * 3 + [0.3] * 10)
    found = errors_of_a(y, scores, n_bins=4)
    assert found["n"] == 22, f"rows of a: expected 22, got {found['n']}"
    expected = (9 * 0.2 + 3 * 0.2) / 22
    assert found["ece"] == pytest.approx(expected), f"ECE: expected {expected}, got {found['ece']}"
    squared = (9 * 0.04 + 3 * 0.04) / 22
    assert found["squared"] == pytest.approx(squared), (
        f"squared error: expected {squared}, got {found['squared']}"
    )


@pytest.mark.exercise("3.15")
def test_too_high_and_too_low_do_not_cancel():
    """Half of the rows are rated 0.2 too high, half 0.2 too low: on average right, nowhere right.

    Calibration in the large is 0 here, and anybody who acts on a score is misled.
    """
    y = np.array([0, 0, 0, 0, 1] * 20 + [0, 1, 1, 1, 1] * 20)
    scores = np.array([0.4] * 100 + [0.6] * 100)
    found = errors_of_a(y, scores, n_bins=2)["ece"]
    assert found == pytest.approx(0.2), f"ECE: expected 0.2, got {found}"


@pytest.mark.exercise("3.15")
def test_a_score_is_the_chance_of_a_positive_not_the_confidence_in_the_decision():
    """At 0.1 one in five is positive, at 0.9 everybody is: both are 0.1 off.

    As confidence in the likelier label both are 0.9, with accuracy 0.8 and 1.0: on average 0.9, and
    the error is gone. A rate among people is a statement about P(Y=1).
    """
    y = np.array([0, 0, 0, 0, 1] * 10 + [1] * 50)
    scores = np.array([0.1] * 50 + [0.9] * 50)
    found = errors_of_a(y, scores, n_bins=2)["ece"]
    assert found == pytest.approx(0.1), f"ECE: expected 0.1, got {found}"


@pytest.mark.exercise("3.15")
def test_bins_follow_the_scores_of_the_group():
    """Scores of 0.02 and 0.06 are two bins, though both lie below 0.1.

    A group with a low base rate has all its scores there. In one bin of width 0.1 the errors of the
    two scores cancel.
    """
    y = np.array([1, 1] + [0] * 48 + [1] * 2 + [0] * 48)
    scores = np.array([0.02] * 50 + [0.06] * 50)
    found = errors_of_a(y, scores, n_bins=10)["ece"]
    assert found == pytest.approx(0.02), f"ECE: expected 0.02, got {found}"


@pytest.mark.exercise("3.15")
def test_a_calibrated_group_has_a_debiased_error_of_0_on_average():
    """Labels drawn from the scores themselves, 400 times, in groups of 40 and 400.

    The plug-in ECE of the small group is 0.13 on average. Without the subtraction, or with negative
    values cut off, the small group looks worse than the large one, and that is all noise.
    """
    rng = np.random.default_rng(0)
    groups = np.repeat(TWO, [40, 400])
    found = []
    for _ in range(400):
        scores = rng.uniform(0.1, 0.9, 440)
        y = (rng.random(440) < scores).astype(int)
        found.append(calibration.calibration_errors(y, scores, groups)["debiased"].to_numpy())
    means = np.mean(found, axis=0)
    limits = 4 * np.std(found, axis=0) / np.sqrt(len(found))
    for group, mean, limit in zip(TWO, means, limits):
        assert abs(mean) < limit, (
            f"mean debiased error of {group}: expected 0 ± {limit}, got {mean}"
        )


@pytest.mark.exercise("3.15")
def test_the_debiased_error_subtracts_the_variance_of_a_mean():
    """Five rows at 0.2, one positive: mean residual 0, sample variance 0.2, so 0 - 0.2 / 5.

    Five at 0.8, all positive: 0.04 - 0. The group's debiased error is the mean, 0; dividing the
    variance by n in place of n - 1 gives 0.004.
    """
    y = np.array([1, 0, 0, 0, 0] + [1] * 5)
    scores = np.array([0.2] * 5 + [0.8] * 5)
    found = errors_of_a(y, scores, n_bins=2)["debiased"]
    assert found == pytest.approx(0, abs=1e-12), f"debiased: expected 0, got {found}"


def test_the_debiased_error_is_that_of_kumar_when_a_bin_has_one_score():
    rng = np.random.default_rng(1)
    scores = np.repeat([0.1, 0.3, 0.6, 0.8], 50)
    y = (rng.random(200) < scores + 0.1).astype(int)
    expected = 0.0
    for score in np.unique(scores):
        rate = y[scores == score].mean()
        expected += ((rate - score) ** 2 - rate * (1 - rate) / 49) / 4
    assert errors_of_a(y, scores, n_bins=4)["debiased"] == pytest.approx(expected)


def test_a_group_of_one_row_has_no_debiased_error():
    y, scores = [0, 1, 0, 1, 1], [0.3, 0.5, 0.5, 0.5, 0.5]
    found = calibration.calibration_errors(y, scores, ["x", "b", "b", "b", "b"])
    assert np.isnan(found.loc["x", "debiased"])
    assert found.loc["x", "ece"] == pytest.approx(0.3)


@pytest.mark.parametrize("n_bins", [1, 5, 12])
def test_the_reliability_curve_is_scikit_learns(n_bins):
    rng = np.random.default_rng(0)
    scores = rng.beta(0.5, 2, 402)  # 401 is prime: no quantile falls on a score
    y = (rng.random(402) < scores).astype(int)
    for strategy, edges in (
        ("uniform", calibration.equal_width_edges(n_bins)),
        ("quantile", calibration.equal_mass_edges(scores, n_bins)),
    ):
        rate, mean = calibration_curve(y, scores, n_bins=n_bins, strategy=strategy)
        curve = calibration.reliability_curve(y, scores, edges)
        np.testing.assert_allclose(curve.positive_rate, rate)
        np.testing.assert_allclose(curve.mean_score, mean)


def test_an_empty_bin_is_left_out_and_not_a_rate_of_0():
    curve = calibration.reliability_curve([0, 1], [0.05, 0.95], calibration.equal_width_edges(10))
    assert len(curve.n) == 2
    assert curve.n.sum() == 2


def test_consistency_bars_hold_95_percent_of_the_bins_of_a_calibrated_model():
    """Bars around the scores are the null; intervals around the rates are the estimate's error."""
    rng = np.random.default_rng(0)
    inside = []
    for _ in range(200):
        scores = rng.uniform(0, 1, 1000)
        y = (rng.random(1000) < scores).astype(int)
        curve = calibration.reliability_curve(y, scores, calibration.equal_width_edges(5))
        inside.append(
            (curve.consistent_low <= curve.positive_rate)
            & (curve.positive_rate <= curve.consistent_high)
        )
    assert np.mean(inside) == pytest.approx(0.95, abs=0.025)


def test_the_null_of_the_ece_is_its_distribution_under_calibration():
    """The 95 % quantile of the null is passed by one in twenty calibrated data sets."""
    rng = np.random.default_rng(0)
    scores = rng.uniform(0, 1, 200)
    edges = calibration.equal_mass_edges(scores, 10)
    null = calibration.ece_null(scores, edges, n_simulations=2000)
    groups = np.repeat(TWO, 200)
    passed = 0
    for _ in range(200):
        y = (rng.random(200) < scores).astype(int)
        table = calibration.calibration_errors(
            np.append(y, y), np.append(scores, scores), groups, n_bins=10
        )
        passed += table.loc["a", "ece"] > np.quantile(null, 0.95)
    assert 2 <= passed <= 20
    assert null.mean() > 0.05


def test_the_null_is_larger_in_smaller_groups():
    rng = np.random.default_rng(0)
    means = []
    for n in (50, 500, 5000):
        scores = rng.uniform(0, 1, n)
        edges = calibration.equal_mass_edges(scores, 10)
        means.append(calibration.ece_null(scores, edges, n_simulations=200).mean())
    assert means == sorted(means, reverse=True)
    assert means[0] / means[2] == pytest.approx(10, rel=0.25)


@settings(derandomize=True, deadline=None, max_examples=40)
@given(
    st.lists(
        st.tuples(st.integers(0, 1), st.floats(0, 1), st.sampled_from("ab")),
        min_size=4,
        max_size=60,
    ).filter(lambda rows: len({row[2] for row in rows}) == 2),
    st.integers(1, 12),
)
def test_errors_are_ordered_and_bounded(rows, n_bins):
    """ECE is between the bias in the large and the root of the squared error."""
    y, scores, groups = (np.array(column) for column in zip(*rows))
    table = calibration.calibration_errors(y, scores, groups, n_bins=n_bins)
    for group in "ab":
        own = groups == group
        row = table.loc[group]
        large = abs((y[own] - scores[own]).mean())
        assert large - 1e-9 <= row["ece"] <= 1 + 1e-9
        assert row["ece"] ** 2 <= row["squared"] + 1e-9
        assert np.isnan(row["debiased"]) or row["debiased"] <= row["squared"] + 1 + 1e-9


@pytest.mark.parametrize(
    ("y", "scores", "message"),
    [
        ([0, 2], [0.1, 0.2], r"y_true\[1\] = 2"),
        ([0, 1], [0.1, 1.2], r"scores\[1\] = 1.2"),
        ([0, 1], [0.1, np.nan], r"scores\[1\] = nan"),
        ([0, 1, 1], [0.1, 0.2], "both be"),
        ([], [], "number of rows"),
    ],
)
def test_bad_rows_are_named(y, scores, message):
    with pytest.raises(InputError, match=message):
        calibration.calibration_errors(y, scores, ["a"] * len(y))


def test_a_missing_group_is_an_error():
    with pytest.raises(InputError, match="missing in 1 of 3"):
        calibration.calibration_errors([0, 1, 1], [0.1, 0.2, 0.4], ["a", None, "b"])
