"""Leaving early: what is computed when texts really leave is what the curve says."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import InputError
from labs.lab5_distillation.early_exit import (
    all_exit_logits,
    answer_early,
    early_exit_curve,
    exit_curve,
    first_confident,
    layers_in_batches,
)
from labs.lab5_distillation.encoders import layers_of
from labs.lab5_distillation.own_deeper_head import DeeperHead, with_exits
from labs.lab5_distillation.recipe import Recipe, train
from tests.lab5_distillation.conftest import make_texts, tiny_classifier


@pytest.fixture(scope="module")
def trained():
    """A network with exits that is sure of some texts and not of others."""
    torch.manual_seed(1)
    network = with_exits(tiny_classifier(), (1, 2))
    recipe = Recipe(epochs=6, rate=3e-3, head_rate=1e-2, batch_size=16)
    train(DeeperHead(network), make_texts(80), recipe)
    return network.eval(), make_texts(40, seed=5)


def between(logits):
    """A threshold that half of the texts reach at the first exit, and none meets exactly."""
    confidence = logits[0].softmax(-1).amax(-1).sort().values
    middle = len(confidence) // 2
    return float(confidence[middle - 1 : middle + 1].mean())


def one(texts, row):
    return texts.batch(np.array([row]))


def test_a_text_alone_stops_where_the_curve_says_and_runs_no_layer_more(trained):
    """Layers are counted by hooks: a saving on paper alone would run all four."""
    network, texts = trained
    logits = all_exit_logits(network, texts)
    threshold = between(logits)
    chosen = first_confident(logits, threshold)
    ran = []
    hooks = [layer.register_forward_hook(lambda *_: ran.append(1)) for layer in layers_of(network)]
    for row, exit in enumerate(chosen):
        ran.clear()
        batch = one(texts, row)
        found = answer_early(network, batch.input_ids, batch.attention_mask, threshold=threshold)
        assert int(found.layers) == network.depths[exit] == len(ran)
        assert torch.allclose(found.logits[0], logits[exit, row], atol=1e-5)
    for hook in hooks:
        hook.remove()
    assert len(set(chosen.tolist())) > 1, "the threshold should split the texts"


def test_texts_that_leave_do_not_disturb_those_that_stay(trained):
    """In a batch rows go as they finish; each gets the answer that it would get alone."""
    network, texts = trained
    logits = all_exit_logits(network, texts)
    threshold = between(logits)
    chosen = first_confident(logits, threshold)
    sizes = []
    hooks = [
        layer.register_forward_hook(lambda _, given, __: sizes.append(len(given[0])))
        for layer in layers_of(network)
    ]
    batch = texts.batch(np.arange(len(texts)))
    found = answer_early(network, batch.input_ids, batch.attention_mask, threshold=threshold)
    for hook in hooks:
        hook.remove()
    assert found.layers.tolist() == [network.depths[exit] for exit in chosen]
    assert torch.allclose(found.logits, logits[chosen, torch.arange(len(texts))], atol=1e-5)
    assert sizes[0] == len(texts)
    assert sum(sizes) == int(found.layers.sum())


def test_above_one_every_text_goes_to_the_deepest_head_and_at_zero_none_does(trained):
    """The ends of the curve are the plain classifier and the shallowest exit."""
    network, texts = trained
    curve = early_exit_curve(network, texts, (0.0, 1.1))
    assert [point.mean_layers for point in curve.points] == [1, 4]
    accuracies = dict(curve.alone)
    assert [point.accuracy for point in curve.points] == [accuracies[1], accuracies[4]]


@settings(derandomize=True, deadline=None, max_examples=30)
@given(seed=st.integers(0, 999), low=st.floats(0, 1.05), high=st.floats(0, 1.05))
def test_more_confidence_never_costs_fewer_layers(seed, low, high):
    """Raising the threshold can only send texts deeper; accuracy promises nothing of the kind."""
    logits = 3 * torch.randn(3, 20, 4, generator=torch.Generator().manual_seed(seed))
    labels = np.random.default_rng(seed).integers(0, 4, 20)
    points = exit_curve(logits, (1, 2, 6), labels, sorted((low, high))).points
    assert points[0].mean_layers <= points[1].mean_layers
    for point in points:
        assert sum(point.shares) == pytest.approx(1)
        assert point.mean_layers == pytest.approx(np.dot(point.shares, (1, 2, 6)))


def test_in_a_batch_the_slowest_text_decides():
    """One text in ten goes through all six layers: alone 1.5 layers, in batches of 32 nearly 6."""
    layers = np.array([1] * 90 + [6] * 10)
    assert layers_in_batches(layers, 1) == pytest.approx(1.5, abs=0.2)
    expected = 6 - 5 * 0.9**32
    assert layers_in_batches(layers, 32) == pytest.approx(expected, abs=0.1)


def test_a_model_in_training_mode_is_refused(trained):
    """Dropout would decide who leaves."""
    network, texts = trained
    batch = one(texts, 0)
    network.train()
    try:
        with pytest.raises(InputError, match="must be False"):
            answer_early(network, batch.input_ids, batch.attention_mask, threshold=0.5)
    finally:
        network.eval()
