"""Hinton's loss against its formula, its gradient and its limits."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import InputError
from labs.lab5_distillation.distillation_loss import binary_distillation_loss, distillation_loss


def logits(seed, batch, classes, scale=3.0):
    rng = np.random.default_rng(seed)
    draw = lambda: torch.tensor(scale * rng.standard_normal((batch, classes)))  # noqa: E731
    return draw(), draw(), torch.tensor(rng.integers(0, classes, batch))


def by_hand(student, teacher, labels, temperature, alpha):
    """The formula, one example and one class at a time."""
    soft = hard = 0.0
    for s, t, label in zip(student.tolist(), teacher.tolist(), labels.tolist()):

        def softmax(values, divisor):
            top = max(values)
            powers = [math.exp((value - top) / divisor) for value in values]
            return [power / sum(powers) for power in powers]

        p, q = softmax(t, temperature), softmax(s, temperature)
        soft += sum(a * math.log(a / b) for a, b in zip(p, q) if a > 0)
        hard -= math.log(softmax(s, 1.0)[label])
    n = len(labels)
    return alpha * temperature**2 * soft / n + (1 - alpha) * hard / n


@pytest.mark.exercise("5.1")
@settings(derandomize=True, deadline=None, max_examples=60)
@given(
    batch=st.integers(1, 5),
    classes=st.integers(2, 7),
    temperature=st.floats(0.5, 8),
    alpha=st.floats(0, 1),
    seed=st.integers(0, 999),
)
def test_the_loss_is_the_formula_for_any_batch(batch, classes, temperature, alpha, seed):
    """alpha T^2 KL(teacher || student) + (1 - alpha) CE, a mean over examples, not over classes.

    reduction="mean" divides by the number of classes as well: with 77 classes the teacher whispers.
    """
    student, teacher, labels = logits(seed, batch, classes)
    loss = distillation_loss(student, teacher, labels, temperature=temperature, alpha=alpha)
    expected = by_hand(student, teacher, labels, temperature, alpha)
    assert loss.ndim == 0, f"the loss has shape {tuple(loss.shape)}, expected a scalar"
    assert float(loss) == pytest.approx(expected, rel=1e-6, abs=1e-9), (
        f"loss {float(loss):.6f}, the formula gives {expected:.6f} (T {temperature:.3f}, "
        f"alpha {alpha:.3f}, {batch} examples, {classes} classes)"
    )


@pytest.mark.exercise("5.1")
def test_a_student_like_its_teacher_has_no_soft_loss():
    """KL is 0 exactly when both agree; the hard part alone is left."""
    _, teacher, labels = logits(0, 6, 5)
    soft = distillation_loss(teacher, teacher, labels, temperature=3.0, alpha=1.0)
    assert float(soft) == pytest.approx(0, abs=1e-9), f"soft loss {float(soft)}, expected 0"
    both = distillation_loss(teacher, teacher, labels, temperature=3.0, alpha=0.25)
    hard = 0.75 * F.cross_entropy(teacher, labels)
    assert float(both) == pytest.approx(float(hard)), f"{float(both):.6f} and {float(hard):.6f}"


@pytest.mark.exercise("5.1")
def test_the_direction_is_teacher_to_student():
    """KL(p || q) punishes a student that gives nothing to a class its teacher finds possible.

    KL(q || p) forgives it: the student would learn one answer and forget how the teacher ranks
    the others, which is what the soft targets are for.
    """
    teacher = torch.log(torch.tensor([[0.5, 0.5 - 1e-9, 1e-9]]))
    student = torch.log(torch.tensor([[1 - 2e-9, 1e-9, 1e-9]]))
    loss = distillation_loss(student, teacher, torch.tensor([0]), temperature=1.0, alpha=1.0)
    forward = float(0.5 * math.log(0.5) + 0.5 * math.log(0.5 / 1e-9))
    assert float(loss) == pytest.approx(forward, rel=1e-3), (
        f"loss {float(loss):.3f}; KL(teacher || student) is {forward:.3f}, "
        f"KL(student || teacher) would be {math.log(2):.3f}"
    )


@pytest.mark.exercise("5.1")
def test_the_soft_gradient_keeps_its_size_when_the_temperature_rises():
    """The gradient of the softened KL falls as 1/T^2; the factor T^2 gives it back.

    Without it, raising T from 2 to 8 would quietly make the labels 16 times as heavy.
    """
    sizes = {}
    for temperature in (20.0, 80.0):
        student, teacher, labels = logits(1, 8, 5)
        student.requires_grad_(True)
        distillation_loss(student, teacher, labels, temperature=temperature, alpha=1.0).backward()
        sizes[temperature] = float(student.grad.norm())
    ratio = sizes[20.0] / sizes[80.0]
    assert ratio == pytest.approx(1, abs=0.1), (
        f"gradient at T = 20 / gradient at T = 80 is {ratio:.3f}, expected about 1"
    )


@pytest.mark.exercise("5.1")
def test_a_masked_class_stays_finite():
    """A class that both models rule out (logit -1e9, as masks do) adds 0, not NaN."""
    student, teacher, labels = logits(2, 4, 5)
    student[:, 4] = teacher[:, 4] = -1e9
    loss = distillation_loss(student, teacher, labels % 4, temperature=2.0, alpha=0.5)
    expected = distillation_loss(
        student[:, :4], teacher[:, :4], labels % 4, temperature=2.0, alpha=0.5
    )
    assert float(loss) == pytest.approx(float(expected)), (
        f"{float(loss)} with the masked class, {float(expected)} without it"
    )


@pytest.mark.exercise("5.1")
@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_logits_in_half_precision_lose_no_more_than_their_own_rounding(half):
    """The loss of rounded logits is computed in float32, and comes as float32.

    In bfloat16 a logarithm near -10 is known to 0.06, which is as large as many a divergence.
    Autocast on a CPU hands over bfloat16 logits and does not raise their precision again.
    """
    student, teacher, labels = (
        each.to(half) if each.is_floating_point() else each for each in logits(3, 16, 50)
    )
    loss = distillation_loss(student, teacher, labels, temperature=4.0, alpha=0.5)
    exact = distillation_loss(
        student.double(), teacher.double(), labels, temperature=4.0, alpha=0.5
    )
    assert loss.dtype == torch.float32, f"the loss is {loss.dtype}, expected torch.float32"
    assert float(loss) == pytest.approx(float(exact), rel=1e-5), (
        f"loss {float(loss):.6f}; in float64 the same logits give {float(exact):.6f}"
    )


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0, 7.0])
def test_two_classes_have_a_closed_form(temperature):
    """With logits (0, a) and (0, b): p log(p/q) + (1-p) log((1-p)/(1-q)) of two sigmoids."""
    a, b = 1.7, -0.4
    p, q = (1 / (1 + math.exp(-each / temperature)) for each in (a, b))
    expected = temperature**2 * (p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q)))
    loss = distillation_loss(
        torch.tensor([[0.0, b]]), torch.tensor([[0.0, a]]), torch.tensor([1]),
        temperature=temperature, alpha=1.0,
    )  # fmt: skip
    assert float(loss) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("classes", [2, 5, 150])
def test_a_student_that_knows_nothing_pays_what_the_teacher_knows(classes):
    """KL(p || uniform) = log C - H(p); and against a uniform teacher -log C - mean log q."""
    _, teacher, labels = logits(4, 1, classes)
    uniform = torch.zeros(1, classes, dtype=torch.float64)
    p = torch.softmax(teacher / 2, -1)
    against = distillation_loss(uniform, teacher, labels, temperature=2.0, alpha=1.0)
    entropy = float(-(p * p.log()).sum())
    assert float(against) == pytest.approx(4 * (math.log(classes) - entropy), rel=1e-9)
    learned = distillation_loss(teacher, uniform, labels, temperature=2.0, alpha=1.0)
    assert float(learned) == pytest.approx(4 * float(-math.log(classes) - p.log().mean()), rel=1e-9)


@settings(derandomize=True, deadline=None, max_examples=30)
@given(
    batch=st.integers(1, 4),
    classes=st.integers(2, 6),
    temperature=st.floats(0.5, 8),
    alpha=st.floats(0, 1),
    seed=st.integers(0, 999),
)
def test_the_gradient_is_the_definition_s(batch, classes, temperature, alpha, seed):
    """alpha T/B (q - p) + (1 - alpha)/B (softmax(s) - onehot), and what finite differences say."""
    student, teacher, labels = logits(seed, batch, classes)

    def loss(at):
        return distillation_loss(at, teacher, labels, temperature=temperature, alpha=alpha)

    x = student.clone().requires_grad_(True)
    loss(x).backward()
    p, q = (torch.softmax(each / temperature, -1) for each in (teacher, student))
    soft = temperature * (q - p)
    hard = torch.softmax(student, -1) - F.one_hot(labels, classes)
    expected = (alpha * soft + (1 - alpha) * hard) / batch
    np.testing.assert_allclose(x.grad, expected, rtol=1e-9, atol=1e-12)

    step, numeric = 1e-6, torch.zeros_like(student)
    for i in range(batch):
        for j in range(classes):
            change = torch.zeros_like(student)
            change[i, j] = step
            numeric[i, j] = (loss(student + change) - loss(student - change)) / (2 * step)
    np.testing.assert_allclose(x.grad, numeric, rtol=1e-5, atol=1e-7)


@settings(derandomize=True, deadline=None, max_examples=30)
@given(batch=st.integers(1, 4), classes=st.integers(2, 9), seed=st.integers(0, 999))
def test_a_high_temperature_matches_centred_logits(batch, classes, seed):
    """T^2 KL tends to half the mean square of the difference of the centred logits."""
    student, teacher, labels = logits(seed, batch, classes, scale=1.0)
    difference = student - teacher
    centred = difference - difference.mean(-1, keepdim=True)
    expected = 0.5 * float(centred.square().mean())
    loss = float(distillation_loss(student, teacher, labels, temperature=1e4, alpha=1.0))
    assert loss == pytest.approx(expected, rel=1e-3, abs=1e-6)


@settings(derandomize=True, deadline=None, max_examples=30)
@given(
    temperature=st.floats(0.5, 8),
    alpha=st.floats(0, 1),
    shift=st.floats(-50, 50),
    seed=st.integers(0, 999),
)
def test_what_a_softmax_does_not_see_changes_nothing(temperature, alpha, shift, seed):
    """A constant added to all logits of a text, the order of classes, the order of texts."""
    student, teacher, labels = logits(seed, 5, 4)
    options = {"temperature": temperature, "alpha": alpha}
    loss = float(distillation_loss(student, teacher, labels, **options))
    assert loss >= -1e-12
    shifted = distillation_loss(student + shift, teacher - shift, labels, **options)
    assert float(shifted) == pytest.approx(loss, rel=1e-9, abs=1e-9)
    order, texts = torch.tensor([2, 0, 3, 1]), torch.tensor([4, 1, 0, 3, 2])
    renamed = distillation_loss(
        student[:, order], teacher[:, order], torch.argsort(order)[labels], **options
    )
    assert float(renamed) == pytest.approx(loss, rel=1e-9, abs=1e-9)
    again = distillation_loss(student[texts], teacher[texts], labels[texts], **options)
    assert float(again) == pytest.approx(loss, rel=1e-9, abs=1e-9)


@settings(derandomize=True, deadline=None, max_examples=30)
@given(alpha=st.floats(0, 1), seed=st.integers(0, 999))
def test_a_batch_twice_over_has_the_same_loss(alpha, seed):
    """A mean over texts does not know how many there are; a sum would double."""
    student, teacher, labels = logits(seed, 3, 4)
    once = distillation_loss(student, teacher, labels, temperature=2.0, alpha=alpha)
    twice = distillation_loss(
        *(torch.cat([each, each]) for each in (student, teacher, labels)),
        temperature=2.0,
        alpha=alpha,
    )
    assert float(twice) == pytest.approx(float(once), rel=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_logits_of_ten_thousand_have_a_finite_loss_and_gradient(dtype, temperature):
    """Certain of different classes: KL is the difference of the logits over T, times T squared."""
    student = torch.tensor([[1e4, -1e4, 0.0]], dtype=dtype, requires_grad=True)
    teacher = torch.tensor([[-1e4, 1e4, 0.0]], dtype=dtype)
    loss = distillation_loss(
        student, teacher, torch.tensor([1]), temperature=temperature, alpha=0.5
    )
    loss.backward()
    expected = 0.5 * (temperature**2 * 2e4 / temperature) + 0.5 * 2e4
    assert float(loss.detach()) == pytest.approx(expected, rel=1e-6)
    wanted = [[0.5 * temperature + 0.5, -0.5 * temperature - 0.5, 0.0]]
    np.testing.assert_allclose(student.grad, torch.tensor(wanted, dtype=dtype), rtol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_under_autocast_the_loss_is_computed_in_float32(dtype):
    """A linear head hands over half-precision logits; the loss of those is exact again."""
    torch.manual_seed(0)
    head, states = torch.nn.Linear(16, 50), torch.randn(8, 16)
    _, teacher, labels = logits(6, 8, 50)
    with torch.autocast("cpu", dtype):
        rounded = head(states)
        loss = distillation_loss(rounded, teacher.float(), labels, temperature=4.0, alpha=0.5)
    exact = distillation_loss(rounded.double(), teacher, labels, temperature=4.0, alpha=0.5)
    assert rounded.dtype == dtype
    assert loss.dtype == torch.float32
    assert float(loss.detach()) == pytest.approx(float(exact), rel=1e-5)
    loss.backward()
    assert torch.isfinite(head.weight.grad).all()


def test_without_labels_the_whole_loss_is_soft():
    """With alpha = 1 a label of -1, not known, is not read."""
    student, teacher, labels = logits(5, 4, 3)
    unknown = torch.full_like(labels, -1)
    loss = distillation_loss(student, teacher, unknown, temperature=2.0, alpha=1.0)
    known = distillation_loss(student, teacher, labels, temperature=2.0, alpha=1.0)
    assert float(loss) == float(known)


@settings(derandomize=True, deadline=None, max_examples=30)
@given(temperature=st.floats(0.5, 8), alpha=st.floats(0, 1), seed=st.integers(0, 99))
def test_a_yes_no_head_is_two_classes(temperature, alpha, seed):
    student, teacher, _ = logits(seed, 3, 4)
    labels = (student > teacher).float()
    loss = binary_distillation_loss(student, teacher, labels, temperature=temperature, alpha=alpha)
    p, q = torch.sigmoid(teacher / temperature), torch.sigmoid(student / temperature)
    soft = (p * torch.log(p / q) + (1 - p) * torch.log((1 - p) / (1 - q))).mean()
    hard = F.binary_cross_entropy_with_logits(student, labels.double())
    expected = alpha * temperature**2 * soft + (1 - alpha) * hard
    assert float(loss) == pytest.approx(float(expected), rel=1e-5, abs=1e-9)


def test_masked_entries_of_a_yes_no_head_do_not_count():
    student, teacher, _ = logits(0, 3, 4)
    labels, mask = torch.ones(3, 4), torch.zeros(3, 4, dtype=torch.bool)
    mask[1] = True
    only = binary_distillation_loss(student[1], teacher[1], labels[1], temperature=2.0, alpha=0.5)
    masked = binary_distillation_loss(
        student, teacher, labels, temperature=2.0, alpha=0.5, mask=mask
    )
    assert float(masked) == pytest.approx(float(only))
    with pytest.raises(InputError, match="selects no entry"):
        binary_distillation_loss(
            student, teacher, labels, temperature=2.0, alpha=0.5, mask=mask & False
        )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"temperature": 0.0}, "temperature = 0.0 must be > 0"),
        ({"alpha": 1.5}, "alpha = 1.5 must be from 0 to 1"),
        ({"teacher_logits": torch.zeros(2, 4)}, r"\(2, 3\).*\(2, 4\)"),
    ],
)
def test_what_would_be_another_loss_is_refused(change, message):
    given_ = {
        "student_logits": torch.zeros(2, 3),
        "teacher_logits": torch.zeros(2, 3),
        "labels": torch.zeros(2, dtype=torch.long),
        "temperature": 2.0,
        "alpha": 0.5,
    }
    with pytest.raises(InputError, match=message):
        distillation_loss(**(given_ | change))
