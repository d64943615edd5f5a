"""Two stages: embeddings of general texts, then the task; plans compared for the same steps."""

from contextlib import suppress

import numpy as np
import pytest
import torch

from common.errors import InputError, RunError
from labs.lab5_distillation import two_stage as under_test
from labs.lab5_distillation.augmentation import Augmenter, Rates
from labs.lab5_distillation.encoders import clone
from labs.lab5_distillation.recipe import Recipe, accuracy, logits, supervised, train
from labs.lab5_distillation.students import by_depth
from labs.lab5_distillation.word_neighbours import Words
from tests.lab5_distillation.conftest import VOCABULARY, make_texts, tiny_classifier

SHORT = Recipe(epochs=2, rate=2e-3, head_rate=1e-2, batch_size=16)


@pytest.fixture(scope="module")
def made_by():
    """Neighbours of a word are the words of its class: 20 numbers in a row (synthetic)."""
    every = np.arange(VOCABULARY)
    words = Words(every < 10, np.zeros(VOCABULARY, bool), every >= 10, 3)
    neighbours = np.repeat(every[:, None], 5, axis=1)
    first = (every[10:] - 10) // 20 * 20 + 10
    neighbours[10:] = first[:, None] + (every[10:, None] - first[:, None] + np.arange(1, 6)) % 20
    return Augmenter(words, np.minimum(neighbours, VOCABULARY - 1), Rates())


@pytest.fixture(scope="module")
def taught():
    """A pretrained encoder (random), and the same fine-tuned on 160 texts."""
    pretrained = tiny_classifier()
    teacher = clone(pretrained)
    train(supervised(teacher), make_texts(160), SHORT.but(epochs=4))
    return pretrained, teacher.eval()


def test_the_embedding_loss_is_one_minus_the_cosine(tiny_teacher, tiny_texts):
    """Of the means over real tokens: padding would pull every short text the same way."""
    student = tiny_classifier(layers=2, seed=1)
    batch = tiny_texts.batch(np.arange(6))
    with torch.no_grad():
        loss = under_test.EmbeddingDistillation(student, tiny_teacher)(batch)
        expected = []
        for row in range(6):
            alone = tiny_texts.batch(np.array([row]))  # without padding
            a, b = (
                m.encoder(input_ids=alone.input_ids).last_hidden_state[0].mean(0).double()
                for m in (student, tiny_teacher)
            )
            expected.append(float(1 - a @ b / (a.norm() * b.norm())))
    assert float(loss) == pytest.approx(np.mean(expected), abs=1e-5)


def test_a_copy_of_the_teacher_has_nothing_to_learn(tiny_teacher, tiny_texts):
    """Loss 0, whatever its head says: the general stage knows no task."""
    student = clone(tiny_teacher)
    torch.nn.init.normal_(student.head.weight)
    loss = under_test.EmbeddingDistillation(student, tiny_teacher)(tiny_texts.batch(np.arange(9)))
    assert float(loss.detach()) == pytest.approx(0, abs=1e-6)


def test_a_narrower_student_learns_a_projection_and_the_teacher_learns_nothing(tiny_teacher):
    """The projection is a parameter of the objective, so optimizer and clipping see it."""
    objective = under_test.EmbeddingDistillation(tiny_classifier(2, width=16), tiny_teacher)
    names = [name for name, _ in objective.named_parameters() if not name.startswith("student.")]
    assert names == ["projection.weight"]
    assert tuple(objective.projection.weight.shape) == (32, 16)
    assert under_test.EmbeddingDistillation(
        clone(tiny_teacher), tiny_teacher
    ).state_dict().keys() == {f"student.{name}" for name in tiny_teacher.state_dict()}


def test_the_general_stage_brings_embeddings_nearer_and_leaves_the_head(tiny_teacher):
    """It reads no label (all are -1), and on texts that it has not seen the student is nearer."""
    student = tiny_classifier(layers=2, seed=1)
    head = student.head.weight.clone()
    held = make_texts(60, seed=9).batch(np.arange(60))

    def distance():
        with torch.no_grad():
            return float(under_test.EmbeddingDistillation(student, tiny_teacher)(held))

    before = distance()
    losses = under_test.general_stage(
        student, tiny_teacher, make_texts(160).without_labels(), SHORT
    )
    student.eval()
    assert len(losses) == 2
    assert distance() < 0.8 * before
    assert torch.equal(student.head.weight, head)


def test_the_task_stage_needs_no_labels(taught, made_by):
    """With and without augmentation a student without labels comes near its teacher."""
    pretrained, teacher = taught
    texts, test = make_texts(120).without_labels(), make_texts(100, seed=9)
    says = logits(teacher, test).argmax(1)
    for extra in (None, made_by):
        student = by_depth(pretrained, (0, 3)).requires_grad_(True)
        before = float((logits(student, test).argmax(1) == says).double().mean())
        under_test.task_stage(student, teacher, texts, SHORT.but(epochs=5), made_by=extra)
        after = float((logits(student, test).argmax(1) == says).double().mean())
        assert after > max(0.6, before + 0.2), (before, after)


