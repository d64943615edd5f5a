"""What is minimised, and who takes part in it."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from common.errors import InputError
from labs.lab5_distillation.distillation_loss import binary_distillation_loss, distillation_loss
from labs.lab5_distillation.objectives import (
    CachedTeacher,
    Distillation,
    FrozenTeacher,
    Supervised,
    TaskDistillation,
)
from labs.lab5_distillation.sequence_ranker import (
    SequenceRanker,
    SoftHeads,
    Walks,
    ranker_distillation,
    read_heads,
    task_loss,
)


def pair(seed=0, dropout=0.0):
    torch.manual_seed(seed)
    return SequenceRanker(20, 8, 1, dropout=dropout), SequenceRanker(20, 16, 2, dropout=dropout)


def test_a_frozen_teacher_answers_as_when_served_whatever_has_happened_to_it():
    """Evaluation mode and no graph at every call, also after someone's train()."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 50), nn.Dropout(0.5), nn.Linear(50, 4))
    teacher, x = FrozenTeacher(model), torch.randn(8, 3)
    expected = teacher((x,))
    model.train().requires_grad_(True)
    given = teacher((x,))
    assert torch.equal(given, expected)
    assert not given.requires_grad
    assert torch.is_grad_enabled()


def test_a_teacher_is_no_part_of_what_learns():
    """Neither parameters(), nor train(), nor a state dict of the objective reaches it."""
    student, model = pair()
    objective = ranker_distillation(student, model)
    objective.train()
    assert not model.training
    assert {id(p) for p in objective.parameters()} == {id(p) for p in student.parameters()}
    assert all(name.startswith("student.") for name in objective.state_dict())
    assert not any(p.requires_grad for p in model.parameters())


def test_a_cached_teacher_is_found_by_rows():
    from types import SimpleNamespace

    logits = torch.arange(12.0).view(6, 2)
    given = CachedTeacher(logits)(SimpleNamespace(rows=torch.tensor([4, 0])))
    assert given.tolist() == [[8, 9], [0, 1]]
    with pytest.raises(InputError, match=r"must be \[N, C\]"):
        CachedTeacher(torch.zeros(3))


def test_supervised_and_distillation_are_their_losses():
    torch.manual_seed(0)
    student, model = nn.Linear(3, 4), nn.Linear(3, 4)
    x, y = torch.randn(8, 3), torch.randint(4, (8,))
    plain = Supervised(student, label_smoothing=0.1)((x, y))
    assert torch.equal(plain, F.cross_entropy(student(x), y, label_smoothing=0.1))
    given = Distillation(student, FrozenTeacher(model), temperature=3.0, alpha=0.7)((x, y))
    expected = distillation_loss(student(x), model(x), y, temperature=3.0, alpha=0.7)
    assert torch.equal(given, expected)


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_a_ranker_with_two_heads_learns_what_the_capstone_would_teach_it(alpha):
    """(1 - alpha) of the task and alpha of the soft losses is alpha inside each head's loss."""
    student, model = pair()
    batch = next(iter(Walks()))
    given = ranker_distillation(student, model, temperature=2.0, alpha=alpha)(batch)
    mine, its = read_heads(student, batch), read_heads(model, batch)
    options = {"temperature": 2.0, "alpha": alpha}
    expected = distillation_loss(
        mine["next"].flatten(0, 1), its["next"].flatten(0, 1), batch.nexts.flatten(), **options
    ) + binary_distillation_loss(mine["like"], its["like"], batch.liked, **options)
    assert float(given.detach()) == pytest.approx(float(expected.detach()), rel=1e-5)
    given.backward()
    reached = torch.cat([p.grad.flatten() for p in student.parameters() if p.grad is not None])
    for p in student.parameters():
        p.grad = None
    expected.backward()
    other = torch.cat([p.grad.flatten() for p in student.parameters() if p.grad is not None])
    assert torch.allclose(reached, other, atol=1e-6)


@pytest.mark.parametrize(
    ("shape", "first"),
    [
        (lambda out: out, lambda out: out),
        (lambda out: (out, out), lambda out: out[0]),
        (lambda out: {"a": out}, lambda out: out["a"]),
    ],
    ids=["tensor", "tuple", "dict"],
)
def test_outputs_may_be_a_tensor_a_tuple_or_a_dict(shape, first):
    """The losses read the outputs; the objective does not care what they are."""
    torch.manual_seed(0)
    x, student, model = torch.randn(4, 3), nn.Linear(3, 2), nn.Linear(3, 2)

    def forward(model, batch):
        return shape(model(batch))

    objective = TaskDistillation(
        student,
        FrozenTeacher(model, forward),
        lambda out, batch: first(out).pow(2).mean(),
        lambda out, target, batch: F.mse_loss(first(out), first(target)),
        alpha=0.5,
        forward=forward,
    )
    expected = 0.5 * student(x).pow(2).mean() + 0.5 * F.mse_loss(student(x), model(x))
    assert torch.allclose(objective(x), expected)


def test_at_the_ends_of_alpha_one_side_is_not_asked():
    """alpha 0 does not compute the teacher, alpha 1 does not read labels (there may be none)."""

    def never(*_):
        raise AssertionError("was asked")

    student, model = pair()
    batch = next(iter(Walks()))
    alone = TaskDistillation(student, never, task_loss, never, alpha=0.0, forward=read_heads)
    assert torch.equal(alone(batch), task_loss(read_heads(student, batch), batch))
    teacher = FrozenTeacher(model, read_heads)
    soft = TaskDistillation(student, teacher, never, SoftHeads(2.0), alpha=1.0, forward=read_heads)
    assert soft(batch).requires_grad


def test_heads_that_differ_are_refused():
    """A teacher with other heads is a mistake in the pair, not a matter for the loss."""
    student, model = pair()
    batch = next(iter(Walks()))
    for forward, message in (
        (lambda model, batch: {"next": model(batch.history)["next"]}, "a dict of next"),
        (lambda model, batch: tuple(model(batch.history).values()), "2 outputs"),
        (lambda model, batch: model(batch.history)["next"], "one output"),
    ):
        objective = TaskDistillation(
            student, FrozenTeacher(model, forward), task_loss, SoftHeads(2.0), alpha=0.5,
            forward=read_heads,
        )  # fmt: skip
        with pytest.raises(InputError, match=f"dict of like, next and the teacher {message}"):
            objective(batch)
    with pytest.raises(InputError, match=r"alpha = 1\.5"):
        TaskDistillation(student, never_asked, task_loss, SoftHeads(2.0), alpha=1.5)


def never_asked(batch):
    raise AssertionError("was asked")


def test_a_soft_loss_with_parameters_learns_too():
    """A projection in the soft loss is among the objective's parameters."""

    class Projected(nn.Module):
        def __init__(self):
            super().__init__()
            self.projection = nn.Linear(2, 3)

        def forward(self, out, target, batch):
            return F.mse_loss(self.projection(out), target)

    objective = TaskDistillation(
        nn.Linear(3, 2), FrozenTeacher(nn.Linear(3, 3)), lambda *_: 0.0, Projected(), alpha=1.0
    )
    objective((torch.randn(4, 3),)).backward()
    assert objective.soft_loss.projection.weight.grad.abs().sum() > 0
    assert "soft_loss.projection.weight" in dict(objective.named_parameters())
