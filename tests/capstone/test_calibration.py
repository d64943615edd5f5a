"""Probabilities mean what they say: Platt scaling, its file, and the errors that show it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit, logit

from capstone import calibration
from capstone.calibration import Platt
from common.errors import InputError

quick = settings(derandomize=True, deadline=None, max_examples=30)


def drawn(n: int = 40_000, seed: int = 0):  # type: ignore[no-untyped-def]
    """True probabilities of a rare event [n], and labels drawn from them."""
    rng = np.random.default_rng(seed)
    p = expit(rng.normal(-3, 1, n))
    return p, (rng.random(n) < p).astype(int)


def test_fitting_undoes_a_known_distortion() -> None:
    """Scores that are too extreme by 2 and shifted by 1 are told apart from the true ones."""
    p, y = drawn()
    distorted = expit(2 * logit(p) + 1)
    fitted = calibration.fit_platt(distorted, y)
    assert fitted.a == pytest.approx(0.5, abs=0.03), fitted
    assert fitted.b == pytest.approx(-0.5, abs=0.06), fitted
    before = calibration.expected_calibration_error(distorted, y)
    after = calibration.expected_calibration_error(fitted.apply(distorted), y)
    assert after < before / 5, (before, after)


@quick
@given(
    st.lists(st.floats(0, 1), min_size=2, max_size=20),
    st.floats(0.05, 20),
    st.floats(-5, 5),
)
def test_a_map_keeps_the_order_and_stays_a_probability(
    scores: list[float], a: float, b: float
) -> None:
    """Calibration changes what a head is worth, never the ranking within the head."""
    ordered = np.sort(scores)
    mapped = Platt(a, b).apply(ordered)
    assert (np.diff(mapped) >= 0).all(), mapped
    assert ((mapped >= 0) & (mapped <= 1)).all(), mapped


def test_the_identity_changes_nothing_even_for_very_small_scores() -> None:
    """P(next item) over a catalogue is often below 1e-6; a clip there would make ties."""
    p = np.array([1e-9, 1e-7, 1e-3, 0.5, 0.999])
    np.testing.assert_allclose(Platt().apply(p), p, rtol=1e-6)


def test_a_falling_map_is_refused() -> None:
    """It would turn the ranking upside down, and every metric of calibration would be happy."""
    with pytest.raises(InputError, match="slope a"):
        Platt(-1.0, 0.0)


def test_normalised_entropy_is_one_for_the_base_rate_and_sees_a_wrong_scale() -> None:
    """AUC is blind to a factor of two; this is why the field reports NE beside it."""
    p, y = drawn()
    base = calibration.normalised_entropy(np.full(len(y), y.mean()), y)
    right, doubled = (calibration.normalised_entropy(np.minimum(k * p, 0.99), y) for k in (1, 2))
    assert base == pytest.approx(1.0, abs=1e-12)
    assert right < 1, right
    assert doubled > right + 0.05, (right, doubled)


def test_normalised_entropy_needs_both_labels() -> None:
    with pytest.raises(InputError, match="mean of y"):
        calibration.normalised_entropy([0.1, 0.2], [0, 0])


def test_true_probabilities_are_within_what_chance_gives() -> None:
    """An ECE above 0 proves nothing: a perfect model has one too."""
    p, y = drawn()
    right, wrong = calibration.measure(p, y), calibration.measure(np.minimum(1.5 * p, 0.99), y)
    assert right.ece <= right.chance_95 * 1.2, right
    assert wrong.ece > 3 * wrong.chance_95, wrong
    assert right.predicted == pytest.approx(right.rate, abs=0.005), right


def test_isotonic_beside_platt_corrects_a_shape_that_is_no_line_in_the_logit() -> None:
    p, y = drawn()
    bent = p**3
    fitted = calibration.fit_isotonic(bent, y)
    after = calibration.expected_calibration_error(fitted(bent), y)
    assert after < calibration.expected_calibration_error(bent, y) / 5


def test_the_curve_has_intervals_around_the_rate() -> None:
    p, y = drawn(5000)
    curve = calibration.reliability(p, y, bins=8)
    assert len(curve.n) == 8
    assert ((curve.low <= curve.positive_rate) & (curve.positive_rate <= curve.high)).all()


def test_the_file_gives_back_the_maps(tmp_path: Path) -> None:
    maps = {"like": Platt(0.9, -0.1), "engage": Platt()}
    assert calibration.load(calibration.save(tmp_path / "calibration.json", maps)) == maps


@pytest.mark.parametrize("text", ["[]", "{", '{"like": {"a": 1}}', '{"like": {"a": -1, "b": 0}}'])
def test_a_damaged_file_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "calibration.json"
    path.write_text(text)
    with pytest.raises(InputError, match=r"calibration\.json"):
        calibration.load(path)


def test_a_head_without_a_map_is_refused() -> None:
    """One uncalibrated head beside calibrated ones changes every value and raises nothing."""
    with pytest.raises(InputError, match=r"\['hide'\]"):
        calibration.calibrated({"like": Platt()}, {"like": [0.5], "hide": [0.5]})


def test_the_gateway_can_calibrate_without_heavy_imports() -> None:
    """Import time is start-up time of every worker."""
    heavy = "('torch', 'pandas', 'sklearn')"
    code = f"import sys, capstone.calibration; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
