"""A candidate looks at the history and at itself, and at nothing else."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from capstone import candidate_mask

quick = settings(derandomize=True, deadline=None, max_examples=30)


def right_aligned(lengths: list[int], longest: int) -> torch.Tensor:
    """Histories of those many items, 0 in front; int64 [B, L]."""
    rows = [[0] * (longest - n) + list(range(1, n + 1)) for n in lengths]
    return torch.tensor(rows, dtype=torch.int64)


histories = st.lists(st.integers(0, 5), min_size=1, max_size=4).map(
    lambda lengths: right_aligned(lengths, 5)
)


@pytest.mark.exercise("7.3")
@quick
@given(histories, st.integers(1, 5))
def test_a_candidate_sees_the_real_history_and_itself_alone(
    history: torch.Tensor, n_candidates: int
) -> None:
    """Expected: the lower rows of the table. One look at a neighbour, and a score depends on what
    else was retrieved.
    """
    length = history.shape[1]
    mask = candidate_mask.isolation_mask(history, n_candidates)
    shape = (len(history), 1, length + n_candidates, length + n_candidates)
    assert tuple(mask.shape) == shape, f"mask {tuple(mask.shape)}, expected {shape}"
    assert mask.dtype == torch.bool, f"mask of {mask.dtype}, expected torch.bool"
    seen = mask[:, 0, length:, length:]
    itself = torch.eye(n_candidates, dtype=torch.bool).expand_as(seen)
    assert torch.equal(seen, itself), f"candidates see {seen.int()}, expected {itself.int()}"
    past = mask[:, 0, length:, :length]
    real = (history != 0)[:, None].expand_as(past)
    assert torch.equal(past, real), f"of the history they see {past.int()}, real is {real.int()}"


@pytest.mark.exercise("7.3")
@quick
@given(histories, st.integers(1, 5))
def test_the_history_is_causal_and_knows_no_candidate(
    history: torch.Tensor, n_candidates: int
) -> None:
    """Expected: the upper row of the table. A history that sees candidates carries news of one
    candidate to all others in the next layer.
    """
    length = history.shape[1]
    mask = candidate_mask.isolation_mask(history, n_candidates)[:, 0, :length]
    leak = mask[:, :, length:]
    assert not leak.any(), f"the history sees candidates: {leak.int()}"
    for row, items in enumerate(history):
        for query in range(length):
            for key in range(length):
                want = query == key or (key < query and int(items[key]) != 0)
                found = bool(mask[row, query, key])
                assert found == want, (
                    f"history {items.tolist()}: {query} looks at {key}: {found}, expected {want}"
                )


@pytest.mark.exercise("7.3")
def test_attention_under_the_mask_gives_a_candidate_the_same_output_in_any_company() -> None:
    """Expected: equal to 1e-6 alone and among 6, for an empty history too, and never NaN."""
    torch.manual_seed(0)
    history = right_aligned([4, 0], 4)
    x = torch.randn(2, 1, 4 + 6, 8)
    together = attend(x, candidate_mask.isolation_mask(history, 6))[:, :, 4:]
    assert torch.isfinite(together).all(), f"not finite: {together}"
    for place in range(6):
        alone = torch.cat([x[:, :, :4], x[:, :, 4 + place : 5 + place]], dim=2)
        single = attend(alone, candidate_mask.isolation_mask(history, 1))[:, :, 4]
        worst = float((single - together[:, :, place]).abs().max())
        assert worst <= 1e-6, f"candidate {place} differs by {worst:g} when alone, at most 1e-6"


def attend(x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return F.scaled_dot_product_attention(x, x, x, attn_mask=mask)


def test_the_rule_for_flex_attention_is_the_same_mask() -> None:
    """The production tool takes the mask as a rule and skips the blocks that it leaves empty."""
    history = right_aligned([3, 0, 5], 5)
    rows, places = torch.arange(3), torch.arange(9)
    rule = candidate_mask.isolation_rule(history)
    dense = rule(rows[:, None, None], torch.tensor(0), places[:, None], places)
    assert torch.equal(dense[:, None], candidate_mask.isolation_mask(history, 4))
