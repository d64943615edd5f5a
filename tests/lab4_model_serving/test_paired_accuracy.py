"""A drop in accuracy, told from noise, and the gate that refuses."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import InputError, RunError
from common.statistics import Z95
from labs.lab4_model_serving.paired_accuracy import (
    PairedAccuracy,
    paired_accuracy,
    require_accuracy,
    score_interval,
    texts_needed,
)


def pair(lost: int, gained: int, n: int) -> PairedAccuracy:
    reference = 0.9
    return PairedAccuracy(n, lost, gained, reference, reference - (lost - gained) / n, 0.98)


COUNTS = st.integers(2, 3000).flatmap(
    lambda n: st.tuples(st.integers(0, n // 2), st.integers(0, n // 2), st.just(n))
)


def test_what_was_lost_and_gained_is_counted_on_the_same_texts():
    """Both wrong in different ways is a disagreement and neither lost nor gained."""
    truth = [0, 1, 2, 0, 1]
    first, second = [0, 1, 0, 1, 1], [0, 2, 1, 0, 1]
    found = paired_accuracy(*(np.eye(3, dtype=np.float32)[each] for each in (first, second)), truth)
    assert (found.n, found.lost, found.gained) == (5, 1, 1)
    assert (found.reference, found.candidate, found.drop) == (0.6, 0.6, 0.0)
    assert found.agreement == pytest.approx(0.4)


@settings(derandomize=True, deadline=None, max_examples=60)
@given(counts=COUNTS)
def test_the_interval_holds_zero_exactly_when_mcnemars_test_does_not_reject(counts):
    """|b - c| / sqrt(b + c) <= 1.96: one test, so report and gate cannot contradict each other."""
    lost, gained, n = counts
    low, high = score_interval(lost, gained, n)
    statistic = abs(lost - gained) / math.sqrt(max(lost + gained, 1))
    if abs(statistic - Z95) > 1e-6:
        assert (low <= 1e-12 and high >= -1e-12) == (statistic <= Z95), (counts, low, high)


@settings(derandomize=True, deadline=None, max_examples=60)
@given(counts=COUNTS)
def test_the_interval_holds_what_was_found_and_turns_with_the_pair(counts):
    lost, gained, n = counts
    low, high = score_interval(lost, gained, n)
    assert -1 <= low <= (lost - gained) / n <= high <= 1
    assert score_interval(gained, lost, n) == pytest.approx((-high, -low), abs=1e-9)


def test_equal_answers_do_not_prove_that_the_next_is_equal():
    """The normal interval of 0 lost and 0 gained is [0, 0], at any n. This is about 3.84 / n."""
    low, high = score_interval(0, 0, 100)
    assert high == pytest.approx(Z95**2 / (100 + Z95**2), rel=1e-6)
    assert low == pytest.approx(-high)
    assert require_accuracy(pair(0, 0, 1000)) is None
    with pytest.raises(RunError, match="too few texts"):
        require_accuracy(pair(0, 0, 100))


def test_the_interval_covers_the_true_drop():
    """2,000 simulated test sets, a true drop of 1 point: about 95 % of the intervals hold it."""
    rng = np.random.default_rng(0)
    n, p_lost, p_gained = 1000, 0.02, 0.01
    drawn = rng.multinomial(n, [p_lost, p_gained, 1 - p_lost - p_gained], size=2000)
    held = 0
    for lost, gained, _ in drawn:
        low, high = score_interval(int(lost), int(gained), n)
        held += low <= p_lost - p_gained <= high
    assert 0.935 <= held / len(drawn) <= 0.97


@pytest.mark.parametrize(
    ("lost", "gained", "n", "verdict"),
    [
        (9, 7, 4500, "kept"),  # 0.04 points, up to 0.21
        (297, 71, 4500, "broken"),  # 5 points
        (40, 15, 4500, "undecided"),  # 0.56 points, from 0.29 to 0.83
        (1, 0, 200, "undecided"),  # the drop is the limit, and says nothing
        (0, 0, 100, "undecided"),
    ],
)
def test_the_gate_asks_whether_the_limit_is_shown_to_hold(lost, gained, n, verdict):
    """Not whether the loss is significant: with few texts nothing is, and all would pass."""
    measured = pair(lost, gained, n)
    assert measured.verdict() == verdict
    if verdict == "kept":
        require_accuracy(measured)
    else:
        with pytest.raises(RunError) as refused:
            require_accuracy(measured)
        expected = "do not serve" if verdict == "broken" else "too few texts to tell"
        assert expected in str(refused.value)
        assert f"{lost} lost" in str(refused.value)
        assert "limit is 0.50" in str(refused.value)


def test_the_number_of_texts_that_would_decide_is_about_right():
    """With the same shares on that many texts the gate opens; with half of them it does not."""
    measured = pair(3, 2, 400)
    needed = texts_needed(measured)
    assert needed is not None
    for factor, verdict in ((1.1, "kept"), (0.5, "undecided")):
        times = factor * needed / 400
        assert pair(round(3 * times), round(2 * times), round(400 * times)).verdict() == verdict
    assert texts_needed(pair(40, 15, 4500)) is None


def test_mcnemars_exact_p_value_is_that_of_a_fair_coin():
    assert pair(9, 7, 4500).p_value == pytest.approx(0.8036, abs=1e-4)
    assert pair(10, 0, 4500).p_value == pytest.approx(2 / 1024)
    assert pair(0, 0, 4500).p_value == 1.0


def test_what_cannot_be_compared_is_named():
    logits = np.zeros((3, 2), np.float32)
    with pytest.raises(InputError, match="must be"):
        paired_accuracy(logits, logits[:2], [0, 1, 0])
    with pytest.raises(InputError, match="finite"):
        paired_accuracy(logits, np.full_like(logits, np.nan), [0, 1, 0])
    with pytest.raises(InputError, match="lost"):
        score_interval(3, 3, 5)
    with pytest.raises(InputError, match="max_drop"):
        require_accuracy(pair(0, 0, 10), max_drop=1.5)
