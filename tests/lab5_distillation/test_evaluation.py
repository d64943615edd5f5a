"""Accuracy, agreement and classes from logits: by definition, by scikit-learn, by simulation."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from common.errors import InputError
from labs.lab5_distillation import evaluation
from labs.lab5_distillation.evaluation import class_changes, score


def logits_for(answers, classes=4, size=5.0):
    """Logits whose largest is the given answer."""
    return size * np.eye(classes)[np.asarray(answers)]


def random_logits(seed, n=200, classes=4, seeds=None):
    shape = (n, classes) if seeds is None else (seeds, n, classes)
    return np.random.default_rng(seed).standard_normal(shape)


LABELS = np.random.default_rng(9).integers(0, 4, 200)


def test_scores_match_those_of_scikit_learn_and_torch():
    """Accuracy, macro-F1, NLL and KL under their usual names."""
    from sklearn.metrics import accuracy_score, f1_score

    student, teacher = random_logits(0), random_logits(1)
    found = score(student, LABELS, teacher)
    chosen = student.argmax(1)
    assert found.accuracy == pytest.approx(accuracy_score(LABELS, chosen))
    assert found.macro_f1 == pytest.approx(f1_score(LABELS, chosen, average="macro"))
    s, t = torch.tensor(student), torch.tensor(teacher)
    assert found.nll == pytest.approx(float(F.cross_entropy(s, torch.tensor(LABELS))))
    kl = F.kl_div(s.log_softmax(1), t.log_softmax(1), reduction="batchmean", log_target=True)
    assert found.agreement.kl == pytest.approx(float(kl))
    assert found.agreement.share == pytest.approx((chosen == teacher.argmax(1)).mean())


def test_macro_f1_leaves_out_a_class_that_nobody_names():
    """As scikit-learn does; one that is only chosen, or only true, counts 0."""
    from sklearn.metrics import f1_score

    labels, chosen = np.array([0, 0, 1, 3]), np.array([0, 1, 1, 2])
    expected = f1_score(labels, chosen, average="macro", zero_division=0)
    assert evaluation.macro_f1(chosen, labels, classes=6) == pytest.approx(expected)


def test_several_seeds_are_the_mean_of_each():
    """And the interval then speaks of seeds as well as texts."""
    three = random_logits(2, seeds=3)
    together, alone = score(three, LABELS), [score(each, LABELS) for each in three]
    assert together.accuracy == pytest.approx(np.mean([each.accuracy for each in alone]))
    assert together.per_seed == pytest.approx([each.accuracy for each in alone])
    assert together.macro_f1 == pytest.approx(np.mean([each.macro_f1 for each in alone]))
    assert together.nll == pytest.approx(np.mean([each.nll for each in alone]))
    assert "3 seeds" in together.how
    assert "one seed" in alone[0].how


def test_one_seed_has_wilsons_interval_and_an_interval_stays_a_share():
    """200 right answers of 200 do not prove 1."""
    perfect = score(logits_for(LABELS), LABELS)
    assert perfect.accuracy == perfect.ci95[1] == 1
    assert 0.97 < perfect.ci95[0] < 0.99
    three = score(np.stack([logits_for(LABELS)] * 3), LABELS)
    assert three.ci95 == (1, 1), "three equal seeds: this way sees no variation at all"


def test_what_a_student_does_where_its_teacher_errs():
    """Four errors of the teacher: two copied, one corrected, one another mistake."""
    labels = np.array([0, 0, 0, 0, 1, 1])
    teacher = logits_for([1, 1, 2, 2, 1, 1])
    student = logits_for([1, 1, 0, 3, 1, 0])
    found = score(student, labels, teacher).agreement
    assert found.teacher_errors == 4
    assert found.copied == pytest.approx(0.5)
    assert found.corrected == pytest.approx(0.25)
    assert found.share == pytest.approx(3 / 6)


def test_a_teacher_without_errors_leaves_nothing_to_copy():
    """NaN, not 0: no share of nothing."""
    found = score(random_logits(3), LABELS, logits_for(LABELS)).agreement
    assert found.teacher_errors == 0
    assert np.isnan(found.copied)


def test_each_seed_may_have_a_teacher_of_its_own():
    """Then seed s is compared with teacher s: here it equals it."""
    three = random_logits(4, seeds=3)
    found = score(three, LABELS, three).agreement
    assert found.share == 1
    assert found.kl == pytest.approx(0, abs=1e-12)
    assert score(three, LABELS, three[0]).agreement.share < 0.7


def test_accuracy_of_a_class_is_of_its_own_texts():
    """A class without texts has none."""
    labels = np.array([0, 0, 2, 2, 2])
    found = score(logits_for([0, 1, 2, 2, 0]), labels)
    expected = [0.5, np.nan, 2 / 3, np.nan]
    np.testing.assert_allclose(found.class_accuracy, expected)


def many_classes(seed, classes=150, each=30, accuracy=0.95):
    """Labels, and logits of a model that errs by chance, in every class alike (synthetic)."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(classes), each)
    wrong = (labels + rng.integers(1, classes, len(labels))) % classes
    return labels, logits_for(np.where(rng.random(len(labels)) < accuracy, labels, wrong), classes)


