"""Born-again networks: who teaches whom from which start, and the controls that explain a gain."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from common.errors import InputError, RunError
from labs.lab5_distillation import born_again


def linear(seed):
    """A small model whose weights are those of its seed."""
    torch.manual_seed(100 + seed)
    return nn.Linear(3, 2)


class Diary:
    """Learning that writes down who learned from whom, from which weights, and changes them."""

    def __init__(self):
        self.lessons = []

    def __call__(self, model, teacher, generation):
        answers = None if teacher is None else teacher.weight.detach().clone()
        self.lessons.append((generation, model, teacher, model.weight.detach().clone(), answers))
        with torch.no_grad():
            model.weight.add_(1 + generation)


@pytest.mark.exercise("5.11")
@pytest.mark.parametrize("n", [1, 2, 4])
def test_each_generation_is_taught_by_the_one_before_it(n):
    """Generation k learns from generation k - 1, and the first from nobody.

    All under generation 0 would be distillation n - 1 times over, not a sequence.
    """
    diary = Diary()
    models = born_again.generations(linear, diary, n)
    assert len(models) == n, f"{len(models)} models, asked for {n} with generation 0 among them"
    numbers = [lesson[0] for lesson in diary.lessons]
    assert numbers == list(range(n)), f"generations taught: {numbers}, expected {list(range(n))}"
    for k, (_, model, teacher, _, _) in enumerate(diary.lessons):
        assert model is models[k], f"generation {k} that learned is not model {k} that came back"
        expected = models[k - 1] if k else None
        who = [i for i, each in enumerate(models) if each is teacher]
        assert teacher is expected, (
            f"generation {k} was taught by {who or teacher}, expected {k - 1 if k else None}"
        )


@pytest.mark.exercise("5.11")
def test_each_generation_starts_from_weights_of_its_own():
    """What passes from one to the next is answers. With the weights it would be longer training.

    And generations that all start alike are no ensemble: they make the same mistakes.
    """
    diary = Diary()
    born_again.generations(linear, diary, 3)
    for k, lesson in enumerate(diary.lessons):
        start, expected = lesson[3], linear(k).weight.detach()
        assert torch.equal(start, expected), (
            f"generation {k} starts at {start.flatten()[:3].tolist()}, maker({k}) gives "
            f"{expected.flatten()[:3].tolist()}"
        )


@pytest.mark.exercise("5.11")
def test_a_generation_teaches_only_when_it_has_learned_and_then_stays_as_it_is():
    """Teacher k - 1 is asked in its final state, and what was returned is that state."""
    diary = Diary()
    models = born_again.generations(linear, diary, 3)
    for k, model in enumerate(models):
        final = linear(k).weight.detach() + (1 + k)
        assert torch.equal(model.weight.detach(), final), (
            f"generation {k} came back as {model.weight.flatten()[:3].tolist()}, it ended its "
            f"lesson as {final.flatten()[:3].tolist()}"
        )
        if k + 1 < len(models):
            taught = diary.lessons[k + 1][4]
            assert taught is not None, f"generation {k + 1} had no teacher, expected {k}"
            assert torch.equal(taught, final), (
                f"generation {k} taught with {taught.flatten()[:3].tolist()}, after learning it "
                f"has {final.flatten()[:3].tolist()}"
            )


def test_no_generation_is_refused():
    with pytest.raises(InputError, match="n = 0 must be at least 1"):
        born_again.generations(linear, Diary(), 0)


class Bag(nn.Module):
    """A text classifier without transformers: mean of word vectors, one linear map."""

    def __init__(self, seed):
        super().__init__()
        torch.manual_seed(seed)
        self.words, self.head = nn.Embedding(120, 8), nn.Linear(8, 5)

    def forward(self, input_ids, attention_mask):
        real = attention_mask[:, :, None].float()
        return self.head((self.words(input_ids) * real).sum(1) / real.sum(1))


def recipe():
    from labs.lab5_distillation.recipe import Recipe

    return Recipe(epochs=3, rate=1e-2, head_rate=1e-2, batch_size=16)


def test_a_born_again_text_classifier_is_distilled_from_the_last_by_the_recipe(tiny_texts):
    """The same weights as writing the two trainings down, to the bit."""
    from labs.lab5_distillation.recipe import cached, distillation, supervised, train

    found = born_again.born_again(Bag, tiny_texts, recipe(), 2, temperature=3.0, alpha=0.8)
    first, second = Bag(0), Bag(1)
    train(supervised(first), tiny_texts, recipe())
    teacher = cached(first, tiny_texts)
    train(
        distillation(second, teacher, temperature=3.0, alpha=0.8), tiny_texts, recipe().but(seed=1)
    )
    for ours, theirs in zip(found, (first, second), strict=True):
        assert torch.equal(ours.head.weight, theirs.head.weight)


def test_the_control_has_the_same_starts_and_no_teacher(tiny_texts):
    """Independent model 0 is generation 0; model 1 differs from generation 1 by the teacher."""
    born = born_again.born_again(Bag, tiny_texts, recipe(), 2)
    alone = born_again.independent(Bag, tiny_texts, recipe(), 2)
    assert torch.equal(born[0].head.weight, alone[0].head.weight)
    assert not torch.equal(born[1].head.weight, alone[1].head.weight)


@settings(derandomize=True, deadline=None, max_examples=30)
@given(seed=st.integers(0, 999), smoothing=st.floats(0, 0.9), classes=st.integers(2, 8))
def test_label_smoothing_is_a_teacher_that_knows_nothing(seed, smoothing, classes):
    """Equal logits at T = 1 and alpha = s give label smoothing's gradient: only a constant differs.

    Held against torch's own ``label_smoothing``. What label smoothing also gains is no knowledge.
    """
    from labs.lab5_distillation.distillation_loss import distillation_loss

    generator = torch.Generator().manual_seed(seed)
    student = torch.randn(6, classes, generator=generator, dtype=torch.double).requires_grad_()
    labels = torch.randint(classes, (6,), generator=generator)
    losses = (
        distillation_loss(
            student, torch.zeros_like(student), labels, temperature=1.0, alpha=smoothing
        ),
        F.cross_entropy(student, labels, label_smoothing=smoothing),
    )
    ours, theirs = (torch.autograd.grad(loss, student)[0] for loss in losses)
    assert torch.allclose(ours, theirs, atol=1e-12)
    assert (losses[1] - losses[0]).item() == pytest.approx(smoothing * np.log(classes), abs=1e-9)


@settings(derandomize=True, deadline=None, max_examples=30)
@given(seed=st.integers(0, 999), classes=st.integers(2, 9))
def test_permuted_answers_are_as_soft_and_as_right(seed, classes):
    """The same values in each row, the largest in place: only the ranking of the rest is gone."""
    logits = torch.randn(30, classes, generator=torch.Generator().manual_seed(seed))
    before = logits.clone()
    found = born_again.permuted(logits, seed)
    assert torch.equal(logits, before)
    assert torch.equal(found.argmax(1), logits.argmax(1))
    assert torch.equal(found.sort(1).values, logits.sort(1).values)
    assert torch.equal(found, born_again.permuted(logits, seed))


def test_every_order_of_the_wrong_classes_is_as_likely():
    """A rotation, or one permutation for all texts, would still tell which classes are alike."""
    logits = torch.tensor([5.0, 1.0, 2.0, 3.0]).repeat(6000, 1)
    found = born_again.permuted(logits, 0)[:, 1:].long()
    orders, counts = torch.unique(found, dim=0, return_counts=True)
    assert len(orders) == 6
    assert counts.min() > 850
    assert counts.max() < 1150


def test_a_student_under_shuffled_answers_learns_the_right_classes(tiny_texts):
    """The control is a working student, only one without the teacher's ranking."""
    from labs.lab5_distillation.recipe import accuracy, logits

    teacher = born_again.independent(Bag, tiny_texts, recipe().but(epochs=40), 1)[0]
    student = born_again.under_permuted(
        Bag(1), teacher, tiny_texts, recipe().but(epochs=40), alpha=1.0
    )
    taught = accuracy(logits(teacher, tiny_texts), tiny_texts)
    assert taught > 0.8
    assert accuracy(logits(student, tiny_texts), tiny_texts) > taught - 0.1


