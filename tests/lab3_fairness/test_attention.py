import numpy as np
import pytest
import torch
from captum.attr import IntegratedGradients
from torch.nn import functional

from common.data import load
from common.errors import InputError
from labs.lab3_fairness import attention as at
from labs.lab3_fairness import attention_study as study
from labs.lab3_fairness.figures_faithfulness import draw_attention
from labs.lab3_fairness.tabular import adult_task

SIZES = (2, 0, 0, 0, 3, 1)


@pytest.fixture(scope="module")
def fitted():
    """A small model that has seen a little of everything: rows, labels, model."""
    rows, labels = study.planted_rows(600)
    labels = labels ^ (rows[:, 1] > 0.8)
    training = at.Training(epochs=3, batch=64, width=16, heads=2)
    return rows, labels, at.fit_transformer(rows, labels, SIZES, training)


def test_our_attention_is_torchs(fitted):
    """softmax(QK / sqrt(k)) V and the output map, against ``multi_head_attention_forward``."""
    rows, _, model = fitted
    layer = model.stack()[0]
    tokens = model.tokens(at.as_tensor(model, rows[:5]))
    x = layer.before_attention(tokens).transpose(0, 1)
    three = (layer.query, layer.key, layer.value)
    mixed, weights = functional.multi_head_attention_forward(
        x, x, x, 16, 2,
        torch.cat([each.weight for each in three]), torch.cat([each.bias for each in three]),
        None, None, False, 0.0, layer.out.weight, layer.out.bias,
        training=False, average_attn_weights=False,
    )  # fmt: skip
    ours = layer.weights(tokens)
    assert torch.allclose(ours, weights, atol=1e-6)
    handed = layer.out((ours @ layer.values(tokens)).transpose(1, 2).flatten(2))
    assert torch.allclose(handed, mixed.transpose(0, 1), atol=1e-5)


def test_integrated_gradients_are_captums_and_add_up(fitted):
    """Same steps, same credits; and they sum to the logit minus that of the mean tokens."""
    rows, _, model = fitted
    shown, background = rows[:6], rows[50:80]
    ours = at.integrated_gradients(model, shown, background)
    with torch.no_grad():
        tokens = model.tokens(at.as_tensor(model, shown))
        start = model.tokens(at.as_tensor(model, background)).mean(dim=0, keepdim=True)
        gap = model.from_tokens(tokens) - model.from_tokens(start)
    library = IntegratedGradients(model.from_tokens).attribute(
        tokens, start.expand_as(tokens), n_steps=32, method="riemann_middle"
    )
    assert ours == pytest.approx(library.sum(dim=2)[:, 1:].detach().numpy(), abs=1e-4)
    many = at.integrated_gradients(model, shown, background, n_steps=256).sum(axis=1)
    assert many == pytest.approx(gap.numpy(), abs=0.02)


def test_rollout_of_one_layer_is_half_its_attention(fitted):
    """(A + 1) / 2: the identity goes to CLS itself, the columns keep half of A."""
    rows, labels, model = fitted
    shallow = at.fit_transformer(
        rows, labels, SIZES, at.Training(epochs=1, width=16, heads=2, depth=1)
    )
    raw, rollout = at.raw_attention(shallow, rows[:9]), at.attention_rollout(shallow, rows[:9])
    assert rollout == pytest.approx(raw / 2, abs=1e-6)
    deep = at.attention_rollout(model, rows[:9])
    assert (deep >= 0).all()
    assert (deep.sum(axis=1) < 1).all()


def test_value_weighted_attention_is_zero_where_nothing_is_handed_over(fitted):
    """With values of 0 the weights stay as they are and mean nothing."""
    rows, labels, _ = fitted
    model = at.fit_transformer(rows, labels, SIZES, at.Training(epochs=1, width=16, heads=2))
    last = model.stack()[-1].value
    with torch.no_grad():
        last.weight.zero_()
        last.bias.zero_()
    assert at.raw_attention(model, rows[:5]).min() > 0
    assert np.abs(at.value_weighted_attention(model, rows[:5])).max() == 0


def test_training_repeats_with_its_seed_and_leaves_torchs_state(fitted):
    rows, labels, model = fitted
    torch.manual_seed(3)
    before = torch.get_rng_state()
    training = at.Training(epochs=3, batch=64, width=16, heads=2)
    again = at.fit_transformer(rows, labels, SIZES, training)
    assert torch.equal(torch.get_rng_state(), before)
    assert np.array_equal(at.as_predict(again)(rows), at.as_predict(model)(rows))
    other = at.fit_transformer(rows, labels, SIZES, training, seed=1)
    assert not np.array_equal(at.as_predict(other)(rows), at.as_predict(model)(rows))


