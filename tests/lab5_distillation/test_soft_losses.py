"""Soft losses against each other's limits and against their formulas."""

from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import InputError
from labs.lab5_distillation.decoupled_distillation import decoupled_loss
from labs.lab5_distillation.distillation_loss import distillation_loss
from labs.lab5_distillation.loss_studies import fit_one_peak
from labs.lab5_distillation.objectives import Distillation
from labs.lab5_distillation.soft_losses import (
    SoftDistillation,
    forward_kl,
    jensen_shannon,
    mse_on_logits,
    reverse_kl,
)

MORE = settings(derandomize=True, deadline=None, max_examples=30)
SEEDS = given(seed=st.integers(0, 999), classes=st.integers(2, 8), temperature=st.floats(0.5, 8))
LOSSES = {
    "forward": forward_kl,
    "reverse": reverse_kl,
    "Jensen-Shannon": jensen_shannon,
    "logits": mse_on_logits,
    "decoupled": partial(decoupled_loss, others_weight=4.0),
}


def draw(seed, classes, batch=3, scale=2.0):
    rng = np.random.default_rng(seed)
    student, teacher = (
        torch.tensor(scale * rng.standard_normal((batch, classes))) for _ in range(2)
    )
    return student, teacher, torch.tensor(rng.integers(0, classes, batch))


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("classes", [2, 6])
def test_a_soft_loss_is_zero_for_a_student_like_its_teacher_and_above_it_otherwise(name, classes):
    """One value a text, and a gradient that finite differences confirm."""
    student, teacher, labels = draw(0, classes)
    loss = partial(LOSSES[name], temperature=2.0)
    apart = loss(student, teacher, labels)
    assert apart.shape == (3,)
    assert (apart > 0).all()
    np.testing.assert_allclose(loss(teacher, teacher, labels), 0, atol=1e-9)
    assert torch.autograd.gradcheck(
        lambda at: loss(at, teacher, labels), (student.requires_grad_(True),)
    )


@pytest.mark.parametrize("name", LOSSES)
def test_a_soft_loss_of_half_precision_logits_is_that_of_their_values(name):
    student, teacher, labels = draw(1, 20)
    half = (student.bfloat16(), teacher.bfloat16())
    rounded = LOSSES[name](*half, labels, temperature=2.0)
    exact = LOSSES[name](*(each.double() for each in half), labels, temperature=2.0)
    assert rounded.dtype == torch.float32
    np.testing.assert_allclose(rounded, exact, rtol=1e-4)


@pytest.mark.parametrize("name", LOSSES)
def test_a_soft_loss_of_logits_of_ten_thousand_is_finite(name):
    student = torch.tensor([[1e4, -1e4, 0.0]], requires_grad=True)
    teacher = torch.tensor([[-1e4, 1e4, 0.0]])
    loss = LOSSES[name](student, teacher, torch.tensor([1]), temperature=1.0).sum()
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(student.grad).all()


@MORE
@SEEDS
def test_forward_is_hinton_s_and_reverse_has_its_arguments_swapped(seed, classes, temperature):
    student, teacher, labels = draw(seed, classes)
    forward = forward_kl(student, teacher, labels, temperature=temperature)
    hinton = distillation_loss(student, teacher, labels, temperature=temperature, alpha=1.0)
    assert float(forward.mean()) == pytest.approx(float(hinton), rel=1e-9)
    reverse = reverse_kl(teacher, student, labels, temperature=temperature)
    np.testing.assert_allclose(reverse, forward, rtol=1e-12)


@MORE
@SEEDS
def test_jensen_shannon_lies_between_its_limits(seed, classes, temperature):
    """Over beta it tends to forward KL, over 1 - beta to reverse KL; halves are symmetric.

    It is bounded by T^2 log 2, whatever the logits.
    """
    student, teacher, labels = draw(seed, classes)
    arguments = (student, teacher, labels)
    small = 1e-7
    to_forward = jensen_shannon(*arguments, temperature=temperature, beta=small) / small
    expected = forward_kl(*arguments, temperature=temperature)
    np.testing.assert_allclose(to_forward, expected, rtol=1e-3, atol=1e-5)
    to_reverse = jensen_shannon(*arguments, temperature=temperature, beta=1 - small) / small
    expected = reverse_kl(*arguments, temperature=temperature)
    np.testing.assert_allclose(to_reverse, expected, rtol=1e-3, atol=1e-5)
    one = jensen_shannon(*arguments, temperature=temperature)
    other = jensen_shannon(teacher, student, labels, temperature=temperature)
    np.testing.assert_allclose(one, other, rtol=1e-9)
    assert (one <= temperature**2 * np.log(2) + 1e-9).all()


