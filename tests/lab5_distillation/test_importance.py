"""Scores of heads and neurons: the first-order change of the loss when they are gone."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import InputError
from labs.lab5_distillation import importance


def tensors(seed, texts, tokens, width):
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(texts, tokens, width, generator=generator) for _ in range(2))


def by_hand(values, gradients, groups):
    """The formula, one number at a time."""
    texts, tokens, width = values.shape
    size = width // groups
    scores = []
    for group in range(groups):
        total = 0.0
        for n in range(texts):
            total += abs(
                sum(
                    float(values[n, t, c]) * float(gradients[n, t, c])
                    for t in range(tokens)
                    for c in range(group * size, (group + 1) * size)
                )
            )
        scores.append(total / texts)
    return scores


@pytest.mark.exercise("5.5")
@settings(derandomize=True, deadline=None, max_examples=40)
@given(
    texts=st.integers(1, 4),
    tokens=st.integers(1, 4),
    groups=st.integers(1, 4),
    size=st.integers(1, 3),
    seed=st.integers(0, 999),
)
def test_a_score_is_the_formula_for_any_shape(texts, tokens, groups, size, seed):
    """|sum over tokens and components of value x gradient|, then the mean over texts.

    The absolute value stands between the two sums: inside a group contributions may cancel, for it
    is removed as a whole; over texts they must not.
    """
    values, gradients = tensors(seed, texts, tokens, groups * size)
    found = importance.taylor_scores(values, gradients, groups)
    expected = by_hand(values, gradients, groups)
    assert found.shape == (groups,), f"shape {tuple(found.shape)}, expected ({groups},)"
    assert found.tolist() == pytest.approx(expected, rel=1e-4, abs=1e-5), (
        f"scores {found.tolist()}, the formula gives {expected}"
    )


@pytest.mark.exercise("5.5")
def test_a_score_is_the_change_of_a_linear_loss_when_the_group_is_zeroed():
    """For a loss that is linear in the values the first order is all there is.

    The two groups of four components each are taken away in turn, text by text.
    """
    values, weights = tensors(3, 5, 3, 8)
    found = importance.taylor_scores(values, weights, 2)
    for group in range(2):
        gone = values.clone()
        gone[:, :, 4 * group : 4 * group + 4] = 0
        change = ((values * weights).sum((1, 2)) - (gone * weights).sum((1, 2))).abs().mean()
        assert found[group].item() == pytest.approx(change.item(), rel=1e-4), (
            f"score {found[group].item():.5f} of group {group}; without it the losses change by "
            f"{change.item():.5f} on average"
        )


@pytest.mark.exercise("5.5")
def test_a_group_that_gives_nothing_or_is_not_listened_to_scores_zero():
    """A value of 0 can be cut whatever the slope, and a slope of 0 whatever the value."""
    values, gradients = tensors(1, 4, 3, 6)
    values[:, :, 0:2] = 0
    gradients[:, :, 2:4] = 0
    found = importance.taylor_scores(values, gradients, 3)
    assert found[0] == found[1] == 0 < found[2], f"scores {found.tolist()}, expected [0, 0, > 0]"


@pytest.mark.parametrize(
    ("values", "gradients", "groups"),
    [((2, 3, 8), (2, 3, 6), 2), ((2, 8), (2, 8), 2), ((2, 3, 8), (2, 3, 8), 3),
     ((2, 3, 8), (2, 3, 8), 0)],
)  # fmt: skip
def test_what_the_groups_do_not_divide_is_refused(values, gradients, groups):
    """The message gives the shapes, or the width."""
    with pytest.raises(InputError, match="must"):
        importance.taylor_scores(torch.zeros(values), torch.zeros(gradients), groups)


def test_scores_of_a_model_are_those_of_factors_before_its_heads(tiny_teacher, tiny_texts):
    """The derivative by a factor on each head's output, by autograd: another way to the number.

    Factors of 1 are put before the heads of one text at a time (Michel et al. 2019, equation 3).
    """
    import torch.nn.functional as F

    from labs.lab5_distillation.encoders import layers_of, read

    found = importance.taylor_importance(tiny_teacher, tiny_texts, batch_size=16)
    expected = torch.zeros(4, 4)
    for row in range(len(tiny_texts)):
        batch = tiny_texts.batch(np.array([row]))
        factors = torch.ones(4, 4, requires_grad=True)

        def scale(at, factors=factors):
            return lambda module, inputs: (inputs[0] * factors[at].repeat_interleave(8),)

        hooks = [
            layer.attention.output.dense.register_forward_pre_hook(scale(at))
            for at, layer in enumerate(layers_of(tiny_teacher))
        ]
        loss = F.cross_entropy(read(tiny_teacher, batch), batch.labels)
        expected += torch.autograd.grad(loss, factors)[0].abs() / len(tiny_texts)
        for hook in hooks:
            hook.remove()
    torch.testing.assert_close(torch.stack(found.heads), expected, rtol=1e-3, atol=1e-6)
    assert [len(each) for each in found.neurons] == [64] * 4


def test_scoring_leaves_the_model_as_it_was(tiny_teacher, tiny_texts):
    """No gradients, no hooks, the same mode; a frozen model is scored alike."""
    tiny_teacher.train()
    free = importance.taylor_importance(tiny_teacher, tiny_texts)
    assert tiny_teacher.training
    assert all(each.grad is None for each in tiny_teacher.parameters())
    assert not any(each._forward_pre_hooks for each in tiny_teacher.modules())
    tiny_teacher.requires_grad_(False)
    frozen = importance.taylor_importance(tiny_teacher, tiny_texts)
    assert not any(each.requires_grad for each in tiny_teacher.parameters())
    for ours, theirs in zip([*free.heads, *free.neurons], [*frozen.heads, *frozen.neurons]):
        torch.testing.assert_close(ours, theirs)


def test_scores_do_not_depend_on_the_batches(tiny_teacher, tiny_texts):
    """A text counts as one, whichever texts it stands beside."""
    one = importance.taylor_importance(tiny_teacher, tiny_texts, batch_size=7)
    other = importance.taylor_importance(tiny_teacher, tiny_texts, batch_size=80)
    torch.testing.assert_close(torch.stack(one.neurons), torch.stack(other.neurons))


def test_texts_without_labels_have_no_loss_to_change(tiny_teacher, tiny_texts):
    """The message says how many lack one."""
    with pytest.raises(InputError, match="80 of 80 texts have no label"):
        importance.taylor_importance(tiny_teacher, tiny_texts.without_labels())


def test_magnitude_is_the_norm_of_what_carries_the_output_on(tiny_teacher):
    """A head whose output matrix is 0 scores 0."""
    from labs.lab5_distillation.encoders import layers_of

    layer = layers_of(tiny_teacher)[1]
    with torch.no_grad():
        layer.attention.output.dense.weight[:, 8:16] = 0
        layer.output.dense.weight[:, 5] = 0
    found = importance.magnitude_importance(tiny_teacher)
    assert found.heads[1].argmin() == 1
    assert found.heads[1][1] == found.neurons[1][5] == 0
    expected = layer.attention.output.dense.weight[:, 24:].norm().item()
    assert found.heads[1][3].item() == pytest.approx(expected, rel=1e-5)


def test_a_random_ranking_depends_on_its_seed(tiny_teacher):
    """The control that other rankings have to beat can be drawn again."""
    first, same, other = (importance.random_importance(tiny_teacher, seed) for seed in (0, 0, 1))
    assert torch.equal(first.neurons[0], same.neurons[0])
    assert not torch.equal(first.neurons[0], other.neurons[0])


def test_an_encoder_with_heads_elsewhere_is_refused(tmp_path):
    """MPNet shares a bias by head among its layers: to cut its heads takes more than matrices."""
    from labs.lab5_distillation.encoders import classifier
    from tests.lab5_distillation.families import save

    model = classifier(save(tmp_path, "mpnet"), ("one", "two"))
    with pytest.raises(InputError, match="MPNetLayer keeps its heads or neurons elsewhere"):
        importance.widths(model)