def test_the_worst_of_many_classes_is_no_news_by_itself():
    """Two equal models: some class loses three texts or more, and chance explains it.

    Its own p-value, read alone, would often call it a finding.
    """
    names = [f"class {c}" for c in range(150)]
    alone = adjusted = 0
    for seed in range(12):
        labels, teacher = many_classes(seed, accuracy=0.9)
        _, student = many_classes(100 + seed, accuracy=0.9)
        worst = class_changes(student, teacher, labels, names, n_flips=400)
        assert worst[0].change <= -0.1, worst[0]
        alone += min(each.p_value for each in worst) < 0.05
        adjusted += worst[0].p_adjusted < 0.05
    assert alone >= 9, alone
    assert adjusted <= 3, adjusted


def test_a_class_that_really_lost_is_found_among_many():
    """Class 7 loses half its texts: first in the list, and beyond chance."""
    names = [f"class {c}" for c in range(150)]
    labels, teacher = many_classes(0)
    _, student = many_classes(1)
    lost = np.flatnonzero(labels == 7)[:15]
    student[lost] = logits_for(np.full(15, 8), 150)
    worst = class_changes(student, teacher, labels, names, n_flips=1000)[0]
    assert (worst.name, worst.texts) == ("class 7", 30)
    assert worst.p_adjusted < 0.01
    assert worst.p_value <= worst.p_adjusted


def test_equal_models_have_no_class_to_name():
    """No text differs: no change and p = 1 everywhere."""
    labels, teacher = many_classes(3, classes=5)
    changes = class_changes(np.stack([teacher] * 2), teacher, labels, list("abcde"))
    assert {each.change for each in changes} == {0.0}
    assert {each.p_adjusted for each in changes} == {1.0}


@pytest.mark.parametrize(
    ("logits", "labels", "teacher", "word"),
    [
        (np.zeros((3, 2)), np.zeros(4, int), None, "labels"),
        (np.full((3, 2), np.inf), np.zeros(3, int), None, "finite"),
        (np.zeros((3, 2)), np.array([0, -1, 1]), None, "labelled texts"),
        (np.zeros((3, 2)), np.zeros(3, int), np.zeros((3, 4)), "same"),
        (np.zeros((3, 3, 2)), np.zeros(3, int), np.zeros((2, 3, 2)), "same seeds"),
    ],
)
def test_what_does_not_fit_is_refused(logits, labels, teacher, word):
    """A label of -1 is not known, and would be read as the last class."""
    with pytest.raises(InputError, match=word):
        score(logits, labels, teacher)