def test_another_attention_has_the_same_output_and_is_known_in_a_small_case():
    """Three tokens hand over 0, 1 and 0.5 in one dimension, CLS looks at the last one only.

    Half of each of the others gives 0.5 as well: the last one's weight can be 0.
    """
    values = np.array([[0.0], [1.0], [0.5]])
    other = study.other_attention(np.array([0.0, 0.0, 1.0]), values)
    assert other == pytest.approx([0.5, 0.5, 0.0], abs=1e-9)
    unique = study.other_attention(np.array([0.2, 0.3, 0.5]), np.eye(3))
    assert unique == pytest.approx([0.2, 0.3, 0.5], abs=1e-9)


def test_replaced_attention_leaves_the_logit_where_it_was(fitted):
    """Wider attention than a head has dimensions: part of it says nothing about the output."""
    rows, labels, _ = fitted
    model = at.fit_transformer(rows, labels, SIZES, at.Training(epochs=2, width=12, heads=6))
    found = study.replace_attention(model, rows[:20])
    assert found.change.max() < 1e-4
    assert found.moved.mean() > 0.1
    assert found.top_after.mean() < found.top_before.mean()


def test_shuffling_attention_that_is_uniform_changes_nothing(fitted):
    """With keys of 0 all weights are alike, and no order of them differs from another."""
    rows, labels, model = fitted
    assert study.permuted_change(model, rows[:30]).max() > 1e-4
    flat = at.fit_transformer(rows, labels, SIZES, at.Training(epochs=1, width=16, heads=2))
    key = flat.stack()[-1].key
    with torch.no_grad():
        key.weight.zero_()
        key.bias.zero_()
    assert study.permuted_change(flat, rows[:30]).max() < 1e-6


def test_ablation_of_a_column_that_is_constant_is_zero(fitted):
    rows, _, model = fitted
    found = study.ablation(at.as_predict(model), rows[:8], rows[100:120])
    assert found.shape == (8, 6)
    assert np.abs(found[:, 5]).max() < 1e-5
    assert np.abs(found[:, 0]).min() > 0.05


@pytest.fixture(scope="module")
def planted():
    return {strength: study.planted_attention(strength) for strength in (0.0, 0.3)}


def test_a_model_that_decides_by_one_column_can_look_elsewhere(planted):
    """The label is the group, and the model knows it: accuracy 1.

    A penalty moves the attention away and costs nothing. Attention in any form says that the
    group does not matter; ablation and integrated gradients are not taken in.
    """
    found = planted[0.3]
    assert found.accuracy == 1
    assert found.attention[0] < 0.005
    for method in ("attention, last layer", "value-weighted attention"):
        assert found.shares[method][0] < 0.01
    assert found.shares["attention rollout"][0] < 0.3
    assert found.shares["integrated gradients"][0] > 0.8
    assert found.shares["ablation"][0] > 0.98


def test_a_constant_column_gets_attention_and_cannot_matter(planted):
    """Without any penalty: a column with one value can change no output and still gets a share."""
    found = planted[0.0]
    assert found.accuracy == 1
    assert found.attention[-1] > 0.05
    assert found.shares["ablation"][-1] < 1e-3
    assert found.shares["ablation"][0] > 0.98 > found.shares["attention, last layer"][0]


def test_attention_on_adult_ranks_worse_than_gradients_and_than_a_fixed_list(planted):
    """The judge is ablation. A list that knows nothing of the row is the control."""
    adult = load("adult")
    result = study.study_attention(
        adult_task(adult.table("train")),
        adult_task(adult.table("test")),
        n_train=12_000,
        n_rows=60,
        n_background=10,
        n_deleted=10,
        n_programmes=5,
        training=at.Training(epochs=3, batch=256),
    )
    assert result.accuracy > 0.84
    for rival in ("integrated gradients", "Shapley", "one ranking for all"):
        difference, (low, high) = result.difference(rival, "attention, last layer")
        assert 0 < low < difference < high
    assert np.median(result.permuted) < np.median(result.removed)
    assert result.other.change.max() < 1e-3
    assert result.judge_profile.sum() == pytest.approx(1)
    figure = draw_attention(result, planted[0.3])
    assert figure.axes[0].get_title() == "Adult, mean over 60 rows"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": np.zeros(600, dtype=int)}, "both 0 and 1 must occur"),
        ({"sizes": (2, 0)}, r"2 sizes must be \[n, d\]"),
        ({"training": {"epochs": 0}}, "epochs = 0 must be >= 1"),
        ({"training": {"width": 10, "heads": 4}}, "width = 10 must be a multiple of heads = 4"),
    ],
)
def test_what_cannot_be_trained_is_refused(fitted, change, message):
    rows, labels, _ = fitted
    given = {"labels": labels, "sizes": SIZES, "training": {}, **change}
    with pytest.raises(InputError, match=message):
        at.fit_transformer(rows, given["labels"], given["sizes"], at.Training(**given["training"]))
