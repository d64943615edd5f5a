"""Hinton's divergence in two parts, and what each part is alone."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import InputError
from labs.lab5_distillation import decoupled_distillation

BATCH = given(
    batch=st.integers(1, 5),
    classes=st.integers(2, 8),
    temperature=st.floats(0.5, 8),
    seed=st.integers(0, 999),
)
MORE = settings(derandomize=True, deadline=None, max_examples=30)


def draw(seed, batch, classes, scale=3.0):
    rng = np.random.default_rng(seed)
    student, teacher = (
        torch.tensor(scale * rng.standard_normal((batch, classes))) for _ in range(2)
    )
    return student, teacher, torch.tensor(rng.integers(0, classes, batch))


def by_hand(student, teacher, target, temperature):
    """(TCKD, NCKD, 1 - p_t) of one text, one class at a time."""

    def softmax(values):
        powers = [math.exp((value - max(values)) / temperature) for value in values]
        return [power / sum(powers) for power in powers]

    def kl(p, q):
        return sum(a * math.log(a / b) for a, b in zip(p, q))

    p, q = softmax(teacher.tolist()), softmax(student.tolist())
    others = [i for i in range(len(p)) if i != target]
    left, right = sum(p[i] for i in others), sum(q[i] for i in others)
    return (
        kl([p[target], left], [q[target], right]),
        kl([p[i] / left for i in others], [q[i] / right for i in others]),
        left,
    )


@pytest.mark.exercise("5.7")
@MORE
@BATCH
def test_each_part_is_its_formula(batch, classes, temperature, seed):
    """TCKD is the KL of two classes, NCKD of the others renormalised, one value a text.

    The target is the label, not what either model chooses.
    """
    student, teacher, target = draw(seed, batch, classes)
    found = decoupled_distillation.decouple(student, teacher, target, temperature=temperature)
    for i in range(batch):
        expected = by_hand(student[i], teacher[i], int(target[i]), temperature)
        got = tuple(float(part[i]) for part in (found.target, found.others, found.left))
        for name, a, b in zip(("TCKD", "NCKD", "1 - p_t"), got, expected):
            assert a == pytest.approx(b, rel=1e-6, abs=1e-9), (
                f"{name} of text {i} is {a:.9f}, the formula gives {b:.9f} "
                f"({classes} classes, target {int(target[i])}, T {temperature:.3f})"
            )


@pytest.mark.exercise("5.7")
@MORE
@BATCH
def test_the_parts_add_up_to_the_divergence(batch, classes, temperature, seed):
    """KL(p || q) = TCKD + (1 - p_t) NCKD, for any target: Zhao et al.'s identity.

    It is what makes decoupling an analysis of Hinton's loss and not another loss.
    """
    student, teacher, target = draw(seed, batch, classes)
    found = decoupled_distillation.decouple(student, teacher, target, temperature=temperature)
    log_p, log_q = (torch.log_softmax(each / temperature, -1) for each in (teacher, student))
    whole = (log_p.exp() * (log_p - log_q)).sum(-1)
    parts = found.target + found.left * found.others
    worst = float((whole - parts).abs().max())
    assert worst < 1e-9, (
        f"KL is {whole.tolist()}, TCKD + (1 - p_t) NCKD is {parts.tolist()}: {worst:.2e} apart"
    )


@pytest.mark.exercise("5.7")
def test_a_certain_teacher_still_ranks_the_wrong_classes():
    """With p_t = 1 in float32 the rest is 1e-17 in all, and its ratios are what they were.

    Computed as log(1 - p_t) the loss is infinite or NaN, and with a small constant added it is 0:
    on the texts where the teacher is surest, it would say nothing.
    """
    teacher = torch.tensor([[40.0, 1.0, 0.0]])
    student = torch.tensor([[38.0, 0.0, 1.0]])
    found = decoupled_distillation.decouple(student, teacher, torch.tensor([0]), temperature=1.0)
    p = 1 / (1 + math.exp(-1))
    expected = p * math.log(p / (1 - p)) + (1 - p) * math.log((1 - p) / p)
    assert float(found.others) == pytest.approx(expected, rel=1e-4), (
        f"NCKD is {float(found.others)}, {expected:.6f} expected of (1, 0) against (0, 1)"
    )
    assert float(found.target) == pytest.approx(0, abs=1e-6), (
        f"TCKD is {float(found.target)}, expected 0: both are certain of the target"
    )


@pytest.mark.exercise("5.7")
def test_the_target_s_logit_does_not_touch_the_ranking_of_the_others():
    """NCKD is of the others as if the target did not exist: its logit may be anything."""
    student, teacher, target = draw(0, 4, 6)
    raised = teacher.clone()
    raised[torch.arange(4), target] += 5.0
    before, after = (
        decoupled_distillation.decouple(student, each, target, temperature=2.0)
        for each in (teacher, raised)
    )
    assert torch.allclose(before.others, after.others, atol=1e-9), (
        f"NCKD {before.others.tolist()} became {after.others.tolist()} when the teacher's target "
        "logit rose"
    )
    assert (before.left > after.left).all(), "1 - p_t falls when the target's logit rises"


def test_hinton_s_loss_weighs_the_ranking_by_what_the_teacher_leaves():
    """With the weights of the identity the decoupled loss is Hinton's."""
    from labs.lab5_distillation.soft_losses import forward_kl

    student, teacher, target = draw(1, 1, 5)
    left = float(decoupled_distillation.decouple(student, teacher, target, temperature=3.0).left)
    loss = decoupled_distillation.decoupled_loss(
        student, teacher, target, temperature=3.0, target_weight=1.0, others_weight=left
    )
    expected = forward_kl(student, teacher, target, temperature=3.0)
    assert float(loss) == pytest.approx(float(expected), rel=1e-9)


def test_the_gradient_is_that_of_finite_differences():
    student, teacher, target = draw(2, 3, 4)
    x = student.requires_grad_(True)
    assert torch.autograd.gradcheck(
        lambda at: decoupled_distillation.decoupled_loss(
            at, teacher, target, temperature=2.0, target_weight=1.0, others_weight=4.0
        ),
        (x,),
    )


def test_a_text_without_label_takes_the_teacher_s_choice():
    teacher = torch.tensor([[0.0, 2.0, 1.0], [3.0, 0.0, 1.0]])
    found = decoupled_distillation.targets(teacher, torch.tensor([-1, 2]))
    assert found.tolist() == [1, 2]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"target": torch.tensor([0, 3])}, "target 3 must be from 0 to 2"),
        ({"target": torch.tensor([-1, 0])}, "target -1 must be from 0 to 2"),
        ({"temperature": 0.0}, "temperature = 0.0 must be > 0"),
        ({"teacher_logits": torch.zeros(2, 4)}, r"\(2, 3\).*\(2, 4\)"),
    ],
)
def test_what_has_no_parts_is_refused(change, message):
    given_ = {
        "student_logits": torch.zeros(2, 3),
        "teacher_logits": torch.zeros(2, 3),
        "target": torch.tensor([0, 1]),
        "temperature": 2.0,
    }
    with pytest.raises(InputError, match=message):
        decoupled_distillation.decouple(**(given_ | change))


def test_weights_below_zero_are_refused():
    with pytest.raises(InputError, match=r"others_weight = -1.0 must be >= 0"):
        decoupled_distillation.decoupled_loss(
            torch.zeros(1, 3), torch.zeros(1, 3), torch.tensor([0]), temperature=1.0,
            others_weight=-1.0,
        )  # fmt: skip
