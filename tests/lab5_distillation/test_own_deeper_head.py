"""Exits taught by the deepest head: the loss by hand, its gradients, and students cut out."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import InputError
from labs.lab5_distillation import own_deeper_head


def make(seed, heads, batch, classes):
    generator = torch.Generator().manual_seed(seed)
    draw = lambda: 2 * torch.randn(batch, classes, generator=generator, dtype=torch.double)  # noqa: E731
    labels = torch.randint(classes, (batch,), generator=generator)
    return [draw().requires_grad_() for _ in range(heads)], labels


def by_hand(logits, labels, temperature, alpha, weights):
    """The docstring's formula, one text and one class at a time."""

    def softmax(row, t):
        top = max(row)
        powers = [math.exp((value - top) / t) for value in row]
        return [power / sum(powers) for power in powers]

    def cross_entropy(rows):
        return -sum(math.log(softmax(r, 1.0)[y]) for r, y in zip(rows, labels.tolist())) / len(rows)

    rows = [each.tolist() for each in logits]
    total = weights[-1] * cross_entropy(rows[-1])
    for weight, shallow in zip(weights[:-1], rows[:-1], strict=True):
        kl = 0.0
        for mine, deep in zip(shallow, rows[-1], strict=True):
            p, q = softmax(deep, temperature), softmax(mine, temperature)
            kl += sum(a * math.log(a / b) for a, b in zip(p, q)) / len(shallow)
        total += weight * ((1 - alpha) * cross_entropy(shallow) + alpha * temperature**2 * kl)
    return total / sum(weights)


@pytest.mark.exercise("5.12")
@settings(derandomize=True, deadline=None, max_examples=40)
@given(
    heads=st.integers(2, 4),
    batch=st.integers(1, 5),
    temperature=st.floats(0.5, 6),
    alpha=st.floats(0, 1),
    seed=st.integers(0, 999),
)
def test_the_loss_of_the_exits_is_the_formula(heads, batch, temperature, alpha, seed):
    """Labels for every head, the deepest head's softened answers for the others, weighted."""
    logits, labels = make(seed, heads, batch, 4)
    weights = [1.0 + 0.5 * i for i in range(heads)]
    found = own_deeper_head.deeper_head_loss(
        logits, labels, temperature=temperature, alpha=alpha, weights=weights
    )
    found = found.detach()
    expected = by_hand(logits, labels, temperature, alpha, weights)
    assert float(found) == pytest.approx(expected, rel=1e-6, abs=1e-9), (
        f"loss {float(found):.6f}, the formula gives {expected:.6f} (T {temperature:.3f}, "
        f"alpha {alpha:.3f}, {heads} heads, weights {weights})"
    )


@pytest.mark.exercise("5.12")
def test_without_weights_every_head_counts_once():
    """None means 1 for each, and the loss stays a mean: a head more does not raise the rate."""
    logits, labels = make(3, 3, 4, 5)
    found = own_deeper_head.deeper_head_loss(logits, labels, temperature=2.0, alpha=0.4)
    found = found.detach()
    expected = by_hand(logits, labels, 2.0, 0.4, [1.0, 1.0, 1.0])
    assert float(found) == pytest.approx(expected), f"loss {float(found)}, expected {expected}"


@pytest.mark.exercise("5.12")
def test_the_deepest_head_learns_from_the_labels_alone():
    """Its gradient is that of its own cross-entropy: shallow heads must not pull it towards them.

    Without the stop the network's best head is trained to be easy to imitate.
    """
    logits, labels = make(0, 3, 6, 4)
    own_deeper_head.deeper_head_loss(logits, labels, temperature=3.0, alpha=0.7).backward()
    alone = logits[-1].detach().clone().requires_grad_()
    (torch.nn.functional.cross_entropy(alone, labels) / 3).backward()
    found = logits[-1].grad if logits[-1].grad is not None else torch.zeros_like(alone)
    difference = float((found - alone.grad).abs().max())
    assert difference < 1e-12, (
        f"the gradient at the deepest head differs from that of its labels by {difference:.3g}; "
        f"its norm is {float(found.norm()):.4f}, that of the labels {float(alone.grad.norm()):.4f}"
    )


