"""The teacher and the student: dropout, gradients, and the same start from the same seed."""

import numpy as np
import pytest
import torch

from labs.lab5_distillation.features import TextSet, vectorizer
from labs.lab5_distillation.models import BagClassifier


@pytest.fixture
def bags():
    texts = ["fit the model", "draw a plot of the model", "open a file"]
    return TextSet(vectorizer(64).fit_transform(texts), np.arange(3)).batch(np.arange(3))[0]


def model(seed=0, width=8, dropout=0.0):
    torch.manual_seed(seed)
    return BagClassifier(64, width, 3, dropout=dropout)


def test_a_seed_gives_the_same_student(bags):
    """The student alone and the distilled one start equal: only the teacher differs."""
    assert torch.equal(model(1)(bags), model(1)(bags))
    assert not torch.equal(model(1)(bags), model(2)(bags))


def test_dropout_acts_in_training_mode_only(bags):
    teacher = model(width=64, dropout=0.5)
    assert not torch.equal(teacher(bags), teacher(bags))
    teacher.eval()
    assert torch.equal(teacher(bags), teacher(bags))


def test_gradients_reach_the_words_of_the_batch_and_no_others(bags):
    student = model(width=32)
    student(bags).square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in student.parameters())
    touched = student.words.weight.grad.abs().sum(1).nonzero().flatten().tolist()
    assert touched == sorted(set(bags.words.tolist()))
