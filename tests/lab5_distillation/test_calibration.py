"""Calibration of many classes: the definition, the bias of few texts, and temperature scaling."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import InputError
from labs.lab5_distillation import calibration


def probabilities(seed, n=60, classes=4, sharpness=2.0):
    """Random rows that sum to 1, and labels that have little to do with them (synthetic)."""
    rng = np.random.default_rng(seed)
    powers = np.exp(sharpness * rng.standard_normal((n, classes)))
    return powers / powers.sum(axis=1, keepdims=True), rng.integers(0, classes, n)


def by_hand(p, labels, n_bins):
    """Guo's equation 5, one bin and one text at a time."""
    total = 0.0
    for b in range(n_bins):
        inside = [
            (max(row), float(np.argmax(row) == label))
            for row, label in zip(p.tolist(), labels.tolist())
            if b / n_bins < max(row) <= (b + 1) / n_bins
        ]
        if inside:
            confidence = sum(each[0] for each in inside) / len(inside)
            accuracy = sum(each[1] for each in inside) / len(inside)
            total += len(inside) / len(labels) * abs(accuracy - confidence)
    return total


def calibrated_logits(n, seed, classes=10, scale=4.0):
    """Logits, and labels drawn from their own softmax: a perfectly calibrated model (synthetic)."""
    rng = np.random.default_rng(seed)
    logits = scale * rng.standard_normal((n, classes))
    p = calibration.softmax(logits)
    return logits, (p.cumsum(axis=1) < rng.random((n, 1))).sum(axis=1).clip(max=classes - 1)


@pytest.mark.exercise("5.19")
@settings(derandomize=True, deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 999),
    n=st.integers(1, 80),
    classes=st.integers(2, 8),
    n_bins=st.integers(1, 20),
)
def test_ece_is_the_weighted_gap_of_the_bins(seed, n, classes, n_bins):
    """Every bin counts by its share of texts, with the confidence of the answer it gives.

    A report of calibration is compared across papers and tools: another weighting, or the
    probability of the label in place of the answer's, gives another number under the same name.
    """
    p, labels = probabilities(seed, n, classes)
    found = calibration.expected_calibration_error(p, labels, n_bins=n_bins)
    expected = by_hand(p, labels, n_bins)
    assert found == pytest.approx(expected, abs=1e-9), (
        f"ECE {found:.6f}, the formula gives {expected:.6f} ({n} texts, {classes} classes, "
        f"{n_bins} bins)"
    )


@pytest.mark.exercise("5.19")
def test_a_bin_with_one_text_hardly_counts():
    """99 texts with a gap of 0.1, and one with a gap of 0.6: (99 * 0.1 + 0.6) / 100 = 0.105.

    A mean over bins would say 0.35: one odd text would decide whether a model is calibrated.
    """
    p = np.array([[0.9, 0.1]] * 99 + [[0.4, 0.6]])
    found = calibration.expected_calibration_error(p, np.zeros(100, int), n_bins=10)
    assert found == pytest.approx(0.105), f"ECE {found:.4f}, expected 0.1050"


@pytest.mark.exercise("5.19")
def test_too_sure_here_and_not_sure_enough_there_do_not_cancel():
    """Right always at 0.6, never at 0.9: the mean confidence may fit, no single one does."""
    p = np.array([[0.6, 0.4]] * 50 + [[0.9, 0.1]] * 50)
    labels = np.array([0] * 50 + [1] * 50)
    found = calibration.expected_calibration_error(p, labels, n_bins=10)
    assert found == pytest.approx(0.65), f"ECE {found:.4f}, expected (0.4 + 0.9) / 2 = 0.65"


@pytest.mark.exercise("5.19")
def test_a_wrong_but_confident_answer_is_a_large_gap():
    """The model stands by class 0 with 0.95 and the label is 1: the gap is 0.95.

    With the probability of the label, 0.05, the worst mistake would look like modesty.
    """
    found = calibration.expected_calibration_error(np.array([[0.95, 0.05]]), np.array([1]))
    assert found == pytest.approx(0.95), f"ECE {found:.4f}, expected 0.9500"


def test_a_calibrated_model_has_an_error_above_zero_and_few_texts_a_large_one():
    """The bias that a comparison of two ECE forgets: 150 texts show 0.05 where the truth is 0."""
    few = [calibration.calibration(*calibrated_logits(150, s), n_draws=1).ece for s in range(30)]
    many = [calibration.calibration(*calibrated_logits(6000, s), n_draws=1).ece for s in range(5)]
    assert 0.03 < np.mean(few) < 0.09, np.mean(few)
    assert np.mean(many) < np.mean(few) / 4


def test_the_chance_error_is_what_calibrated_models_show():
    """Simulated from confidences alone, it has the mean of those with labels."""
    found = [calibration.calibration(*calibrated_logits(300, s), n_draws=50) for s in range(40)]
    shown, chance = np.mean([c.ece for c in found]), np.mean([c.chance for c in found])
    assert shown == pytest.approx(chance, rel=0.1)
    above = np.mean([c.ece > c.chance_95 for c in found])
    assert above <= 0.2, "about 5 % of calibrated models are above their 95 %"