@pytest.mark.exercise("5.12")
def test_with_alpha_one_shallow_heads_do_not_see_the_labels():
    """The deepest head is then their only teacher, each of them: not the next deeper one."""
    logits, labels = make(1, 3, 6, 4)
    other = (labels + 1) % 4
    gradients = []
    for targets in (labels, other):
        leaves = [each.detach().clone().requires_grad_() for each in logits]
        own_deeper_head.deeper_head_loss(leaves, targets, temperature=2.0, alpha=1.0).backward()
        gradients.append(leaves[0].grad)
    change = float((gradients[0] - gradients[1]).abs().max())
    assert change == 0, f"other labels change the shallowest head's gradient by {change:.3g}, not 0"
    same = [logits[-1].detach().clone().requires_grad_() for _ in range(3)]
    own_deeper_head.deeper_head_loss(same, labels, temperature=2.0, alpha=1.0).backward()
    size = float(same[0].grad.abs().max())
    assert size < 1e-12, f"a head that says what the deepest says has gradient {size:.3g}, not 0"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"temperature": 0.0}, "temperature = 0.0"),
        ({"alpha": 1.5}, "alpha = 1.5"),
        ({"weights": [1.0]}, "must be 3 values"),
        ({"weights": [0.0, 0.0, 0.0]}, "not all 0"),
    ],
)
def test_a_loss_that_means_nothing_is_refused(change, words):
    logits, labels = make(0, 3, 2, 4)
    with pytest.raises(InputError, match=words):
        own_deeper_head.deeper_head_loss(
            logits, labels, **{"temperature": 2.0, "alpha": 0.5, **change}
        )


@pytest.fixture
def network(tiny_teacher):
    torch.manual_seed(1)
    return own_deeper_head.with_exits(tiny_teacher, (1, 2))


def all_of(texts):
    return texts.batch(torch.arange(12).numpy())


def test_the_deepest_exit_is_the_plain_classifier(network, tiny_teacher, tiny_texts):
    """Heads on the side change nothing of the network that they read."""
    from labs.lab5_distillation.encoders import read

    batch = all_of(tiny_texts)
    with torch.no_grad():
        expected = read(tiny_teacher, batch)
        assert torch.allclose(read(network, batch), expected, atol=1e-6)
        assert torch.allclose(
            network.exit_logits(batch.input_ids, batch.attention_mask)[-1], expected, atol=1e-5
        )


@pytest.mark.parametrize("layers", [1, 2, 4])
def test_a_student_cut_out_at_an_exit_says_what_the_exit_says(network, tiny_texts, layers):
    """What is served is a plain classifier without the layers above and the other heads."""
    from labs.lab5_distillation.encoders import TextClassifier, layers_of, read

    student = own_deeper_head.cut(network, layers)
    batch = all_of(tiny_texts)
    with torch.no_grad():
        exits = network.exit_logits(batch.input_ids, batch.attention_mask)
        expected = exits[network.depths.index(layers)]
        assert torch.allclose(read(student, batch), expected, atol=1e-5)
    assert type(student) is TextClassifier
    assert len(layers_of(student)) == layers
    assert not any(name.startswith("heads") for name in student.state_dict())
    mine = {each.data_ptr() for each in network.parameters()}
    assert not any(each.data_ptr() in mine for each in student.parameters())


def test_every_head_and_the_encoder_learn(network, tiny_texts):
    """A step of the objective moves the parameters of all, and accuracy of each exit follows."""
    from labs.lab5_distillation.early_exit import all_exit_logits
    from labs.lab5_distillation.recipe import Recipe, accuracy, train

    losses = train(
        own_deeper_head.DeeperHead(network, feature_weight=0.1),
        tiny_texts,
        Recipe(epochs=8, rate=3e-3, head_rate=1e-2, batch_size=16),
    )
    assert losses[-1] < 0.6 * losses[0], losses
    right = [accuracy(each, tiny_texts) for each in all_exit_logits(network, tiny_texts)]
    assert min(right) > 0.5, right


def test_the_hint_on_features_does_not_move_the_deepest_states(network, tiny_texts):
    """The hint is another path from the shallow exits to the deep layers, and stopped as well."""
    from labs.lab5_distillation.encoders import layers_of

    batch = all_of(tiny_texts)
    gradients = []
    for weight in (0.0, 5.0):
        network.zero_grad()
        own_deeper_head.DeeperHead(network, feature_weight=weight)(batch).backward()
        top = layers_of(network)[3].output.dense.weight.grad
        low = layers_of(network)[0].output.dense.weight.grad
        gradients.append((top.clone(), low.clone()))
    assert torch.equal(gradients[0][0], gradients[1][0])
    assert not torch.allclose(gradients[0][1], gradients[1][1])


@pytest.mark.parametrize("exits", [(), (0,), (4,), (2, 1), (1, 1)])
def test_exits_that_are_no_shallow_ones_are_refused(tiny_teacher, exits):
    with pytest.raises(InputError, match="must rise from at least 1 to below 4"):
        own_deeper_head.with_exits(tiny_teacher, exits)


def test_a_cut_where_no_head_reads_is_refused(network):
    with pytest.raises(InputError, match="exit = 3 must be one of"):
        own_deeper_head.cut(network, 3)
