"""The traps of lab 5 show what they say: the wrong number is wrong, the right one right."""

import re
from pathlib import Path

import pytest
import torch

from labs.lab5_distillation import loss_traps, traps


def test_the_default_reduction_is_too_small_by_the_number_of_classes():
    """batchmean equals the divergence written out for each example; mean is that over C."""
    trap = traps.the_mean_over_everything()
    student, teacher, _ = loss_traps._logits()
    p, q = teacher.softmax(1), student.softmax(1)
    expected = (p * (p / q).log()).sum(1).mean().item()
    assert trap.right[1] == pytest.approx(expected, rel=1e-4)
    assert trap.wrong[1] == pytest.approx(expected / loss_traps.CLASSES, rel=1e-4)


def test_only_t_squared_keeps_the_balance_with_the_labels():
    """From T = 1 to 8 the soft gradient loses nearly all its weight, or keeps about half of it."""
    trap = traps.the_vanishing_teacher()
    wrong, right = trap.wrong[1], trap.right[1]
    assert wrong[0] == right[0], "at T = 1 there is nothing to correct"
    assert wrong[-1] < wrong[0] / 50
    assert right[-1] > right[0] / 4


def test_a_temperature_on_one_side_makes_the_student_too_sure():
    """The order of classes stays, so accuracy shows nothing."""
    trap = traps.a_temperature_on_one_side()
    assert trap.wrong[1] > 1.5 * trap.right[1]
    assert "agreement 1.000 and 1.000" in trap.why or "agreement 0.99" in trap.why


def test_a_teacher_with_dropout_teaches_something_else():
    """The student is to become the teacher that is served, and agrees with it less often."""
    trap = traps.a_teacher_that_guesses()
    assert trap.wrong[1] + 0.02 < trap.right[1] <= 1


def test_a_permuted_teacher_ruins_the_student():
    """Nine tenths of the loss teach another class: worse than guessing one of ten, or near it."""
    trap = traps.classes_in_another_order()
    assert trap.wrong[1] < 0.3
    assert trap.right[1] > 0.5


def test_a_projection_outside_the_optimizer_costs_what_it_should_have_learnt():
    """The frozen one has not moved at all; the student explains far less through it."""
    trap = traps.projections_that_never_learn()
    assert trap.wrong[1] < trap.right[1] - 0.3
    assert trap.right[1] > 0.8
    assert "moved by 0, and" in trap.why


def test_a_student_that_shares_its_teachers_layers_ruins_the_teacher():
    """The teacher's accuracy falls while it teaches, and retention looks perfect."""
    trap = traps.a_student_made_of_its_teacher()
    before, after, retention = trap.wrong[1]
    assert after < before - 0.2
    assert retention > 0.95
    before, after, retention = trap.right[1]
    assert after == before
    assert 0.9 < retention < 1.1


def test_a_deepest_head_that_is_not_detached_hedges_at_the_same_accuracy():
    """It loses over a fifth of the label's probability, and three points of accuracy at most."""
    trap = traps.the_teacher_that_hedges()
    (sure, right), (sure_detached, right_detached) = trap.wrong[1], trap.right[1]
    assert sure + 0.2 < sure_detached
    assert abs(right - right_detached) < 0.03


def test_a_cache_of_other_rows_teaches_noise():
    """Six topics: the student of mismatched rows is near a sixth, the other far above."""
    trap = traps.cached_answers_of_other_texts()
    assert trap.wrong[1] < 0.35, trap.wrong
    assert trap.right[1] > trap.wrong[1] + 0.3, (trap.wrong, trap.right)


def test_sdpa_gives_no_map_and_the_loss_over_none_is_zero():
    """Queries and keys are there, and the maps made of them differ between two models."""
    trap = traps.attention_that_sdpa_does_not_give()
    assert trap.wrong[1] == 0.0
    assert "gave 0 maps of 4" in trap.why
    assert trap.right[1] > 0.05


def test_rounding_without_a_gradient_leaves_the_weights_where_they_were():
    """Only the biases learn: with the estimator the student agrees far more often."""
    trap = traps.rounding_without_a_gradient()
    assert trap.right[1] > trap.wrong[1] + 0.2


def test_most_of_what_is_kept_needs_no_teacher():
    """The student alone keeps nearly as much: the gain is a small part of the retention."""
    trap = traps.kept_without_its_teacher()
    alone, gain = map(float, re.findall(r"[+-]?\d\.\d+", trap.right[1])[:2])
    assert trap.wrong[1] > 0.85
    assert alone > trap.wrong[1] - 0.04, "without a teacher nearly as much is kept"
    assert abs(gain) < 0.03


def test_the_traps_do_not_depend_on_the_order_in_which_they_are_shown():
    """Each can be asked for alone, and shows the same number."""
    first = traps.classes_in_another_order()
    torch.manual_seed(99)
    traps.a_teacher_that_guesses()
    assert traps.classes_in_another_order() == first
    assert traps.projections_that_never_learn() == traps.projections_that_never_learn()


def test_every_trap_has_a_test_here():
    """A trap that is added is judged."""
    source = Path(__file__).read_text(encoding="utf-8")
    assert [trap.__name__ for trap in traps.TRAPS if f"traps.{trap.__name__}()" not in source] == []
