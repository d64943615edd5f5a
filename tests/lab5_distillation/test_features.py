"""Sparse batches and the model that reads them."""

import numpy as np
import pytest
import torch

from labs.lab5_distillation.features import Batches, TextSet, vectorizer
from labs.lab5_distillation.models import BagClassifier, n_parameters

TEXTS = ["fit the model", "draw a plot of the model", "", "open a file", "close the file"]


@pytest.fixture
def texts():
    return TextSet(vectorizer(64).fit_transform(TEXTS), np.arange(5))


def test_a_bag_is_the_dense_vector_times_the_table(texts):
    """EmbeddingBag over sparse rows is the first linear layer of a dense perceptron."""
    torch.manual_seed(0)
    model = BagClassifier(64, 6, 3, dropout=0.5).eval()
    bags, labels = texts.batch(np.array([3, 2, 0]))
    assert labels.tolist() == [3, 2, 0]
    dense = torch.tensor(texts.features[[3, 2, 0]].toarray(), dtype=torch.float32)
    hidden = torch.relu(dense @ model.words.weight)
    expected = model.head(torch.relu(model.hidden(hidden)))
    assert torch.allclose(model(bags), expected, atol=1e-6)
    assert n_parameters(model) == 64 * 6 + 6 * 6 + 6 + 6 * 3 + 3


def test_an_epoch_reads_every_text_once_in_a_new_order_that_the_seed_decides(texts):
    def epochs(seed):
        loader = Batches(texts, 2, seed)
        assert len(loader) == 3
        return [torch.cat([labels for _, labels in loader]).tolist() for _ in range(4)]

    orders = epochs(0)
    assert all(sorted(order) == list(range(5)) for order in orders)
    assert len({tuple(order) for order in orders}) > 1
    assert orders == epochs(0)
    assert epochs(None) == [list(range(5))] * 4


def test_inverse_frequencies_come_from_the_training_texts_alone():
    """Fitting on the test texts as well would tell the model which of their words are rare."""
    features = vectorizer(2**12)
    features.fit(TEXTS)
    alone, among_others = (
        features.transform(["open the file"]),
        features.transform(["open the file", "open", "open", "open"]),
    )
    assert np.array_equal(alone.toarray()[0], among_others.toarray()[0])
    refitted = vectorizer(2**12).fit_transform([*TEXTS, "open the file", "open", "open", "open"])
    assert not np.allclose(alone.toarray()[0], refitted.toarray()[len(TEXTS)])


def test_a_vector_has_length_one_and_repeats_count_with_their_logarithm():
    features = vectorizer(2**12)
    features.fit(["red blue", "red blue"])
    once, twice = features.transform(["red blue", "red red blue"]).toarray()
    assert np.linalg.norm(twice) == pytest.approx(1)
    assert once[once > 0] == pytest.approx([0.5**0.5] * 2)
    weights = np.sort(twice[twice > 0])
    assert weights[1] / weights[0] == pytest.approx(1 + np.log(2))


def test_a_text_without_words_is_a_bag_of_zeros(texts):
    model = BagClassifier(64, 6, 3).eval()
    bags, _ = texts.batch(np.array([2, 2]))
    assert bags.words.numel() == 0
    logits = model(bags)
    assert logits.shape == (2, 3)
    assert torch.isfinite(logits).all()


def test_the_last_batch_holds_the_rest(texts):
    assert [len(labels) for _, labels in Batches(texts, 2)] == [2, 2, 1]
    assert [len(labels) for _, labels in Batches(texts, 99)] == [5]
