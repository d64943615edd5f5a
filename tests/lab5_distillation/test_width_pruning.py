"""Students by width: matrices that are really smaller, and nothing lost that was not cut."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from common.errors import InputError
from labs.lab5_distillation.encoders import classifier, layers_of, n_parameters
from labs.lab5_distillation.importance import (
    Importance,
    magnitude_importance,
    random_importance,
    taylor_importance,
    widths,
)
from labs.lab5_distillation.recipe import accuracy, logits
from labs.lab5_distillation.width_pruning import (
    by_width,
    cut,
    cutting_curve,
    keep_inputs,
    keep_outputs,
)
from tests.lab5_distillation.conftest import make_texts, tiny_classifier
from tests.lab5_distillation.families import CUT, save

IDS = torch.tensor([[1, 5, 6, 7, 2]])


def answer(model):
    with torch.no_grad():
        return model(IDS, torch.ones_like(IDS))


@pytest.mark.parametrize("family", CUT)
def test_any_of_the_known_encoders_is_cut(family, tmp_path):
    """With nothing cut the logits are exactly the teacher's; with half of it, half is gone."""
    teacher = classifier(save(tmp_path, family), ("one", "two")).eval()
    scores = random_importance(teacher)
    assert torch.equal(answer(by_width(teacher, importance=scores)), answer(teacher))
    student = by_width(teacher, importance=scores, heads=2, inner=16)
    assert widths(student) == [(2, 16)] * 4
    assert widths(teacher) == [(4, 64)] * 4
    assert answer(student).shape == (1, 2)
    # 3 of 4 parts of the pair, half of the four maps: of 32 x 32 and 32 x 64, with their biases.
    gone = 4 * (3 * (16 * 32 + 16) + 32 * 16 + 48 * 32 + 48 + 32 * 48)
    assert n_parameters(teacher) - n_parameters(student) == gone
    config = student.encoder.config
    assert config.num_attention_heads == 2
    assert getattr(config, "hidden_dim", None) == 16 or config.intermediate_size == 16
    assert teacher.encoder.config.num_attention_heads == 4


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_cutting_a_head_whose_output_is_zero_changes_nothing(attention):
    """And the same for a neuron: what was cut is what is gone, in every layer another one."""
    teacher = tiny_classifier(attention=attention)
    heads, neurons = [], []
    with torch.no_grad():
        for at, layer in enumerate(layers_of(teacher)):
            for each in layer.modules():
                if isinstance(each, nn.Linear):
                    each.bias.normal_(0, 0.1)
            layer.attention.output.dense.weight[:, 8 * at : 8 * at + 8] = 0
            layer.output.dense.weight[:, at : at + 9] = 0
            heads.append([head for head in range(4) if head != at])
            neurons.append([i for i in range(64) if not at <= i < at + 9])
    texts = make_texts(20)
    torch.testing.assert_close(
        logits(cut(teacher, heads, neurons), texts), logits(teacher, texts), rtol=1e-4, atol=1e-5
    )
    wrong = [heads[-1], *heads[:-1]]
    assert (logits(cut(teacher, wrong, neurons), texts) - logits(teacher, texts)).abs().max() > 1e-3


def test_what_matters_most_is_kept():
    """Scores decide, layer by layer; ties and order do not shuffle what is kept."""
    teacher = tiny_classifier()
    scores = Importance(
        [torch.tensor([0.1, 0.4, 0.2, 0.3]).roll(at) for at in range(4)],
        [torch.arange(64.0).roll(at) for at in range(4)],
    )
    student = by_width(teacher, importance=scores, heads=2, inner=1)
    for at, (kept, full) in enumerate(zip(layers_of(student), layers_of(teacher))):
        expected = sorted([(1 + at) % 4, (3 + at) % 4])
        value = full.attention.self.value.weight.view(4, 8, 32)[expected].reshape(16, 32)
        assert torch.equal(kept.attention.self.value.weight, value)
        neuron = (63 + at) % 64
        assert torch.equal(
            kept.intermediate.dense.weight[0], full.intermediate.dense.weight[neuron]
        )
        assert torch.equal(kept.output.dense.weight[:, 0], full.output.dense.weight[:, neuron])
        assert torch.equal(kept.output.dense.bias, full.output.dense.bias)


@settings(derandomize=True, deadline=None, max_examples=30)
@given(seed=st.integers(0, 99), n=st.integers(1, 6), bias=st.booleans())
def test_a_cut_map_is_the_one_that_transformers_cuts(seed, n, bias):
    """Against ``transformers.pytorch_utils.prune_linear_layer``, rows and columns."""
    from transformers.pytorch_utils import prune_linear_layer

    torch.manual_seed(seed)
    layer = nn.Linear(6, 6, bias=bias)
    kept = torch.randperm(6)[:n]
    for ours, dim in ((keep_outputs, 0), (keep_inputs, 1)):
        found, expected = ours(layer, kept), prune_linear_layer(layer, kept, dim=dim)
        assert torch.equal(found.weight, expected.weight)
        assert (found.bias is None) == (expected.bias is None)
        if bias:
            assert torch.equal(found.bias, expected.bias)
        assert (found.in_features, found.out_features) == (
            expected.in_features, expected.out_features,
        )  # fmt: skip


