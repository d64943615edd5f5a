import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from common.data import load
from common.errors import InputError
from labs.lab3_fairness import impossibility

COMPAS = {  # base rate, PPV, FNR, and the FPR that goes with them
    "African-American": (1661 / 3175, 1188 / 1829, 473 / 1661, 641 / 1514),
    "Caucasian": (822 / 2103, 414 / 696, 408 / 822, 282 / 1281),
}


@pytest.fixture(scope="module")
def debate():
    return impossibility.compas_debate(load("compas").table("scores"), n_boot=200, seed=0)


@pytest.mark.exercise("3.5")
@pytest.mark.parametrize("race", list(COMPAS))
def test_the_other_three_rates_of_compas_give_its_false_positive_rate(race):
    """FPR .4234 and .2201 follow from base rate, PPV and FNR alone: nothing is left to choose.

    That is the whole quarrel in one line. Whoever demands equal PPV and equal FNR has already
    decided the FPR.
    """
    base_rate, ppv, fnr, fpr = COMPAS[race]
    got = impossibility.implied_false_positive_rate(base_rate, ppv, fnr)
    assert got == pytest.approx(fpr, abs=1e-12), f"{race}: expected FPR {fpr}, got {got}"


@pytest.mark.exercise("3.5")
def test_the_group_with_the_higher_base_rate_gets_the_higher_false_positive_rate():
    """Same PPV .6 and FNR .4, base rates .5 and .3: FPR .4 and .171, more than twice as high.

    Base-rate odds of 1 against 3/7. A model that treats both groups "the same" by PPV and FNR
    falsely flags the innocent of one group more often than those of the other.
    """
    high = impossibility.implied_false_positive_rate(0.5, 0.6, 0.4)
    low = impossibility.implied_false_positive_rate(0.3, 0.6, 0.4)
    assert high == pytest.approx(0.4), f"base rate .5: expected FPR .4, got {high}"
    assert low == pytest.approx(0.4 * 3 / 7), f"base rate .3: expected FPR .1714, got {low}"


@pytest.mark.exercise("3.5")
def test_a_perfect_prediction_escapes():
    """PPV 1 means no false positives, whatever the base rate: the theorem's only way out."""
    for base_rate in (0.1, 0.5, 0.9):
        got = impossibility.implied_false_positive_rate(base_rate, 1.0, 0.0)
        assert got == 0, f"base rate {base_rate}, PPV 1: expected FPR 0, got {got}"


@pytest.mark.exercise("3.5")
@settings(derandomize=True, deadline=None, max_examples=40)
@given(st.tuples(*[st.integers(0, 60)] * 4))
def test_every_confusion_matrix_obeys_the_identity(cells):
    """For any TP, FP, FN, TN with a defined PPV, FPR is what the other three imply."""
    tp, fp, fn, tn = cells
    assume(tp + fp and tp + fn and fp + tn and tp)
    n = sum(cells)
    got = impossibility.implied_false_positive_rate((tp + fn) / n, tp / (tp + fp), fn / (tp + fn))
    expected = fp / (fp + tn)
    assert got == pytest.approx(expected, abs=1e-9), f"{cells}: expected FPR {expected}, got {got}"


@pytest.mark.exercise("3.5")
def test_rates_that_no_classifier_has_are_refused():
    """Base rate .9, PPV .5, everyone found: 9 times as many wrong as there are.

    A number above 1, or 1 in its place, would be read as a rate.
    """
    refused = False
    got = None
    try:
        got = impossibility.implied_false_positive_rate(0.9, 0.5, 0.0)
    except InputError:
        refused = True
    assert refused, f"expected InputError for an FPR of 9, got {got}"


@pytest.mark.parametrize(
    ("base_rate", "ppv", "fnr", "says"),
    [
        (0, 0.5, 0.5, "base_rate = 0"),
        (1, 0.5, 0.5, "base_rate = 1"),
        (0.5, 0, 0.5, "ppv = 0"),
        (0.5, 0.5, 1.5, "fnr = 1.5"),
        (float("nan"), 0.5, 0.5, "base_rate = nan"),
        (0.9, 0.5, 0.0, "ppv must be >= 0.900"),
    ],
)
def test_rates_outside_their_limits_are_refused(base_rate, ppv, fnr, says):
    with pytest.raises(InputError, match=says):
        impossibility.implied_false_positive_rate(base_rate, ppv, fnr)


def test_the_least_ppv_in_the_message_is_one_a_classifier_can_have():
    """What the error advises must not be refused in turn."""
    assert impossibility.implied_false_positive_rate(0.9, 0.9, 0.0) == pytest.approx(1)


def test_equal_ppv_and_fnr_would_still_leave_unequal_false_alarms_in_compas(debate):
    """Give both races the pooled PPV and FNR: the base rates force FPR .408 and .239."""
    assert debate.shared_ppv == pytest.approx(1602 / 2525)
    assert debate.shared_fnr == pytest.approx(881 / 2483)
    assert debate.forced_fpr["African-American"] == pytest.approx(0.407820, abs=1e-6)
    assert debate.forced_fpr["Caucasian"] == pytest.approx(0.238533, abs=1e-6)
    assert debate.forced_gap == pytest.approx(0.169287, abs=1e-6)
    assert debate.identity_error < 1e-12


def test_the_deciles_are_calibrated_while_the_error_rates_are_not_equal(debate):
    """Rearrest by decile differs by race no more than chance gives; FPR differs by 20 points."""
    assert debate.calibration.p_value > 0.05
    assert debate.calibration.gap == pytest.approx(0.034883, abs=1e-6)
    assert debate.rates["fpr"].max() - debate.rates["fpr"].min() > 0.2
    low, high = debate.calibration.ci95
    assert 0 < low < high < 0.2


def test_forced_rates_agree_when_base_rates_do():
    """No difference in base rates, no conflict."""
    import pandas as pd

    forced = impossibility.forced_false_positive_rates(pd.Series({"a": 0.4, "b": 0.4}), 0.6, 0.3)
    assert np.ptp(forced) == 0