def test_generations_that_were_stopped_go_on_to_the_same_models(tiny_texts, tmp_path, monkeypatch):
    """Stopped in the second of two: the first is read from its file and not taught again."""
    from labs.lab5_distillation import recipe as recipes

    def steps_of(stop=None, **options):
        losses = []

        def on_step(_, loss):
            losses.append(loss)
            if len(losses) == stop:
                raise KeyboardInterrupt

        def train(*arguments, **more):
            return recipes.train(*arguments, **more, on_step=on_step)

        monkeypatch.setattr(born_again, "train", train)
        try:
            return losses, born_again.born_again(Bag, tiny_texts, recipe(), 2, **options)
        except KeyboardInterrupt:
            return losses, None

    losses, expected = steps_of()
    first, none = steps_of(20, checkpoints=tmp_path)
    rest, found = steps_of(checkpoints=tmp_path)
    assert none is None
    assert len(losses) == 30
    assert (first, rest) == (losses[:20], losses[20:])
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.equal(ours.head.weight, theirs.head.weight)


class Broken(Bag):
    """One whose answers are NaN."""

    def forward(self, input_ids, attention_mask):
        return super().forward(input_ids, attention_mask) * torch.nan


def test_a_bad_batch_of_a_generation_is_saved(tiny_texts, tmp_path):
    """Of any of them, of the controls too; without a folder the message says how to have it."""

    def later(generation):
        return (Broken if generation else Bag)(generation)

    calls = {
        "later": lambda bad: born_again.born_again(later, tiny_texts, recipe(), 2, bad_batches=bad),
        "control": lambda bad: born_again.independent(
            Broken, tiny_texts, recipe(), 1, bad_batches=bad
        ),
        "permuted": lambda bad: born_again.under_permuted(
            Broken(0), Bag(1), tiny_texts, recipe(), bad_batches=bad
        ),
    }
    for name, call in calls.items():
        with pytest.raises(RunError, match=r"bad-step-1\.pt"):
            call(tmp_path / name)
        assert (tmp_path / name / "bad-step-1.pt").exists(), name
        with pytest.raises(RunError, match=r"with bad_batches= .* or checkpoint= "):
            call(None)