@MORE
@given(seed=st.integers(0, 999), classes=st.integers(2, 8))
def test_a_high_temperature_gives_the_logits_distance_less_their_shift(seed, classes):
    """lim T^2 KL = mse_on_logits - mean(d)^2 / 2: a softmax does not see a common shift."""
    student, teacher, labels = draw(seed, classes, scale=1.0)
    limit = forward_kl(student, teacher, labels, temperature=1e4)
    shift = (student - teacher).mean(-1)
    expected = mse_on_logits(student, teacher, labels, temperature=1.0) - shift**2 / 2
    np.testing.assert_allclose(limit, expected, rtol=1e-3, atol=1e-6)


def test_forward_covers_both_peaks_and_reverse_seeks_one():
    """A student with one peak, a teacher with two: the classical picture of the two directions."""
    places = torch.arange(40, dtype=torch.float64)
    peaks = torch.exp(-0.5 * ((places - 10) / 2) ** 2) + 0.6 * torch.exp(
        -0.5 * ((places - 28) / 2) ** 2
    )
    teacher = (peaks + 1e-6) / (peaks + 1e-6).sum()
    covering, seeking = (fit_one_peak(teacher, loss) for loss in (forward_kl, reverse_kl))
    middle = float((places * teacher).sum())
    assert float((places * covering).sum()) == pytest.approx(middle, abs=0.5)
    assert int(seeking.argmax()) == 10
    assert float(seeking[20:].sum()) < 0.01 < 0.2 < float(covering[20:].sum())


def batch_of(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(6, 4, generator=generator), torch.tensor([0, 1, 2, 0, 1, 2])


def test_the_objective_with_forward_kl_is_hinton_s():
    torch.manual_seed(0)
    student, teacher = torch.nn.Linear(4, 3), torch.nn.Linear(4, 3)
    for alpha in (0.0, 0.3, 1.0):
        options = {"temperature": 2.0, "alpha": alpha}
        answer = lambda batch: teacher(batch[0]).detach()  # noqa: E731
        ours = SoftDistillation(student, answer, forward_kl, **options)(batch_of())
        hinton = Distillation(student, answer, **options)(batch_of())
        assert float(ours) == pytest.approx(float(hinton), rel=1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_every_soft_loss_trains_a_student(name):
    """A linear student comes near a linear teacher, without labels."""
    torch.manual_seed(0)
    student, teacher = torch.nn.Linear(4, 3), torch.nn.Linear(4, 3)
    batch = (batch_of()[0], torch.full((6,), -1))
    objective = SoftDistillation(
        student, lambda batch: teacher(batch[0]).detach(), LOSSES[name], temperature=2.0, alpha=1.0
    )
    optimizer = torch.optim.Adam(objective.parameters(), 0.05)
    before = float(objective(batch))
    for _ in range(60):
        optimizer.zero_grad()
        objective(batch).backward()
        optimizer.step()
    assert float(objective(batch)) < before / 20


@pytest.mark.parametrize("beta", [0.0, 1.0, -0.1])
def test_a_mixture_of_one_is_refused(beta):
    with pytest.raises(InputError, match=r"beta = .* must be above 0 and below 1"):
        jensen_shannon(
            torch.zeros(1, 2), torch.zeros(1, 2), torch.zeros(1), temperature=1.0, beta=beta
        )


def test_logits_of_other_classes_are_refused():
    for loss in LOSSES.values():
        with pytest.raises(InputError, match="same shape"):
            loss(torch.zeros(1, 2), torch.zeros(1, 3), torch.tensor([0]), temperature=1.0)