def test_a_narrow_student_shares_nothing_and_learns():
    """Of a frozen teacher as well."""
    teacher = tiny_classifier().requires_grad_(False)
    student = by_width(teacher, importance=random_importance(teacher), heads=1, inner=8)
    ours = {each.untyped_storage().data_ptr() for each in student.parameters()}
    assert not ours & {each.untyped_storage().data_ptr() for each in teacher.parameters()}
    assert all(each.requires_grad for each in student.parameters())
    assert not any(each.requires_grad for each in teacher.parameters())


def test_saved_weights_fit_a_new_model_that_was_cut_to_the_same_sizes():
    """Which heads and neurons that one kept does not matter: the weights say."""
    teacher = tiny_classifier()
    student = by_width(teacher, importance=random_importance(teacher), heads=3, inner=20)
    rebuilt = cut(tiny_classifier(seed=9), [[0, 1, 2]] * 4, [list(range(20))] * 4)
    rebuilt.load_state_dict(student.state_dict())
    assert torch.equal(answer(rebuilt), answer(student))


def test_layers_may_keep_different_numbers():
    """The config then goes on saying what the teacher's said."""
    student = cut(tiny_classifier(), [[0], [1, 2], [3], [0, 3]], [[0], [1], [2], [3, 4]])
    assert widths(student) == [(1, 1), (2, 1), (1, 1), (2, 2)]
    assert student.encoder.config.num_attention_heads == 4
    assert answer(student).isfinite().all()


@pytest.mark.parametrize(
    ("heads", "neurons", "message"),
    [
        ([[0]] * 3, [[0]] * 4, "heads of 3 layers given; the encoder has 4"),
        ([[0], [0], [], [0]], [[0]] * 4, r"heads \[\] of layer 2"),
        ([[0]] * 4, [[0], [64], [0], [0]], r"neurons \[64\] of layer 1 .* 0 to 63"),
        ([[1, 1]] * 4, [[0]] * 4, r"heads \[1, 1\] of layer 0"),
    ],
)
def test_what_cannot_be_cut_is_refused_by_layer(heads, neurons, message):
    """No head at all, one twice, or one that the layer lacks."""
    with pytest.raises(InputError, match=message):
        cut(tiny_classifier(), heads, neurons)


@pytest.mark.parametrize("sizes", [{"heads": 0}, {"heads": 5}, {"inner": 65}, {"inner": 0}])
def test_a_width_that_the_teacher_lacks_is_refused(sizes):
    """The message names the limit."""
    teacher = tiny_classifier()
    with pytest.raises(InputError, match=r"must be from 1 to (4|64) per layer"):
        by_width(teacher, importance=random_importance(teacher), **sizes)


def test_scores_foretell_what_cutting_one_head_or_neuron_does():
    """To first order: each is really cut out alone, and the losses of the texts are looked at."""
    import torch.nn.functional as F

    teacher = tiny_classifier(layers=2)
    with torch.no_grad():
        for name, parameter in teacher.named_parameters():
            if "attention" in name and name.endswith("weight"):
                parameter.mul_(3)  # so that a head does more than rounding shows
    texts = make_texts(40)
    labels = torch.from_numpy(texts.labels)
    scores = taylor_importance(teacher, texts)
    before = F.cross_entropy(logits(teacher, texts), labels, reduction="none")
    full = ([[0, 1, 2, 3]] * 2, [list(range(64))] * 2)

    def change(heads, neurons):
        after = logits(cut(teacher, heads, neurons), texts)
        return (F.cross_entropy(after, labels, reduction="none") - before).abs().mean().item()

    for layer in range(2):
        for head in range(4):
            kept = [[h for h in range(4) if at != layer or h != head] for at in range(2)]
            expected = change(kept, full[1])
            assert scores.heads[layer][head].item() == pytest.approx(expected, rel=0.25)
    for neuron in (0, 13, 63):
        kept = [full[1][0], [i for i in range(64) if i != neuron]]
        assert scores.neurons[1][neuron].item() == pytest.approx(change(full[0], kept), rel=0.25)


def test_a_curve_has_a_point_for_each_ranking_and_share():
    """With all that it has a student answers as its teacher does, whatever the ranking."""
    teacher, texts = tiny_classifier(), make_texts(60)
    rankings = {"taylor": taylor_importance(teacher, texts), "size": magnitude_importance(teacher)}
    found = cutting_curve(teacher, texts, rankings, shares=(1.0, 0.3))
    assert [(each.ranking, each.heads, each.inner) for each in found] == [
        ("taylor", 4, 64), ("taylor", 1, 19), ("size", 4, 64), ("size", 1, 19),
    ]  # fmt: skip
    assert found[0].accuracy == found[2].accuracy == accuracy(logits(teacher, texts), texts)
