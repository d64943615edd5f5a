"""Studies of the loss run, and their figures show what was measured."""

from functools import partial

import pytest
import torch

from common.errors import InputError
from labs.lab5_distillation import figures_loss
from labs.lab5_distillation.decoupled_distillation import decoupled_loss
from labs.lab5_distillation.few_labels import LABELS, TEACHER, FewLabels
from labs.lab5_distillation.loss_studies import fit_one_peak, loss_study, temperature_study
from labs.lab5_distillation.recipe import Recipe, logits
from labs.lab5_distillation.soft_losses import forward_kl, reverse_kl
from labs.lab5_distillation.students import by_depth
from tests.lab5_distillation.conftest import make_texts, tiny_classifier


@pytest.fixture(scope="module")
def material():
    """A student maker, and texts with a teacher's logits to learn from and to judge on."""
    teacher, texts, held_out = tiny_classifier(layers=2), make_texts(48), make_texts(40, seed=1)
    return (
        lambda: by_depth(teacher, (0,)),
        logits(teacher, texts),
        texts,
        held_out,
        logits(teacher, held_out),
        Recipe(epochs=1),
    )


def test_every_temperature_and_weight_has_a_row_and_labels_alone_have_one(material):
    """At alpha = 0 the temperature changes nothing, so the baseline is trained once."""
    seen = []
    rows = temperature_study(*material, (1.0, 4.0), (0.0, 0.5, 1.0), on_row=seen.append)
    settings = [(row.alpha, row.temperature) for row in rows]
    assert settings == [(0.0, 1.0), (0.5, 1.0), (0.5, 4.0), (1.0, 1.0), (1.0, 4.0)]
    assert seen == rows
    assert all(0 <= row.accuracy <= 1 and row.divergence > 0 for row in rows)
    figure = figures_loss.draw_temperature_study(rows)
    drawn = [line.get_label() for line in figure.axes[0].lines]
    assert drawn == ["alpha 0.5", "alpha 1", "labels alone"]
    with pytest.raises(InputError, match="0 temperatures"):
        temperature_study(*material, (), (0.5,))


def test_a_teacher_as_its_own_student_agrees_with_itself(material):
    """A rate of next to nothing leaves the student what it was: its divergence is the measure's."""
    _, answers, texts, held_out, held_out_answers, recipe = material
    (row,) = loss_study(
        lambda: tiny_classifier(layers=2), answers, texts, held_out, held_out_answers,
        recipe.but(rate=1e-12, head_rate=1e-12), {"forward KL": forward_kl},
        temperature=2.0, alpha=1.0,
    )  # fmt: skip
    assert row.agreement == 1.0
    assert row.divergence == pytest.approx(0, abs=1e-5)


def test_soft_losses_are_compared_from_the_same_start(material):
    losses = {"forward": forward_kl, "again": forward_kl, "decoupled": partial(decoupled_loss)}
    rows = loss_study(*material, losses, temperature=2.0, alpha=0.5)
    assert [row.loss for row in rows] == list(losses)
    assert rows[0].divergence == rows[1].divergence
    assert rows[0].divergence != rows[2].divergence


def test_the_figure_of_soft_targets_names_the_largest_wrong_classes():
    answers = torch.tensor([5.0, 3.0, 0.0, 4.0, -1.0])
    names = ("car", "truck", "carrot", "van", "tree")
    figure = figures_loss.draw_soft_targets(
        "a thing with wheels", answers, names, temperatures=(1.0, 4.0), top=3
    )
    assert [each.get_text() for each in figure.axes[0].get_yticklabels()] == [
        "car", "van", "truck", "2 others",
    ]  # fmt: skip
    widths = [bar.get_width() for bar in figure.axes[1].patches]
    expected = torch.softmax(answers / 4, -1)[[0, 3, 1]].tolist()
    assert widths == pytest.approx([*expected, 1 - sum(expected)])


def test_the_figure_of_few_labels_has_a_row_a_method():
    rows = [
        FewLabels(method, 5, seed, 10, accuracy + seed / 100, 1.0)
        for method, accuracy in ((TEACHER, 0.8), (LABELS, 0.7))
        for seed in range(2)
    ]
    figure = figures_loss.draw_few_labels(rows)
    assert [each.get_text() for each in figure.axes[0].get_yticklabels()] == [TEACHER, LABELS]


def test_the_figures_of_confidence_and_of_peaks_are_drawn():
    pools = {"own": 5 * torch.randn(30, 4), "foreign": torch.randn(30, 4)}
    (axes,) = figures_loss.draw_confidence(pools).axes
    assert [line.get_label() for line in axes.lines] == ["own", "foreign"]
    teacher = torch.tensor([0.3, 0.1, 0.05, 0.1, 0.4, 0.05])
    students = {
        "forward": fit_one_peak(teacher, forward_kl),
        "reverse": fit_one_peak(teacher, reverse_kl),
    }
    (axes,) = figures_loss.draw_peaks(teacher, students).axes
    assert [line.get_label() for line in axes.lines] == ["forward", "reverse"]
