"""Properties the two models must have whatever they have learned."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from capstone.models import (
    HSTUBlock,
    RankCandidates,
    Ranker,
    SequenceEncoder,
    attention_mask,
)
from capstone.offline import candidates, feeds
from capstone.value import HEADS, ValueWeights

LENGTH = 12
N_ITEMS = 40


@pytest.fixture(params=["softmax", "hstu"])
def ranker(request: pytest.FixtureRequest) -> Ranker:
    """Both kinds of attention must have every property."""
    torch.manual_seed(0)
    genres = torch.zeros(N_ITEMS + 1, 3)
    genres[1:] = (torch.rand(N_ITEMS, 3) < 0.4).float()
    return Ranker(genres, 32, LENGTH, layers=2, attention=request.param).eval()


@pytest.fixture
def history() -> torch.Tensor:
    rng = np.random.default_rng(0)
    rows = rng.integers(1, N_ITEMS + 1, (4, LENGTH))
    rows[1, :5] = 0
    rows[2, :11] = 0
    return torch.from_numpy(rows)


def ratings_for(history: torch.Tensor) -> torch.Tensor:
    return torch.where(history > 0, history % 5 + 1, 0)


def test_the_future_does_not_change_a_prediction(history: torch.Tensor) -> None:
    encoder = SequenceEncoder(N_ITEMS, 32, LENGTH).eval()
    changed = history.clone()
    changed[:, -1] = 7
    before, after = encoder(history), encoder(changed)
    assert torch.allclose(before[:, :-1], after[:, :-1], atol=1e-5)
    assert not torch.allclose(before[:, -1], after[:, -1], atol=1e-3)


def test_the_gradient_of_a_position_never_reaches_later_items(history: torch.Tensor) -> None:
    encoder = SequenceEncoder(N_ITEMS, 32, LENGTH).eval()
    vectors = encoder.items(history).detach().requires_grad_()
    encoder.items.forward = lambda _: vectors  # type: ignore[method-assign]
    encoder.encode(history)[0, 4].pow(3).sum().backward()
    assert vectors.grad is not None
    assert vectors.grad[0, 5:].abs().max() == 0
    assert vectors.grad[0, :5].abs().max() > 0


def test_the_future_does_not_change_a_state_of_the_ranker(
    ranker: Ranker, history: torch.Tensor
) -> None:
    changed = history.clone()
    changed[:, -1] = history[:, -1] % N_ITEMS + 1
    table = ranker.table()
    before, after = (
        ranker.states(items, ratings_for(items), table) for items in (history, changed)
    )
    assert torch.allclose(before[:, :-1], after[:, :-1], atol=1e-5)
    assert not torch.allclose(before[:, -1], after[:, -1], atol=1e-3)


def test_hstu_attention_grows_with_the_number_of_signals() -> None:
    """A softmax forgets how often something was seen; SiLU adds up, which is why HSTU uses it."""
    torch.manual_seed(0)
    block = HSTUBlock(16, 1, 0.0, LENGTH).eval()
    seen: list[torch.Tensor] = []
    block.norm_attended = torch.nn.Identity()
    block.out.register_forward_pre_hook(lambda _, given: seen.append(given[0][0, -1]))
    x = torch.randn(1, 1, 16).expand(1, LENGTH, 16)
    for count in (3, 6):
        some = torch.zeros(1, LENGTH, dtype=torch.long)
        some[0, -count:] = 1
        block(x, attention_mask(some))
    ratio = (seen[1].norm() / seen[0].norm()).item()
    assert ratio == pytest.approx(2, rel=1e-4), f"twice the signals gave {ratio:.3f} times"


def test_padding_is_never_recommended(ranker: Ranker, history: torch.Tensor) -> None:
    encoder = SequenceEncoder(N_ITEMS, 32, LENGTH).eval()
    assert (encoder(history)[..., 0] < -1e8).all()
    served = RankCandidates(ranker)
    zero = torch.zeros((4, 1), dtype=torch.long)
    p_engage, *_ = served(history, ratings_for(history), zero)
    assert (p_engage == 0).all()


def test_a_shorter_window_of_the_same_history_scores_the_same(ranker: Ranker) -> None:
    items = torch.tensor([[3, 9, 4]])
    padded = torch.tensor([[0] * 9 + [3, 9, 4]])
    served, some = RankCandidates(ranker), torch.tensor([[1, 2, 3]])
    for short, long in zip(
        served(items, items % 5 + 1, some),
        served(padded, ratings_for(padded), some),
        strict=True,
    ):
        assert torch.allclose(short, long, atol=1e-6)


def test_a_score_does_not_depend_on_the_other_candidates(
    ranker: Ranker, history: torch.Tensor
) -> None:
    served, ratings = RankCandidates(ranker), ratings_for(history)
    alone = served(history, ratings, torch.tensor([[5]] * 4))
    together = served(history, ratings, torch.tensor([[9, 5, 30, 31]] * 4))
    for one, many in zip(alone, together, strict=True):
        assert torch.allclose(one[:, 0], many[:, 1], atol=1e-6)


def test_a_score_does_not_depend_on_the_other_users(ranker: Ranker, history: torch.Tensor) -> None:
    served, ratings = RankCandidates(ranker), ratings_for(history)
    some = torch.tensor([[1, 2, 3]] * 4)
    for whole, single in zip(
        served(history, ratings, some), served(history[:1], ratings[:1], some[:1]), strict=True
    ):
        assert torch.allclose(whole[:1], single, atol=1e-6)


def test_probabilities_of_the_catalogue_sum_to_one(ranker: Ranker, history: torch.Tensor) -> None:
    every = torch.arange(1, N_ITEMS + 1).repeat(4, 1)
    p_engage, *reactions = RankCandidates(ranker)(history, ratings_for(history), every)
    assert torch.allclose(p_engage.sum(dim=1), torch.ones(4), atol=1e-5)
    for p in reactions:
        assert p.shape == every.shape
        assert ((p > 0) & (p < 1)).all()


def test_candidates_are_the_best_unseen_items() -> None:
    scores = np.array([[0.0, 5.0, 4.0, 3.0, 2.0]])
    seen = np.array([[True, True, False, False, False]])
    assert candidates(scores, seen, 2).tolist() == [[2, 3]]


def test_the_feed_orders_candidates_by_value(feed) -> None:  # type: ignore[no-untyped-def]
    retrieved = np.tile(np.arange(1, 21), (feed.n_users, 1))
    zeros = np.zeros((feed.n_users, 1), dtype=np.int64)

    def score(history, ratings, items):  # type: ignore[no-untyped-def]
        return dict.fromkeys(HEADS, items / 100.0)

    lists = feeds(feed, retrieved, (zeros, zeros), score, ValueWeights(), k=3)
    assert (lists == [20, 19, 18]).all()