def test_the_debiased_error_is_zero_on_average_for_a_calibrated_model():
    """Unlike the plain squared gap, which is above 0 by the noise of the bins."""
    found = []
    for s in range(60):
        logits, labels = calibrated_logits(200, s)
        found.append(calibration.debiased_squared_error(calibration.softmax(logits), labels))
    error = np.std(found) / np.sqrt(len(found))
    assert abs(np.mean(found)) < 3 * error, (np.mean(found), error)
    assert min(found) < 0 < max(found)


def test_the_debiased_error_still_sees_a_real_gap():
    """Logits doubled: overconfident, and the estimate is clearly above 0."""
    logits, labels = calibrated_logits(3000, 0, scale=2.0)
    p = calibration.softmax(2 * logits)
    assert calibration.debiased_squared_error(p, labels) > 0.005


def test_bins_of_equal_mass_see_inside_the_last_bin():
    """Texts at 0.94 are always right, those at 0.99 in 88 of 100: in one bin it cancels."""
    p = np.array([[0.94, 0.06]] * 500 + [[0.99, 0.01]] * 500)
    labels = np.array([0] * 500 + [0] * 440 + [1] * 60)
    wide = calibration.expected_calibration_error(p, labels, n_bins=10)
    mass = calibration.adaptive_calibration_error(p, labels, n_bins=10)
    assert wide == pytest.approx(0.025)
    assert mass == pytest.approx((0.06 + 0.11) / 2)


def test_ece_matches_the_curve_that_scikit_learn_draws():
    """Two classes: the bins of its ``calibration_curve``, weighted by their texts."""
    from sklearn.calibration import calibration_curve

    p, labels = probabilities(3, n=2000, classes=2)
    confidence = p.max(axis=1)
    right = p.argmax(axis=1) == labels
    shares, means = calibration_curve(right, confidence, n_bins=15)
    n = np.bincount(calibration.equal_width(confidence, 15))
    expected = (n[n > 0] / 2000 * abs(shares - means)).sum()
    assert calibration.expected_calibration_error(p, labels) == pytest.approx(expected)


def test_scores_match_those_of_scikit_learn():
    """NLL and Brier score of many classes, the second summed over classes."""
    from sklearn.metrics import log_loss

    logits, labels = calibrated_logits(400, 1, classes=5)
    p = calibration.softmax(logits)
    onehot = np.eye(5)[labels]
    assert calibration.nll(logits, labels).mean() == pytest.approx(log_loss(labels, p))
    assert calibration.brier(logits, labels).mean() == pytest.approx(
        ((p - onehot) ** 2).sum(axis=1).mean()
    )


@settings(derandomize=True, deadline=None, max_examples=15)
@given(temperature=st.floats(0.3, 4.0), seed=st.integers(0, 99))
def test_temperature_scaling_finds_the_factor_that_was_put_in(temperature, seed):
    """Logits of a calibrated model times T: the fit gives T back, and no answer changes."""
    logits, labels = calibrated_logits(3000, seed, scale=2.0)
    found = calibration.fit_temperature(temperature * logits, labels)
    assert found.value == pytest.approx(temperature, rel=0.12)
    assert found.nll_after <= found.nll_before + 1e-9
    assert not found.at_limit


def test_temperature_scaling_mends_texts_that_it_did_not_see():
    """Fit on one half, judged on the other: the error of an overconfident model falls."""
    logits, labels = calibrated_logits(4000, 5, scale=2.0)
    logits = 2.5 * logits
    t = calibration.fit_temperature(logits[:2000], labels[:2000]).value
    before = calibration.calibration(logits[2000:], labels[2000:], n_draws=50)
    after = calibration.calibration(logits[2000:] / t, labels[2000:], n_draws=50)
    assert after.accuracy == before.accuracy
    assert after.ece < before.ece / 3
    assert after.nll < before.nll
    assert before.confidence > before.accuracy, "overconfident before"


def test_a_model_that_is_always_right_has_no_temperature():
    """The likelihood only rises as T falls to 0: the fit says that it is no estimate."""
    logits = 5.0 * np.eye(4)[np.arange(40) % 4]
    assert calibration.fit_temperature(logits, np.arange(40) % 4).at_limit


def test_the_reliability_curve_leaves_empty_bins_out():
    """Its points add up to all texts, and its intervals hold the accuracies."""
    logits, labels = calibrated_logits(500, 2)
    for mass in (False, True):
        curve = calibration.reliability(logits, labels, mass=mass)
        assert curve.n.sum() == 500
        assert (curve.n > 0).all()
        assert (curve.low <= curve.accuracy).all()
        assert (curve.accuracy <= curve.high + 1e-12).all()
        assert (np.diff(curve.confidence) > 0).all()


@pytest.mark.parametrize(
    ("logits", "labels", "word"),
    [
        (np.zeros((3, 2)), np.zeros(2, int), "labels"),
        (np.full((3, 2), np.nan), np.zeros(3, int), "finite"),
        (np.zeros((3, 2)), np.array([0, 1, 2]), "0 to 1"),
    ],
)
def test_bad_input_is_named(logits, labels, word):
    """One clear error instead of a number that means nothing."""
    with pytest.raises(InputError, match=word):
        calibration.calibration(logits, labels)
