"""The logQ correction: the optimum of the sampled softmax is that of the full one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from capstone import sampled_softmax
from capstone.sampled_softmax import StreamingFrequency, in_batch_loss, log_frequencies
from common.errors import InputError


def example(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Logits [4, 6], log Q [6], items [6] and each row's column; items 7 and 3 appear twice."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(4, 6, generator=generator)
    items = torch.tensor([7, 3, 7, 5, 9, 3])
    log_q = torch.log(torch.tensor([0.4, 0.2, 0.4, 0.05, 0.01, 0.2]))
    return logits, log_q, items, torch.tensor([0, 1, 3, 2])


@pytest.mark.exercise("7.2")
def test_every_column_loses_the_log_probability_of_its_item() -> None:
    """The target too: a rare target was lucky to be drawn, and is worth more for it."""
    logits, log_q, items, positive = example()
    given_logits = logits.clone()
    corrected = sampled_softmax.corrected_logits(logits, log_q, items, positive)
    expected = logits - log_q
    for row, column in ((0, 0), (0, 3), (1, 1), (2, 3), (2, 4), (3, 2), (3, 5)):
        got, want = float(corrected[row, column]), float(expected[row, column])
        what = "target" if positive[row] == column else "negative"
        assert got == pytest.approx(want, abs=1e-6), (
            f"row {row}, column {column} ({what}, item {int(items[column])}): {got}, not {want}"
        )
    assert torch.equal(logits, given_logits), "the logits that were passed in have changed"


@pytest.mark.exercise("7.2")
def test_the_target_is_not_also_its_own_negative() -> None:
    """Popular targets fill a batch: unmasked, a row is told to prefer an item to itself."""
    corrected = sampled_softmax.corrected_logits(*example())
    masked = {(r, c) for r, c in (corrected == -torch.inf).nonzero().tolist()}
    wanted = {(0, 2), (1, 5), (3, 0)}
    assert masked == wanted, f"-inf at {sorted(masked)}, not at {sorted(wanted)}"


@pytest.mark.exercise("7.2")
def test_the_scores_of_the_full_softmax_are_an_optimum_of_the_corrected_one() -> None:
    """A batch in which each item is the target as often as P says must not move scores of log P.

    Without the correction the optimum is log P - log Q: what is popular is pushed down.
    """
    counts = torch.arange(1, 26)
    items = torch.repeat_interleave(torch.arange(25), counts)
    log_p = torch.log(counts / counts.sum())
    scores = log_p.clone().requires_grad_()
    logits = scores[items][None, :].expand(len(items), -1)
    columns = torch.arange(len(items))
    corrected = sampled_softmax.corrected_logits(logits, log_p[items], items, columns)
    torch.nn.functional.cross_entropy(corrected, columns, reduction="sum").backward()
    assert scores.grad is not None
    push = (-scores.grad / counts).tolist()
    assert max(map(abs, push)) < 0.1, (
        f"push on the score, per time the item is the target, of the rarest item {push[0]:+.2f} "
        f"and of the most popular {push[-1]:+.2f}; both must be near 0"
    )


def test_a_constant_added_to_log_q_changes_no_loss() -> None:
    """So an estimate of Q up to a factor is enough: counts, shares, one over a gap."""
    generator = torch.Generator().manual_seed(1)
    queries, vectors = torch.randn(2, 8, 4, generator=generator)
    items = torch.tensor([1, 2, 3, 1, 4, 5, 2, 6])
    log_q = torch.randn(8, generator=generator)
    first = in_batch_loss(queries, vectors, items, log_q)
    second = in_batch_loss(queries, vectors, items, log_q + 3.0)
    assert float(first) == pytest.approx(float(second), rel=1e-5)


def test_log_frequencies_are_those_of_the_training_interactions() -> None:
    log_q = log_frequencies(np.array([0.0, 30, 60, 0, 10]))
    assert np.exp(log_q[[1, 2, 4]]) == pytest.approx([0.3, 0.6, 0.1])
    assert np.isfinite(log_q).all()


@settings(derandomize=True, deadline=None, max_examples=5)
@given(st.integers(0, 1000))
def test_the_streamed_frequency_approaches_the_share_of_batches(seed: int) -> None:
    rng = np.random.default_rng(seed)
    chance = np.array([0.0, 0.9, 0.5, 0.25, 0.1])
    estimate = StreamingFrequency(1000, rate=0.05, seed=seed)
    for _ in range(600):
        estimate.update(np.flatnonzero(rng.random(5) < chance))
    streamed = np.exp(estimate.log_q(np.arange(1, 5)))
    assert np.allclose(np.log(streamed), np.log(chance[1:]), atol=0.6), streamed
    assert (np.diff(streamed) < 0).all(), f"the order of the frequencies: {streamed}"


def test_the_streamed_frequency_follows_an_item_that_becomes_popular() -> None:
    """A count over all time would still call it rare, and the item would be over-recommended."""
    estimate = StreamingFrequency(100, rate=0.1)
    for step in range(400):
        estimate.update(np.array([1] if step >= 300 or step % 20 == 0 else [2]))
    share_of_all_time = 115 / 400
    assert np.exp(estimate.log_q(np.array([1])))[0] > 2 * share_of_all_time


def test_more_hashes_undo_a_collision() -> None:
    """In one small array a rare item shares a bucket with a frequent one and looks frequent."""
    rng = np.random.default_rng(0)
    errors = []
    for hashes in (1, 4):
        estimate = StreamingFrequency(40, hashes=hashes, seed=3)
        for _ in range(300):
            estimate.update(np.concatenate([[1, 2, 3, 4], 10 + rng.integers(0, 30, 1)]))
        streamed = estimate.log_q(np.arange(10, 40))
        errors.append(float(np.abs(streamed - np.log(1 / 30)).mean()))
    assert errors[1] < errors[0], f"error with one hash {errors[0]}, with four {errors[1]}"


def test_bad_options_of_the_estimate_are_refused() -> None:
    with pytest.raises(InputError, match="rate = 0"):
        StreamingFrequency(10, rate=0)
    with pytest.raises(InputError, match="buckets = 0"):
        StreamingFrequency(0)
