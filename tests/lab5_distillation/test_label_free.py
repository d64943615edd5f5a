"""Losses on texts of which few have labels, and the choice of such texts."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import InputError
from labs.lab5_distillation import label_free
from labs.lab5_distillation.distillation_loss import distillation_loss
from labs.lab5_distillation.tokens import TokenSet

MORE = settings(derandomize=True, deadline=None, max_examples=30)


def draw(seed, batch, classes, scale=3.0):
    rng = np.random.default_rng(seed)
    student, teacher = (
        torch.tensor(scale * rng.standard_normal((batch, classes))) for _ in range(2)
    )
    return student, teacher, torch.tensor(rng.integers(-1, classes, batch))


def parts_by_hand(student, teacher, labels, temperature, weights):
    """Soft and hard part, one text at a time."""
    kl, ce, total, known = 0.0, 0.0, 0.0, 0
    for s, t, label, weight in zip(student, teacher, labels.tolist(), weights.tolist()):
        log_q, log_p = (torch.log_softmax(each / temperature, -1) for each in (s, t))
        kl += weight * float((log_p.exp() * (log_p - log_q)).sum())
        total += weight
        if label >= 0:
            ce -= float(torch.log_softmax(s, -1)[label])
            known += 1
    return temperature**2 * kl / (total or 1), ce / (known or 1)


@pytest.mark.exercise("5.6")
@MORE
@given(
    batch=st.integers(1, 6),
    classes=st.integers(2, 6),
    temperature=st.floats(0.5, 8),
    alpha=st.floats(0, 1),
    seed=st.integers(0, 999),
)
def test_each_part_is_a_mean_over_what_counts_in_it(batch, classes, temperature, alpha, seed):
    """Texts without label count in the soft part alone; a weight of 0 takes a text from it.

    Divided by the batch size instead, the few labels fade as more unlabelled texts come in.
    """
    student, teacher, labels = draw(seed, batch, classes)
    weights = torch.tensor(np.random.default_rng(seed + 1).integers(0, 3, batch) / 2.0)
    loss = label_free.semi_supervised_loss(
        student, teacher, labels, temperature=temperature, alpha=alpha, weights=weights
    )
    soft, hard = parts_by_hand(student, teacher, labels, temperature, weights)
    expected = alpha * soft + (1 - alpha) * hard
    assert loss.ndim == 0, f"the loss has shape {tuple(loss.shape)}, expected a scalar"
    assert float(loss) == pytest.approx(expected, rel=1e-6, abs=1e-9), (
        f"loss {float(loss):.6f}, expected {alpha:.3f} * {soft:.6f} + {1 - alpha:.3f} * "
        f"{hard:.6f} = {expected:.6f} for the labels {labels.tolist()} and weights "
        f"{weights.tolist()}"
    )


@pytest.mark.exercise("5.6")
def test_more_texts_without_labels_leave_the_hard_part_as_it_is():
    """With alpha = 0 only labels speak: -1 is no class, neither the first nor the last."""
    student, teacher, _ = draw(1, 8, 5)
    labels = torch.tensor([2, 4, -1, -1, -1, -1, -1, -1])
    options = {"temperature": 2.0, "alpha": 0.0}
    few = label_free.semi_supervised_loss(student[:2], teacher[:2], labels[:2], **options)
    many = label_free.semi_supervised_loss(student, teacher, labels, **options)
    assert float(many) == pytest.approx(float(few)), (
        f"hard part {float(few):.6f} of two labelled texts, {float(many):.6f} with six unlabelled"
    )


@pytest.mark.exercise("5.6")
@pytest.mark.parametrize(("alpha", "weight"), [(0.5, 1.0), (0.0, 1.0), (0.5, 0.0)])
def test_a_part_with_nothing_in_it_is_zero_and_not_nan(alpha, weight):
    """A batch may hold no labelled text, or none that the teacher is sure of.

    A mean over none is NaN, and one NaN gradient ends a training run: every weight becomes NaN.
    """
    student, teacher, _ = draw(2, 4, 3)
    x = student.requires_grad_(True)
    loss = label_free.semi_supervised_loss(
        x, teacher, torch.full((4,), -1), temperature=2.0, alpha=alpha,
        weights=torch.full((4,), weight),
    )  # fmt: skip
    (gradient,) = torch.autograd.grad(loss, x, allow_unused=True)
    gradient = torch.zeros(4, 3) if gradient is None else gradient
    soft = parts_by_hand(student.detach(), teacher, torch.full((4,), -1), 2.0, torch.ones(4))[0]
    expected = alpha * weight * soft
    found = float(loss.detach())
    assert found == pytest.approx(expected), f"loss {found}, expected {expected}"
    assert bool(torch.isfinite(gradient).all()), f"the gradient is {gradient.tolist()}"


@pytest.mark.exercise("5.6")
def test_weights_are_for_the_soft_targets_alone():
    """A label is right however unsure the teacher is: a weight of 0 must not silence it."""
    student, teacher, _ = draw(3, 3, 4)
    labels = torch.tensor([0, 3, -1])
    losses = [
        float(
            label_free.semi_supervised_loss(
                student, teacher, labels, temperature=2.0, alpha=0.0, weights=weights
            )
        )
        for weights in (torch.tensor([0.0, 1.0, 1.0]), torch.ones(3))
    ]
    assert losses[0] == pytest.approx(losses[1]), (
        f"hard part {losses[0]:.6f} with a weight of 0, {losses[1]:.6f} without weights"
    )


@pytest.mark.exercise("5.6")
@MORE
@given(temperature=st.floats(0.5, 8), alpha=st.floats(0, 1), seed=st.integers(0, 999))
def test_with_every_label_known_it_is_the_distillation_loss(temperature, alpha, seed):
    """Semi-supervised is a generalisation: same numbers where nothing is missing."""
    student, teacher, labels = draw(seed, 5, 4)
    labels = labels.clamp(min=0)
    loss = label_free.semi_supervised_loss(
        student, teacher, labels, temperature=temperature, alpha=alpha
    )
    log_q, log_p = (torch.log_softmax(each / temperature, -1) for each in (student, teacher))
    soft = temperature**2 * F.kl_div(log_q, log_p, reduction="batchmean", log_target=True)
    expected = alpha * soft + (1 - alpha) * F.cross_entropy(student, labels)
    assert float(loss) == pytest.approx(float(expected), rel=1e-9, abs=1e-12), (
        f"loss {float(loss):.9f}, the distillation loss is {float(expected):.9f}"
    )


def test_it_is_ours_as_well():
    """The same as `distillation_loss`, whose tests are stricter."""
    student, teacher, labels = draw(7, 5, 4)
    options = {"temperature": 3.0, "alpha": 0.3}
    labels = labels.clamp(min=0)
    assert float(
        label_free.semi_supervised_loss(student, teacher, labels, **options)
    ) == pytest.approx(float(distillation_loss(student, teacher, labels, **options)))


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (torch.ones(3), r"weights \(3,\) must be \(2,\)"),
        (torch.tensor([1.0, -0.5]), r"least weight = -0.5 must be >= 0"),
    ],
)
def test_weights_that_mean_nothing_are_refused(weights, message):
    zeros = torch.zeros(2, 3)
    with pytest.raises(InputError, match=message):
        label_free.semi_supervised_loss(
            zeros, zeros, torch.zeros(2, dtype=torch.long), temperature=1.0, alpha=0.5,
            weights=weights,
        )  # fmt: skip


def test_confidence_and_entropy_of_known_distributions():
    """Uniform over C: 1/C and log C. Two classes of 0.9 and 0.1: by hand."""
    logits = torch.stack([torch.zeros(4), torch.tensor([0.9, 0.1, 1e-30, 1e-30]).log()])
    np.testing.assert_allclose(label_free.max_probability(logits), [0.25, 0.9], rtol=1e-6)
    by_hand = -0.9 * math.log(0.9) - 0.1 * math.log(0.1)
    np.testing.assert_allclose(label_free.entropy(logits), [math.log(4), by_hand], rtol=1e-6)
    assert label_free.above(0.9 - 1e-6)(logits).tolist() == [0.0, 1.0]


@MORE
@given(seed=st.integers(0, 999), n=st.integers(1, 20), m=st.integers(1, 20))
def test_pools_are_told_apart_as_the_rank_test_says(seed, n, m):
    """Our share of pairs is Mann and Whitney's U over n m, ties included."""
    from scipy.stats import mannwhitneyu

    rng = np.random.default_rng(seed)
    ours, theirs = (
        torch.tensor(rng.integers(0, 3, (size, 3)).astype(np.float32)) for size in (n, m)
    )
    own, foreign = label_free.confidence_report({"own": ours, "foreign": theirs}, threshold=0.5)
    scores = [label_free.max_probability(each).numpy() for each in (ours, theirs)]
    expected = mannwhitneyu(*scores).statistic / (n * m)
    assert foreign.told_apart == pytest.approx(expected)
    assert own.told_apart == 0.5
    assert (own.pool, own.texts, foreign.texts) == ("own", n, m)


