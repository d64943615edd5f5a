"""The hidden-state loss against its formula; projections that learn; the objective."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from common.errors import InputError
from labs.lab5_distillation import hidden_states


def states(batch, length, ours, theirs, seed=0):
    """Student [B, L, S], teacher [B, L, T], and a mask with 1 to L real tokens a text."""
    generator = torch.Generator().manual_seed(seed)
    draw = lambda width: torch.randn(batch, length, width, generator=generator)  # noqa: E731
    lengths = torch.randint(1, length + 1, (batch,), generator=generator)
    return draw(ours), draw(theirs), (torch.arange(length) < lengths[:, None]).long()


@pytest.mark.exercise("5.8")
@settings(derandomize=True, deadline=None, max_examples=30)
@given(
    batch=st.integers(1, 4),
    length=st.integers(1, 6),
    ours=st.integers(1, 5),
    theirs=st.integers(1, 5),
    seed=st.integers(0, 999),
)
def test_the_loss_is_a_mean_over_real_tokens_and_the_teachers_width(
    batch, length, ours, theirs, seed
):
    """One token at a time, by hand. Padding counted in either sum makes it another number."""
    student, teacher, mask = states(batch, length, ours, theirs, seed)
    torch.manual_seed(seed)
    linear = nn.Linear(ours, theirs)
    with torch.no_grad():
        loss = float(hidden_states.hidden_state_loss(student, teacher, mask, linear))
        squares = [
            float((linear(student[b, t]) - teacher[b, t]).square().sum()) / theirs
            for b in range(batch)
            for t in range(length)
            if mask[b, t]
        ]
    expected = sum(squares) / len(squares)
    assert loss == pytest.approx(expected, rel=1e-4, abs=1e-6), (
        f"loss {loss:.6f}, by hand {expected:.6f} ({int(mask.sum())} real of {mask.numel()} tokens)"
    )


@pytest.mark.exercise("5.8")
def test_padding_a_batch_further_changes_nothing():
    """The length of the longest text in the batch is no property of the others."""
    student, teacher, mask = states(3, 5, 4, 4)
    longer = [torch.cat([each, torch.full((3, 7, 4), 9.0)], dim=1) for each in (student, teacher)]
    longer[0][:, 5:] = -9.0
    wide = torch.cat([mask, torch.zeros(3, 7, dtype=mask.dtype)], dim=1)
    short = float(hidden_states.hidden_state_loss(student, teacher, mask, nn.Identity()))
    long = float(hidden_states.hidden_state_loss(*longer, wide, nn.Identity()))
    assert long == pytest.approx(short, rel=1e-5), (
        f"loss {long:.6f} with 7 tokens of padding more, {short:.6f} without"
    )


@pytest.mark.exercise("5.8")
def test_student_and_projection_learn_and_the_teacher_does_not():
    """A detached projection leaves the student to chase a random map of the teacher."""
    student, teacher, mask = states(3, 4, 4, 6)
    student.requires_grad_(True), teacher.requires_grad_(True)
    torch.manual_seed(0)
    linear = nn.Linear(4, 6)
    loss = hidden_states.hidden_state_loss(student, teacher, mask, linear)
    assert loss.requires_grad, "the loss has no graph: requires_grad is False, expected True"
    loss.backward()
    for name, gradient in (("student", student.grad), ("projection", linear.weight.grad)):
        assert gradient is not None, f"the {name}'s gradient is None, expected numbers"
        assert float(gradient.abs().sum()) > 0, f"the {name}'s gradient is 0, expected numbers"
    assert teacher.grad is None, f"the teacher got a gradient, {teacher.grad}; expected None"


def test_a_shape_that_does_not_fit_or_an_empty_mask_is_refused():
    """Shapes that broadcast would give a loss of something else; a mean over none is NaN."""
    student, teacher, mask = states(3, 4, 4, 4)
    with pytest.raises(InputError, match="must agree in texts and tokens"):
        hidden_states.hidden_state_loss(student, teacher[:1], mask, nn.Identity())
    with pytest.raises(InputError, match="no real token"):
        hidden_states.hidden_state_loss(student, teacher, 0 * mask, nn.Identity())
    with pytest.raises(InputError, match="no real token"):
        hidden_states.cosine_loss(student, teacher, 0 * mask, nn.Identity())


def test_the_projection_starts_as_the_identity_where_it_can():
    """A student with the teacher's own states has loss 0 in the first step."""
    student, _, mask = states(2, 4, 6, 6)
    linear = hidden_states.projection(6, 6)
    assert hidden_states.hidden_state_loss(student, student, mask, linear).item() == 0
    torch.manual_seed(0)
    wider = hidden_states.projection(4, 6).weight
    assert torch.allclose(wider.T @ wider, torch.eye(4), atol=1e-5)


def test_the_normalised_loss_ignores_scale_and_shift_of_each_token():
    """And a zero-mean unit-variance pair is compared as hidden_state_loss does."""
    student, teacher, mask = states(3, 4, 8, 8)
    changed = 3 * student + 5
    loss = hidden_states.normalised_loss
    same = nn.Identity()
    assert float(loss(changed, teacher, mask, same)) == pytest.approx(
        float(loss(student, teacher, mask, same)), rel=1e-4
    )
    assert float(loss(changed, student, mask, same)) == pytest.approx(0, abs=1e-4)


def test_the_cosine_loss_has_its_closed_values():
    """0 for the same direction, 1 at right angles, 2 for the opposite one; padding is out."""
    x = torch.tensor([[[1.0, 0.0], [7.0, 7.0]]])
    mask = torch.tensor([[1, 0]])
    for other, expected in (([2.0, 0.0], 0), ([0.0, 3.0], 1), ([-1.0, 0.0], 2)):
        y = torch.tensor([[other, [-1.0, 5.0]]])
        found = float(hidden_states.cosine_loss(x, y, mask, nn.Identity()))
        assert found == pytest.approx(expected, abs=1e-6)
