"""Chains of assistants: who teaches whom, from which start, and what it costs."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import InputError
from labs.lab5_distillation.encoders import layers_of
from labs.lab5_distillation.recipe import Recipe, cached, distillation, train
from labs.lab5_distillation.students import by_depth
from labs.lab5_distillation.teacher_assistant import as_long_as, chain, spaced

RECIPE = Recipe(epochs=1, rate=1e-3, head_rate=1e-3, batch_size=32)


@pytest.mark.parametrize(
    ("has", "keep", "expected"),
    [(6, 1, (5,)), (6, 2, (0, 5)), (6, 3, (0, 2, 5)), (6, 6, (0, 1, 2, 3, 4, 5)), (12, 1, (11,))],
)
def test_layers_are_spaced_over_the_teacher_with_the_last_among_them(has, keep, expected):
    """The head has learned to read the last layer's states."""
    assert spaced(has, keep) == expected


@settings(derandomize=True, deadline=None, max_examples=30)
@given(has=st.integers(1, 40), keep=st.integers(1, 40))
def test_spaced_layers_differ_and_rise(has, keep):
    if keep > has:
        with pytest.raises(InputError, match="must be from 1 to"):
            spaced(has, keep)
        return
    found = spaced(has, keep)
    assert len(found) == keep
    assert list(found) == sorted(set(found))
    assert found[-1] == has - 1


def test_a_chain_of_one_is_direct_distillation(tiny_teacher, tiny_texts):
    """Otherwise the comparison of the two compares something else."""
    (link,) = chain(tiny_teacher, [1], tiny_texts, RECIPE)
    direct = by_depth(tiny_teacher, [3])
    known = cached(tiny_teacher, tiny_texts)
    train(distillation(direct, known, temperature=4.0, alpha=1.0), tiny_texts, RECIPE)
    assert torch.equal(link.model.head.weight, direct.head.weight)


def test_the_student_is_taught_by_the_assistant(tiny_teacher, tiny_texts):
    """Same start, same batches; the answers are the assistant's, not the teacher's."""
    links = chain(tiny_teacher, [2, 1], tiny_texts, RECIPE)
    assert [len(layers_of(link.model)) for link in links] == [2, 1]
    student = by_depth(tiny_teacher, [3])
    known = cached(links[0].model, tiny_texts)
    train(distillation(student, known, temperature=4.0, alpha=1.0), tiny_texts, RECIPE)
    assert torch.equal(links[1].model.head.weight, student.head.weight)
    (direct,) = chain(tiny_teacher, [1], tiny_texts, RECIPE)
    assert not torch.equal(links[1].model.head.weight, direct.model.head.weight)


def test_the_teacher_is_not_changed(tiny_teacher, tiny_texts):
    before = {name: each.clone() for name, each in tiny_teacher.state_dict().items()}
    chain(tiny_teacher, [2, 1], tiny_texts, RECIPE)
    assert all(torch.equal(each, before[name]) for name, each in tiny_teacher.state_dict().items())


def test_direct_distillation_gets_the_layer_epochs_that_the_chain_has_cost(
    tiny_teacher, tiny_texts
):
    """2 layers and 1 layer for an epoch each are 3 epochs of one layer."""
    links = chain(tiny_teacher, [2, 1], tiny_texts, RECIPE)
    assert links[-1].layer_epochs == 3
    assert as_long_as(links, RECIPE) == RECIPE.but(epochs=3)


@pytest.mark.parametrize("depths", [(), (4,), (2, 2), (1, 2), (2, 0)])
def test_a_chain_that_does_not_fall_is_refused(tiny_teacher, tiny_texts, depths):
    with pytest.raises(InputError, match="must fall, from below the teacher's 4 layers"):
        chain(tiny_teacher, depths, tiny_texts, RECIPE)
