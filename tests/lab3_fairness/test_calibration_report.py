import numpy as np
import pytest
import statsmodels.api as sm
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import brier_score_loss

from labs.lab3_fairness.calibration import checked_scores, equal_mass_edges, logits
from labs.lab3_fairness.calibration_report import (
    _debiased_error,
    brier_decomposition,
    calibration_line,
    calibration_report,
    calibration_table,
    fit_logistic,
)


def drawn(n, seed=0, shift=0.0):
    rng = np.random.default_rng(seed)
    scores = rng.beta(1, 2, n)
    return (rng.random(n) < np.clip(scores + shift, 0, 1)).astype(int), scores


@settings(derandomize=True, deadline=None, max_examples=40)
@given(st.lists(st.tuples(st.integers(0, 1), st.floats(0, 1)), min_size=1, max_size=60))
def test_the_parts_of_the_brier_score_add_up_to_scikit_learns(rows):
    y, scores = (np.array(column) for column in zip(*rows))
    parts = brier_decomposition(y, scores)
    total = np.mean((y - scores) ** 2)
    if len(np.unique(y)) == 2:
        assert total == pytest.approx(brier_score_loss(y, scores))
    assert parts[0] - parts[1] + parts[2] == pytest.approx(total)
    assert min(parts) >= -1e-12


def test_the_decomposition_is_murphys_when_rates_rise_with_scores():
    """Reliability, resolution and uncertainty of 1973: rates 0.1, 0.5, 0.8 at 0.2, 0.4, 0.9."""
    scores = np.repeat([0.2, 0.4, 0.9], 10)
    y = np.concatenate([[1] * k + [0] * (10 - k) for k in (1, 5, 8)])
    rates, mean = np.array([0.1, 0.5, 0.8]), 14 / 30
    expected = (
        np.mean((np.array([0.2, 0.4, 0.9]) - rates) ** 2),
        np.mean((rates - mean) ** 2),
        mean * (1 - mean),
    )
    assert brier_decomposition(y, scores) == pytest.approx(expected)


def test_the_calibration_line_is_statsmodels_logit():
    y, scores = drawn(500)
    intercept, slope, error = calibration_line(y, scores)
    theirs = sm.Logit(y, sm.add_constant(logits(scores))).fit(disp=0)
    assert (intercept, slope) == pytest.approx(theirs.params)
    assert error == pytest.approx(theirs.bse[1])


def test_too_extreme_scores_have_a_slope_below_one():
    y, scores = drawn(20_000)
    extreme = 1 / (1 + np.exp(-2 * logits(scores)))
    assert calibration_line(y, extreme)[1] == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize("scores", [[0.1, 0.2, 0.8, 0.9], [0.5, 0.5, 0.5, 0.5]])
def test_a_line_that_does_not_exist_is_not_a_number(scores):
    """Separated labels have an infinite slope, one score has none."""
    assert np.isnan(calibration_line([0, 0, 1, 1], scores)).all()
    assert np.isnan(calibration_line([1, 1, 1, 1], [0.1, 0.2, 0.3, 0.4])).all()


def test_newtons_method_survives_a_start_far_from_the_maximum():
    rng = np.random.default_rng(0)
    design = np.stack([np.ones(300), rng.normal(0, 30, 300)], axis=1)
    y = (design[:, 1] + rng.normal(0, 3, 300) > 40).astype(float)
    ours, _ = fit_logistic(design, y)
    assert ours == pytest.approx(sm.Logit(y, design).fit(disp=0).params, rel=1e-4)


def test_the_report_tells_a_miscalibrated_group_from_a_calibrated_one():
    good, bad = drawn(2000, 1), drawn(2000, 2, shift=0.08)
    y, scores = np.append(good[0], bad[0]), np.append(good[1], bad[1])
    table = calibration_table(calibration_report(y, scores, np.repeat(["good", "bad"], 2000)))
    assert table.loc["good", "p_value"] > 0.05
    assert table.loc["bad", "p_value"] == pytest.approx(1 / 1001)
    assert table.loc["bad", "ece"] > table.loc["bad", "ece_null_q95"]
    low, high = table.loc["bad", "in_the_large_ci95"]
    assert low < -0.08 < high
    assert table.loc["bad", "rms"] == pytest.approx(0.08, abs=0.02)
    parts = table["miscalibration"] - table["discrimination"] + table["uncertainty"]
    assert parts.to_numpy() == pytest.approx(table["brier"].to_numpy())


def test_the_interval_of_the_debiased_error_covers_the_truth():
    """A score 0.1 too low everywhere has a squared error of 0.01."""
    covered = []
    for seed in range(150):
        rng = np.random.default_rng(seed)
        scores = rng.uniform(0.1, 0.8, 400)
        y = (rng.random(400) < scores + 0.1).astype(int)
        (report, _) = calibration_report(
            np.append(y, [0, 1]),
            np.append(scores, [0.5, 0.5]),
            ["a"] * 400 + ["b"] * 2,
            n_simulations=1,
        )
        covered.append(report.rms_ci95[0] <= 0.1 <= report.rms_ci95[1])
    assert 0.89 <= np.mean(covered) <= 0.995


def test_a_group_of_two_rows_gets_values_that_say_there_is_not_enough():
    report = calibration_report([0, 0, 1, 0, 1], [0.2, 0.4, 0.5, 0.5, 0.5], list("aabbb"))[0]
    assert report.n == 2
    assert np.isnan(report.slope)
    assert 0 < report.p_value <= 1


def test_the_error_of_one_row_is_not_a_number_or_zero_weight():
    y, scores = checked_scores([1], [0.3])
    assert _debiased_error(y, scores, equal_mass_edges(scores, 1)) == 0