def test_a_few_of_each_class_are_drawn():
    labels = np.repeat(np.arange(3), [4, 5, 6])
    rows = label_free.few_per_class(labels, 2, seed=1)
    assert np.bincount(labels[rows]).tolist() == [2, 2, 2]
    assert rows.tolist() == sorted(set(rows.tolist()))
    assert rows.tolist() == label_free.few_per_class(labels, 2, seed=1).tolist()
    assert rows.tolist() != label_free.few_per_class(labels, 2, seed=2).tolist()
    with pytest.raises(InputError, match="class 0 has only 4"):
        label_free.few_per_class(labels, 5)


def test_pseudo_labels_keep_labels_and_drop_what_the_teacher_is_unsure_of():
    texts = TokenSet([[1], [2], [3], [4]], np.array([2, -1, -1, -1]))
    logits = torch.tensor([[9.0, 0, 0], [0, 9.0, 0], [0, 0.1, 0], [0, 0, 9.0]])
    found = label_free.pseudo_labelled(texts, logits, threshold=0.9)
    assert found.ids == [[1], [2], [4]]
    assert found.labels.tolist() == [2, 1, 2], "the label, not the teacher's choice, of the first"
    unsure = TokenSet([[3]], np.array([-1]))
    with pytest.raises(InputError, match=r"threshold = 0.9 leaves none of 1 texts.* 0\.356"):
        label_free.pseudo_labelled(unsure, logits[2:3], threshold=0.9)
    with pytest.raises(InputError, match="4 rows of teacher logits for 1 texts"):
        label_free.pseudo_labelled(unsure, logits)


def test_pools_join_in_order():
    first = TokenSet([[1], [2]], np.array([0, 1]))
    both = label_free.join(first, TokenSet([[3]], np.array([5])).without_labels())
    assert both.ids == [[1], [2], [3]]
    assert both.labels.tolist() == [0, 1, -1]
