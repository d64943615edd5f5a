"""The traps of lab 5 show what they say: the wrong number is wrong, the right one right."""

import pytest
import torch

from labs.lab5_distillation import traps


def test_the_default_reduction_is_too_small_by_the_number_of_classes():
    """batchmean equals the divergence written out for each example; mean is that over C."""
    trap = traps.the_mean_over_everything()
    student, teacher, _ = traps._logits()
    p, q = teacher.softmax(1), student.softmax(1)
    expected = (p * (p / q).log()).sum(1).mean().item()
    assert trap.right[1] == pytest.approx(expected, rel=1e-4)
    assert trap.wrong[1] == pytest.approx(expected / traps.CLASSES, rel=1e-4)


def test_only_t_squared_keeps_the_balance_with_the_labels():
    """From T = 1 to 8 the soft gradient loses nearly all its weight, or keeps about half of it."""
    trap = traps.the_vanishing_teacher()
    wrong, right = trap.wrong[1], trap.right[1]
    assert wrong[0] == right[0], "at T = 1 there is nothing to correct"
    assert wrong[-1] < wrong[0] / 50
    assert right[-1] > right[0] / 4


def test_a_teacher_with_dropout_teaches_something_else():
    """The student is to become the teacher that is served."""
    trap = traps.a_teacher_that_guesses()
    assert trap.wrong[1] + 0.02 < trap.right[1] <= 1


def test_a_permuted_teacher_ruins_the_student():
    """Nine tenths of the loss teach another class: worse than guessing one of ten, or near it."""
    trap = traps.classes_in_another_order()
    assert trap.wrong[1] < 0.3
    assert trap.right[1] > 0.5


def test_the_traps_do_not_depend_on_the_order_in_which_they_are_shown():
    """Each can be asked for alone, and shows the same number."""
    first = traps.classes_in_another_order()
    torch.manual_seed(99)
    traps.a_teacher_that_guesses()
    assert traps.classes_in_another_order() == first
