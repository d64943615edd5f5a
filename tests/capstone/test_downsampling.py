"""Leaving out negatives, and probabilities that are right for the data they were left out of."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit, logit

from capstone import calibration, downsampling
from common.errors import InputError

quick = settings(derandomize=True, deadline=None, max_examples=30)
shares = st.floats(0.01, 1.0)


def reactions(n: int = 200_000, seed: int = 0):  # type: ignore[no-untyped-def]
    """Of n simulated impressions: true P(click) and P(hide), and labels; never both at once."""
    rng = np.random.default_rng(seed)
    click = expit(rng.normal(-3.0, 1.0, n))
    hide = expit(rng.normal(-4.0, 0.5, n)) * (1 - click)
    drawn = rng.random(n)
    clicked = drawn < click
    return click, hide, clicked, ~clicked & (drawn < click + hide)


def learnt(share: float, **truth: np.ndarray) -> dict[str, np.ndarray]:
    """What a perfect model learns from the kept rows: Bayes' rule, head by head."""
    part = truth["any"] + share * (1 - truth["any"])
    return {head: p / part for head, p in truth.items()}


def test_all_positives_and_about_the_share_of_negatives_stay() -> None:
    ids = np.arange(200_000)
    positive = ids % 20 == 0
    mask = downsampling.kept(ids, positive, 0.1)
    assert mask[positive].all()
    assert mask[~positive].mean() == pytest.approx(0.1, abs=0.004)


@quick
@given(st.permutations(range(40)), shares, st.integers(0, 5))
def test_a_row_is_kept_or_not_wherever_it_stands(order: list[int], share: float, seed: int) -> None:
    """Readers differ in number and order; the training set may not."""
    ids = np.arange(1000, 1040)
    positive = ids % 7 == 0
    mask = downsampling.kept(ids, positive, share, seed)
    again = downsampling.kept(ids[order], positive[order], share, seed)
    assert (mask[order] == again).all()


def test_another_seed_keeps_other_rows_and_a_larger_share_keeps_a_superset() -> None:
    ids, none = np.arange(10_000), np.zeros(10_000)
    first, other, more = (
        downsampling.kept(ids, none, share, seed) for share, seed in ((0.2, 0), (0.2, 1), (0.5, 0))
    )
    assert (first & other).sum() == pytest.approx(400, abs=80)
    assert more[first].all()


@quick
@given(st.floats(1e-6, 1 - 1e-6), shares)
def test_the_correction_is_an_offset_of_the_logit(p: float, share: float) -> None:
    """So it can be folded into the bias of the exported head, or into its Platt map."""
    by_offset = float(expit(logit(p) + downsampling.logit_offset(share)))
    assert float(downsampling.corrected(p, share)) == pytest.approx(by_offset, rel=1e-6)
    platt = calibration.Platt(1.0, downsampling.logit_offset(share))
    assert float(platt.apply(p)) == pytest.approx(by_offset, rel=1e-6)


@quick
@given(st.floats(0, 1), shares)
def test_the_correction_undoes_bayes_rule(truth: float, share: float) -> None:
    sampled = truth / (truth + share * (1 - truth))
    assert float(downsampling.corrected(sampled, share)) == pytest.approx(truth, abs=1e-9)


def test_a_model_of_the_kept_rows_is_calibrated_on_all_rows_after_the_correction() -> None:
    """The whole chain on simulated labels: fit on the sample, correct, judge on everything."""
    click, _, clicked, _ = reactions()
    mask = downsampling.kept(np.arange(len(click)), clicked, 0.1)
    fitted = calibration.fit_platt(click[mask], clicked[mask])
    sampled = fitted.apply(click)
    raw = calibration.measure(sampled, clicked)
    right = calibration.measure(downsampling.corrected(sampled, 0.1), clicked)
    assert raw.predicted > 4 * raw.rate, raw
    assert right.predicted == pytest.approx(right.rate, rel=0.05), right
    assert right.ece < raw.ece / 50, (raw.ece, right.ece)


@pytest.mark.parametrize("share", [0.0, -0.1, 1.5])
def test_a_share_that_is_none_is_refused(share: float) -> None:
    """With r = 0 there are no negatives, and no way back to the base rate."""
    with pytest.raises(InputError, match="share of negatives"):
        downsampling.corrected([0.5], share)


@pytest.mark.exercise("7.6")
@quick
@given(
    st.lists(st.tuples(st.floats(0.001, 0.5), st.floats(0.001, 0.4)), min_size=1, max_size=8),
    shares,
)
def test_every_head_gets_back_its_probability_in_the_full_data(
    pairs: list[tuple[float, float]], share: float
) -> None:
    """Expected: exactly what Bayes' rule undoes. A click and a hide are both reasons to keep a row,
    so the negatives of one are partly the positives of the other.
    """
    click, hide = np.array(pairs).T
    truth = {"any": click + hide, "click": click, "hide": hide}
    found = downsampling.corrected_heads(learnt(share, **truth), share)
    assert found.keys() == truth.keys(), f"heads {sorted(found)} for {sorted(truth)}"
    for head, p in truth.items():
        np.testing.assert_allclose(
            found[head], p, rtol=1e-9,
            err_msg=f"P({head}) is {found[head]}, in the full data it is {p}; share {share}",
        )  # fmt: skip


@pytest.mark.exercise("7.6")
def test_the_mean_of_corrected_scores_is_the_rate_in_the_full_data() -> None:
    """Expected: within 3 %. A mean that is off by the sampling turns a weight in the value of an
    item, say -20 for a hide, into some other weight.
    """
    click, hide, clicked, hidden = reactions()
    rates = {"any": (clicked | hidden).mean(), "click": clicked.mean(), "hide": hidden.mean()}
    scores = learnt(0.05, any=click + hide, click=click, hide=hide)
    found = downsampling.corrected_heads(scores, 0.05)
    for head, rate in rates.items():
        mean = float(np.mean(found[head]))
        assert mean == pytest.approx(rate, rel=0.03), f"{head}: mean {mean:.5f}, rate {rate:.5f}"


@pytest.mark.exercise("7.6")
def test_a_probability_stays_one() -> None:
    """Heads are learnt apart, so one may exceed "any"; the value of an item takes probabilities."""
    found = downsampling.corrected_heads({"any": [0.9, 1.0], "click": [1.0, 1.0]}, 0.5)
    highest = float(np.max(found["click"]))
    assert highest <= 1.0, f"a probability of {highest}, at most 1"
    mixed = downsampling.corrected_heads({"any": [0.0], "click": [1.0]}, 1.0)
    assert float(mixed["click"][0]) == 1.0, f"with all rows kept 1.0 becomes {mixed['click'][0]}"


def test_without_the_head_by_which_rows_were_kept_nothing_can_be_corrected() -> None:
    with pytest.raises(InputError, match="lack 'any'"):
        downsampling.corrected_heads({"click": [0.1]}, 0.5)
