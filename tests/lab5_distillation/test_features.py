"""Sparse batches and the model that reads them."""

import numpy as np
import pytest
import torch

from common.errors import InputError
from labs.lab5_distillation.config import Config
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


def test_the_reported_width_is_among_those_trained():
    assert Config(student_width=24, student_widths=(64, 8)).widths == (8, 24, 64)
    with pytest.raises(InputError, match=r"alpha = 2 must be from 0 to 1"):
        Config(alpha=2)
    with pytest.raises(InputError, match=r"temperature = 0 must be > 0"):
        Config(temperature=0)
