"""The multi-task loss: which positions count, what is a label, and what the sum is divided by."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from capstone import ranking_loss

N_ITEMS, REACTIONS = 7, 3


def outputs(
    seed: int, lengths: tuple[int, ...], length: int = 5
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Random logits, next items (0 where there is none, on the left) and labels."""
    generator = torch.Generator().manual_seed(seed)
    rows = len(lengths)
    engage = torch.randn(rows, length, N_ITEMS + 1, generator=generator)
    reactions = 2 * torch.randn(rows, length, REACTIONS, generator=generator)
    nexts = torch.randint(1, N_ITEMS + 1, (rows, length), generator=generator)
    labels = torch.randint(0, 2, (rows, length, REACTIONS), generator=generator).float()
    for row, real in enumerate(lengths):
        nexts[row, : length - real] = 0
    return engage, reactions, nexts, labels


def by_hand(
    engage: torch.Tensor, reactions: torch.Tensor, nexts: torch.Tensor, labels: torch.Tensor
) -> float:
    """The sum over real positions and all heads, one position at a time."""
    total = 0.0
    for row, at in torch.nonzero(nexts).tolist():
        total += F.cross_entropy(engage[row, at], nexts[row, at]).item()
        for head in range(REACTIONS):
            total += F.binary_cross_entropy_with_logits(
                reactions[row, at, head], labels[row, at, head]
            ).item()
    return total


@pytest.mark.exercise("7.5")
@pytest.mark.parametrize("lengths", [(5, 5), (5, 1), (2, 0), (1, 3)])
def test_the_loss_is_the_sum_over_heads_and_real_positions(lengths: tuple[int, ...]) -> None:
    """Expected: the hand-made sum over tokens. Most users have short histories, so most positions
    of a batch are padding; counted, they teach that a film that does not exist is disliked.
    """
    parts = outputs(0, lengths)
    tokens = float(sum(lengths))
    found = ranking_loss.multi_task_loss(*parts, tokens=tokens).item()
    expected = by_hand(*parts) / tokens
    assert found == pytest.approx(expected, rel=1e-5), (
        f"loss {found:.5f} for users of {lengths} interactions, expected {expected:.5f}"
    )


@pytest.mark.exercise("7.5")
def test_what_stands_at_padding_has_no_effect() -> None:
    """Expected: the same loss and a gradient of exactly 0 there, whatever logits and labels say."""
    engage, reactions, nexts, labels = outputs(1, (5, 2))
    other = [part.clone() for part in (engage, reactions, labels)]
    for part in other:
        part[nexts == 0] = 1.0
    engage.requires_grad_()
    reactions.requires_grad_()
    loss = ranking_loss.multi_task_loss(engage, reactions, nexts, labels, tokens=7.0)
    changed = ranking_loss.multi_task_loss(other[0], other[1], nexts, other[2], tokens=7.0)
    assert loss.item() == pytest.approx(changed.item(), rel=1e-6), (
        f"loss {loss.item():.5f}, and {changed.item():.5f} after changing padding alone"
    )
    loss.backward()
    for name, part in (("engage", engage), ("reactions", reactions)):
        assert part.grad is not None, f"no gradient reaches {name}"
        largest = part.grad[nexts == 0].abs().max().item()
        assert largest == 0, f"the gradient of {name} at padding is {largest:g}, expected 0"


@pytest.mark.exercise("7.5")
def test_the_mean_over_two_ranks_is_the_loss_of_the_whole_batch() -> None:
    """Expected: equal. FSDP averages gradients over ranks; if a rank divides by its own number of
    tokens, the interactions of a user beside short histories weigh more than those of another.
    """
    parts = outputs(2, (5, 4, 1, 1))
    tokens = 11.0
    whole = ranking_loss.multi_task_loss(*parts, tokens=tokens).item()
    halves = [
        ranking_loss.multi_task_loss(*(part[rows] for part in parts), tokens=tokens / 2).item()
        for rows in (slice(0, 2), slice(2, 4))
    ]
    mean = sum(halves) / 2
    assert mean == pytest.approx(whole, rel=1e-5), f"mean over ranks {mean:.5f}, whole {whole:.5f}"


@pytest.mark.exercise("7.5")
def test_a_head_learns_as_fast_beside_others_as_alone() -> None:
    """Expected: the gradient of the first reaction is the same with three heads and with one.
    Averaged over heads, each new head would slow down all the others.
    """
    engage, reactions, nexts, labels = outputs(3, (5, 3))
    gradients = []
    for heads in (1, REACTIONS):
        given = reactions[..., :heads].clone().requires_grad_()
        loss = ranking_loss.multi_task_loss(engage, given, nexts, labels[..., :heads], tokens=8.0)
        loss.backward()
        assert given.grad is not None
        gradients.append(given.grad[..., 0])
    ratio = (gradients[1].norm() / gradients[0].norm()).item()
    assert ratio == pytest.approx(1, rel=1e-5), f"beside two others its gradient is {ratio:.3f} x"


def test_a_rating_of_five_is_liked_and_loved() -> None:
    labels = ranking_loss.reaction_labels(torch.tensor([[1, 2, 3, 4, 5]]))
    assert labels[0].tolist() == [[0, 0, 1], [0, 0, 1], [0, 0, 0], [1, 0, 0], [1, 1, 0]]
