"""The study of few labels and many texts, on synthetic ones."""

import pytest
import torch

from common.errors import InputError, RunError
from labs.lab5_distillation import few_labels
from labs.lab5_distillation.few_labels import (
    HARD_ALL,
    HARD_SURE,
    LABELS,
    METHODS,
    SOFT_ALL,
    SOFT_FEW,
    SOFT_SURE,
    TEACHER,
    as_many_steps,
    few_labels_study,
)
from labs.lab5_distillation.label_free import few_per_class
from labs.lab5_distillation.recipe import Recipe
from labs.lab5_distillation.students import by_depth
from labs.lab5_distillation.tokens import TokenSet
from tests.lab5_distillation.conftest import make_texts, tiny_classifier


def study(texts, **changes):
    options = {"teacher_recipe": Recipe(epochs=2), "per_class": 2, "threshold": 0.2}
    return few_labels_study(
        lambda: tiny_classifier(layers=2),
        lambda teacher: by_depth(teacher, (0,)),
        texts,
        make_texts(40, seed=1),
        Recipe(epochs=1),
        **(options | changes),
    )


def test_every_method_and_pool_has_a_row():
    """The teacher's first, with the number of texts that each learned from."""
    texts, seen = make_texts(60), []
    rows = study(texts, extra={"elsewhere": make_texts(20, seed=2)}, on_row=seen.append)
    found = {row.method: row for row in rows}
    assert [row.method for row in rows] == [
        TEACHER, *METHODS, "student, soft targets, elsewhere",
    ]  # fmt: skip
    assert rows == seen
    assert [found[name].texts for name in (TEACHER, LABELS, SOFT_FEW)] == [10, 10, 10]
    assert [found[name].texts for name in (SOFT_ALL, SOFT_SURE, HARD_ALL)] == [60, 60, 60]
    assert 10 <= found[HARD_SURE].texts <= 60
    assert rows[-1].texts == 30
    assert found[TEACHER].agreement == 1.0
    assert all(0 <= row.accuracy <= 1 and row.per_class == 2 for row in rows)


def test_the_labels_of_the_unlabelled_texts_are_not_looked_at(monkeypatch):
    """Other labels on the texts that are not drawn change no row: no method cheats."""
    texts = make_texts(60)
    chosen = few_per_class(texts.labels, 2, seed=0)
    monkeypatch.setattr(few_labels, "few_per_class", lambda *_, **__: chosen)
    others = (texts.labels + 1) % 5
    others[chosen] = texts.labels[chosen]
    rows = [study(each, alpha=0.5) for each in (texts, TokenSet(texts.ids, others))]
    assert rows[0] == rows[1]


def test_seeds_differ_in_texts_and_in_order():
    texts = make_texts(60)
    rows = study(texts, methods=(LABELS,), seeds=(0, 1))
    assert [row.seed for row in rows] == [0, 0, 1, 1]


@pytest.mark.parametrize(("texts", "epochs"), [(100, 4), (10, 40), (1000, 1), (30, 13)])
def test_fewer_texts_are_seen_more_often(texts, epochs):
    """4 epochs over 100 texts are as many steps as 40 over 10."""
    assert as_many_steps(Recipe(epochs=4), texts, 100).epochs == epochs


def test_what_the_study_cannot_do_is_refused():
    texts = make_texts(60)
    with pytest.raises(InputError, match="method 'guess' must be one of"):
        study(texts, methods=("guess",))
    with pytest.raises(InputError, match="number of seeds = 0 must be at least 1"):
        study(texts, seeds=())
    with pytest.raises(InputError, match="has only"):
        study(texts, per_class=50)


@pytest.mark.parametrize("spoiled", ["teacher", "student"])
def test_a_bad_batch_of_the_study_is_saved(spoiled, tmp_path):
    """Whether the teacher or a student of it meets it."""

    def broken(model):
        with torch.no_grad():
            model.head.bias.fill_(torch.nan)
        return model

    def teacher():
        made = tiny_classifier(layers=2)
        return broken(made) if spoiled == "teacher" else made

    with pytest.raises(RunError, match=r"bad-step-1\.pt"):
        few_labels_study(
            teacher,
            lambda teacher: broken(by_depth(teacher, (0,))),
            make_texts(60),
            make_texts(40, seed=1),
            Recipe(epochs=1),
            teacher_recipe=Recipe(epochs=1),
            per_class=2,
            methods=[LABELS],
            bad_batches=tmp_path,
        )
    held = torch.load(tmp_path / "bad-step-1.pt", weights_only=True)
    (batch,) = held["batches"]
    assert len(batch["labels"]) == 10  # 2 of each of 5 classes
