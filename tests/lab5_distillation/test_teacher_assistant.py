"""Chains of assistants: who teaches whom, from which start, and what it costs."""

import pytest
import torch

from common.errors import InputError, RunError
from labs.lab5_distillation import teacher_assistant
from labs.lab5_distillation.encoders import layers_of
from labs.lab5_distillation.recipe import Recipe, cached, distillation, train
from labs.lab5_distillation.teacher_assistant import as_long_as, chain, from_layers_of

RECIPE = Recipe(epochs=1, rate=1e-3, head_rate=1e-3, batch_size=32)


def test_a_chain_of_one_is_direct_distillation(tiny_teacher, tiny_texts):
    """Otherwise the comparison of the two compares something else."""
    (link,) = chain(tiny_teacher, [1], tiny_texts, RECIPE)
    direct = from_layers_of(tiny_teacher)(1)
    known = cached(tiny_teacher, tiny_texts)
    train(distillation(direct, known, temperature=4.0, alpha=1.0), tiny_texts, RECIPE)
    assert torch.equal(link.model.head.weight, direct.head.weight)


def test_the_student_is_taught_by_the_assistant(tiny_teacher, tiny_texts):
    """Same start, same batches; the answers are the assistant's, not the teacher's."""
    links = chain(tiny_teacher, [2, 1], tiny_texts, RECIPE)
    assert [len(layers_of(link.model)) for link in links] == [2, 1]
    student = from_layers_of(tiny_teacher)(1)
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


def test_students_start_from_spaced_layers_and_the_teachers_head(tiny_teacher):
    """One layer is the last, which the head knows; the word vectors are not trained."""
    make = from_layers_of(tiny_teacher)
    for depth, kept in ((1, (3,)), (2, (0, 3))):
        student = make(depth)
        assert torch.equal(student.head.weight, tiny_teacher.head.weight)
        for mine, place in zip(layers_of(student), kept, strict=True):
            theirs = layers_of(tiny_teacher)[place].state_dict()
            assert all(torch.equal(each, theirs[key]) for key, each in mine.state_dict().items())
        assert not any(each.requires_grad for each in student.encoder.embeddings.parameters())


@pytest.mark.parametrize("depths", [(), (4,), (2, 2), (1, 2), (2, 0)])
def test_a_chain_that_does_not_fall_is_refused(tiny_teacher, tiny_texts, depths):
    with pytest.raises(InputError, match="must fall, from below the teacher's 4 layers"):
        chain(tiny_teacher, depths, tiny_texts, RECIPE)


def test_a_chain_that_was_stopped_goes_on_to_the_same_student(
    tiny_teacher, tiny_texts, tmp_path, monkeypatch
):
    """Stopped in the second link: the assistant is read from its file and not taught again."""
    losses = []

    def run(stop=None, **options):
        losses.clear()

        def on_step(_, loss):
            losses.append(loss)
            if len(losses) == stop:
                raise KeyboardInterrupt

        def stopping(*arguments, **more):
            return train(*arguments, **more, on_step=on_step)

        monkeypatch.setattr(teacher_assistant, "train", stopping)
        return chain(tiny_teacher, [2, 1], tiny_texts, RECIPE, **options)[-1].model.head.weight

    expected = run()
    whole = list(losses)
    with pytest.raises(KeyboardInterrupt):
        run(4, checkpoints=tmp_path)
    first = list(losses)
    found = run(checkpoints=tmp_path)
    assert len(whole) == 6
    assert first + losses == whole
    assert torch.equal(found, expected)


def test_a_bad_batch_of_a_chain_is_saved(tiny_teacher, tiny_texts, tmp_path):
    """A teacher that answers NaN spoils the first link."""
    with torch.no_grad():
        tiny_teacher.head.bias.fill_(torch.nan)
    with pytest.raises(RunError, match=r"bad-step-1\.pt"):
        chain(tiny_teacher, [2, 1], tiny_texts, RECIPE, bad_batches=tmp_path)
    assert (tmp_path / "bad-step-1.pt").exists()