def test_two_stages_are_one_after_the_other(taught, made_by):
    """The same losses and weights as the two functions give."""
    pretrained, teacher = taught
    general, task = make_texts(64, seed=3).without_labels(), make_texts(64)
    by_one, by_two = (by_depth(pretrained, (0, 3)).requires_grad_(True) for _ in range(2))
    losses = under_test.two_stage(
        by_one, pretrained, teacher, general=general, general_recipe=SHORT.but(epochs=1),
        task=task, task_recipe=SHORT, made_by=made_by,
    )  # fmt: skip
    first = under_test.general_stage(by_two, pretrained, general, SHORT.but(epochs=1))
    second = under_test.task_stage(by_two, teacher, task, SHORT, made_by=made_by)
    assert losses == first + second
    assert torch.equal(by_one.head.weight, by_two.head.weight)


def test_every_plan_has_the_same_number_of_steps(taught, made_by):
    """A stage that brings its own steps along looks good for having trained longer."""
    pretrained, teacher = taught
    task, test, general = make_texts(40), make_texts(60, seed=9), make_texts(64, seed=3)
    per_plan = {}
    for plan in under_test.PLANS:
        seen = []
        (found,) = under_test.compare_plans(
            teacher, pretrained, layers=(0, 3), general=general, task=task, test=test,
            recipe=SHORT, made_by=made_by, plans=[plan], on_step=lambda *_, to=seen: to.append(1),
        )  # fmt: skip
        per_plan[plan.name] = len(seen)
        assert found.steps == len(seen)
        assert 0 <= found.accuracy <= 1
        assert 0 <= found.agreement <= 1
        task_tokens = int(task.lengths.sum())
        extra = int(general.lengths[:48].sum()) - task_tokens if plan.general else 0
        assert found.tokens == 2 * task_tokens + extra
    assert set(per_plan.values()) == {6}


def test_a_budget_that_cannot_be_halved_or_filled_is_refused(taught, made_by):
    """Rounding would give the two-stage student other steps than its control."""
    pretrained, teacher = taught
    task = make_texts(40)
    given = {
        "layers": (0, 3), "general": make_texts(20), "task": task, "test": task, "made_by": made_by
    }  # fmt: skip
    with pytest.raises(InputError, match="epochs = 3 must be even"):
        under_test.compare_plans(teacher, pretrained, recipe=SHORT.but(epochs=3), **given)
    with pytest.raises(InputError, match="20 general texts; 48 are needed"):
        under_test.compare_plans(teacher, pretrained, recipe=SHORT, **given)


def test_the_effect_of_augmentation_is_measured_on_texts_that_changed(taught, made_by):
    """Unchanged copies keep their label and would hide what the others lose."""
    _, teacher = taught
    texts = make_texts(160)
    found = under_test.effect_of(made_by, teacher, texts)
    assert 0.5 < found.changed < 1
    assert len(found.before) == 160
    assert len(found.after) == round(found.changed * 160)
    assert found.kept < accuracy(logits(teacher, texts), texts)
    still = Augmenter(made_by.words, made_by.neighbours, Rates(0, 0, 0))
    with pytest.raises(InputError, match="none of 160 texts changed"):
        under_test.effect_of(still, teacher, texts)


@pytest.mark.parametrize("augmented", [False, True])
def test_stages_that_were_stopped_go_on_to_the_same_student(augmented, taught, made_by, tmp_path):
    """Stopped in the second stage: the first is not taught again, the second ends as if never."""
    pretrained, teacher = taught
    options = {
        "general": make_texts(64, seed=3).without_labels(),
        "general_recipe": SHORT.but(epochs=1),
        "task": make_texts(64),
        "task_recipe": SHORT,
        "made_by": made_by if augmented else None,
    }

    def teach(stop=None, **more):
        seen = []

        def on_step(step, loss):
            seen.append((step, loss))
            if len(seen) == stop:
                raise KeyboardInterrupt

        student = by_depth(pretrained, (0, 3)).requires_grad_(True)
        means = None
        with suppress(KeyboardInterrupt):
            means = under_test.two_stage(
                student, pretrained, teacher, on_step=on_step, **options, **more
            )
        return seen, means, student

    seen, means, expected = teach()
    assert len(seen) == 12
    first, none, _ = teach(7, checkpoints=tmp_path)
    assert none is None
    rest, resumed_means, student = teach(checkpoints=tmp_path)
    assert (first, rest) == (seen[:7], seen[7:])
    assert resumed_means == means
    assert torch.equal(student.head.weight, expected.head.weight)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["general.pt", "task.pt"]


@pytest.mark.parametrize("part", ["general", "task", "both", "plans"])
def test_a_bad_batch_of_a_stage_is_saved(part, taught, made_by, tmp_path):
    """A student whose word vectors are NaN: whichever stage meets them."""
    pretrained, teacher = taught
    texts = make_texts(64)
    student = by_depth(pretrained, (0, 3)).requires_grad_(True)
    with torch.no_grad():
        student.encoder.embeddings.word_embeddings.weight.fill_(torch.nan)
    with pytest.raises(RunError, match=r"bad-step-1\.pt"):
        if part == "general":
            under_test.general_stage(student, pretrained, texts, SHORT, bad_batches=tmp_path)
        elif part == "task":
            under_test.task_stage(student, teacher, texts, SHORT, bad_batches=tmp_path)
        elif part == "both":
            under_test.two_stage(
                student, pretrained, teacher, general=texts, general_recipe=SHORT, task=texts,
                task_recipe=SHORT, bad_batches=tmp_path,
            )  # fmt: skip
        else:
            under_test.compare_plans(
                teacher, student, layers=(0,), general=texts, task=texts, test=texts, recipe=SHORT,
                made_by=made_by, bad_batches=tmp_path,
            )  # fmt: skip
    assert (tmp_path / "bad-step-1.pt").exists()
