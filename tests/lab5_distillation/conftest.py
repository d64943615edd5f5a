"""A small random BERT and synthetic texts: what the tests of this lab train in seconds."""

from __future__ import annotations

import numpy as np
import pytest

CLASSES = 5
VOCABULARY = 120


def tiny_classifier(layers=4, seed=0, classes=CLASSES, *, width=32, attention="eager"):
    """A random BERT with a head: width 32, 4 heads, feed-forward 64, 32 positions."""
    import torch
    from transformers import BertConfig, BertModel

    from labs.lab5_distillation.encoders import TextClassifier

    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=4,
        intermediate_size=2 * width,
        max_position_embeddings=32,
        attn_implementation=attention,
    )
    encoder = BertModel(config, add_pooling_layer=False)
    names = tuple(f"class {i}" for i in range(classes))
    return TextClassifier(encoder, names).eval()


def make_texts(n=80, seed=0, classes=CLASSES):
    """Texts of 4 to 12 tokens (synthetic); most words of a text are its class's own."""
    from labs.lab5_distillation.tokens import TokenSet

    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, n)
    ids = []
    for label in labels:
        length = int(rng.integers(2, 11))
        own = 10 + 20 * label + rng.integers(0, 20, length)
        words = np.where(rng.random(length) < 0.7, own, rng.integers(10, VOCABULARY, length))
        ids.append([1, *words.tolist(), 2])
    return TokenSet(ids, labels.astype(np.int64))


@pytest.fixture
def tiny_teacher():
    """A random 4-layer classifier, new for each test."""
    return tiny_classifier()


@pytest.fixture(scope="session")
def tiny_texts():
    """80 synthetic texts of 5 classes."""
    return make_texts()
