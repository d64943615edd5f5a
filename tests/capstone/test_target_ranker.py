"""A score is a function of the user and the item: never of who else is scored."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from capstone.target_ranker import (
    AGE_EDGES,
    LOGITS,
    SIZES,
    TOP,
    Layout,
    Requests,
    TargetRanker,
    Vocabulary,
    age_bucket,
    flops_per_token,
    labels_of,
    meta_model,
    parameters,
    probabilities,
)
from common.errors import InputError

VOCABULARY = Vocabulary(items=30, creators=5, reactions=4, positions=10)
quick = settings(derandomize=True, deadline=None, max_examples=30)


def model(seed: int = 0) -> TargetRanker:
    """A tiny ranker whose weights are large enough for every token to matter."""
    made = TargetRanker(SIZES["tiny"], VOCABULARY).eval()
    made.init_weights(seed)
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.ndim > 1:
                parameter.mul_(20)
    return made


def requests(seed: int, rows: int, candidates: int, length: int = 8) -> Requests:
    drawn = torch.Generator().manual_seed(seed)

    def ints(high: int, *shape: int, low: int = 1) -> torch.Tensor:
        return torch.randint(low, high + 1, shape, generator=drawn)

    history = ints(30, rows, length)
    real = torch.arange(length) >= ints(length, rows, 1, low=0)  # some rows are all padding
    return Requests(
        history * real, ints(4, rows, length) * real, ints(30, rows, candidates),
        ints(5, rows, candidates), ints(10, rows, candidates, low=0),
        ints(9, rows, candidates, low=0),
    )  # fmt: skip


def part(given: Requests, rows: slice, columns: list[int]) -> Requests:
    """Some rows and some candidates of a request."""
    past = (given.history[rows], given.reactions[rows])
    shown = (given.candidates, given.creators, given.ages, given.positions)
    return Requests(*past, *(each[rows][:, columns] for each in shown))


@quick
@given(
    st.integers(0, 10_000), st.integers(1, 5), st.permutations(range(6)), st.integers(1, 6),
    st.integers(0, 4),
)  # fmt: skip
def test_a_score_is_the_same_in_any_company(
    seed: int, rows: int, order: list[int], n_kept: int, row: int
) -> None:
    """Alone or among others, in any order, whoever shares the batch: equal to 1e-6. Otherwise a
    score could not be cached, split over servers, compared between requests or calibrated.
    """
    ranker, given_ = model(), requests(seed, rows, 6)
    row, columns = row % rows, order[:n_kept]
    whole = probabilities(ranker, given_)
    some = probabilities(ranker, part(given_, slice(row, row + 1), columns))
    for head in LOGITS:
        worst = np.abs(whole[head][row, columns] - some[head][0]).max()
        assert worst <= 1e-6, f"{head} changes by {worst:g} with the company"


def test_without_the_mask_the_same_test_would_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    """The property is the mask's doing: under a causal mask the neighbours move the score."""

    def causal(self: TargetRanker, history: torch.Tensor, n_candidates: int) -> Layout:
        layout = Layout(history, n_candidates, self.shape.head_width)
        layout.mask = torch.ones_like(layout.mask).tril()
        return layout

    monkeypatch.setattr(TargetRanker, "layout", causal)
    ranker, given_ = model(), requests(0, 1, 6)
    whole = probabilities(ranker, given_)["click"][0, 5]
    alone = probabilities(ranker, part(given_, slice(0, 1), [5]))["click"][0, 0]
    assert abs(whole - alone) > 1e-3, (whole, alone)


def test_history_and_its_reactions_and_the_candidate_all_matter() -> None:
    """Isolation must not come from a model that looks at nothing."""
    ranker, given_ = model(), requests(1, 4, 3)
    base = probabilities(ranker, given_)["click"]
    busy = (given_.history != 0).any(dim=1).numpy()
    for name in ("history", "reactions", "candidates", "creators", "ages"):
        values = getattr(given_, name)
        other = torch.where(values > 0, values % 4 + 1, values)
        moved = np.abs(probabilities(ranker, replace(given_, **{name: other}))["click"] - base)
        assert moved[busy].max() > 1e-4, name


def test_padding_in_front_changes_nothing() -> None:
    """A short history is the same history whatever length the batch is padded to."""
    ranker, given_ = model(), requests(2, 3, 2, length=5)
    longer = replace(
        given_,
        history=torch.nn.functional.pad(given_.history, (3, 0)),
        reactions=torch.nn.functional.pad(given_.reactions, (3, 0)),
    )
    for head, p in probabilities(ranker, given_).items():
        np.testing.assert_allclose(probabilities(ranker, longer)[head], p, atol=1e-6, err_msg=head)


def test_the_position_moves_all_candidates_alike_and_serving_has_one() -> None:
    """A shallow tower: between two positions the logit moves by the same amount for every item."""
    ranker, given_ = model(), requests(3, 2, 4)
    served = ranker(given_.at_the_top())
    third = ranker(replace(given_, positions=torch.full_like(given_.positions, 3)))
    moved = (third - served).detach()
    assert (given_.at_the_top().positions == TOP).all()
    assert moved.flatten(0, 1).std(dim=0).max() < 1e-5
    assert moved.abs().max() > 1e-2


def test_the_full_size_has_a_billion_parameters() -> None:
    """Counted on the meta device, which needs no memory; the blocks alone are enough."""
    films = Vocabulary(items=1682, creators=120, reactions=4, positions=20)
    found = parameters(meta_model("full", films))
    blocks = SIZES["full"].layers * SIZES["full"].block_parameters
    assert found > blocks > 1_000_000_000, (found, blocks)


def test_an_unknown_size_is_refused() -> None:
    with pytest.raises(InputError, match="must be one of tiny"):
        meta_model("huge", VOCABULARY)  # type: ignore[arg-type]


def test_a_token_costs_six_operations_a_weight() -> None:
    """Lab 1's count; attention adds little at these lengths."""
    shape = SIZES["full"]
    weights = shape.layers * shape.block_parameters
    ratio = flops_per_token(shape, 256) / (6 * weights)
    assert 1.0 < ratio < 1.1, ratio


def test_ages_fall_into_buckets_from_today_to_over_a_year() -> None:
    assert age_bucket([0.0, 0.5, 3.0, 400.0]).tolist() == [0, 1, 3, len(AGE_EDGES)]


def test_labels_stand_in_the_order_of_the_heads_and_any_is_their_union() -> None:
    reactions = {
        "click": [1, 0, 0], "long_view": [1, 0, 0], "hide": [0, 1, 0], "share": [0, 0, 0],
    }  # fmt: skip
    found = labels_of({head: np.array(values, bool) for head, values in reactions.items()})
    assert found.tolist() == [[1, 1, 0, 0, 1], [0, 0, 1, 0, 1], [0, 0, 0, 0, 0]]
