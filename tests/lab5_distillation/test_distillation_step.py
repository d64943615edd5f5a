"""A step of distillation written out, and the loop that takes the same one."""

import copy

import pytest
import torch
from torch import nn

from labs.lab5_distillation import distillation_step as module


class Net(nn.Module):
    """A small model that remembers in which mode it was called and with gradients or not."""

    def __init__(self, width, dropout=0.0, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.layers = nn.Sequential(
            nn.Linear(6, width), nn.ReLU(), nn.Dropout(dropout), nn.Linear(width, 4)
        )
        self.calls = []

    def forward(self, x):
        out = self.layers(x)
        self.calls.append((self.training, out.requires_grad))
        return out


class Projected(nn.Module):
    """Squared distance between the teacher's outputs and a projection of the student's."""

    def __init__(self, scale=1.0):
        super().__init__()
        torch.manual_seed(9)
        self.projection, self.scale = nn.Linear(4, 4), scale

    def forward(self, student, teacher, batch):
        return self.scale * (self.projection(student) - teacher).pow(2).mean()


def soft(student, teacher, batch):
    """Cross-entropy with the teacher's probabilities and with the labels."""
    log_q = student.log_softmax(1)
    labels = nn.functional.nll_loss(log_q, batch[1])
    return 0.7 * -(teacher.softmax(1) * log_q).sum(1).mean() + 0.3 * labels


def data(n=32, seed=0):
    x = torch.randn(n, 6, generator=torch.Generator().manual_seed(seed))
    return x, x[:, :4].argmax(1)


def weights(*models):
    return torch.cat([p.detach().flatten() for model in models for p in model.parameters()])


@pytest.mark.exercise("5.2")
def test_three_steps_follow_the_textbook():
    """The student moves exactly as clear, backward, clip, step on the loss would move it.

    Three steps: gradients left over from the first would show in the second.
    """
    student, teacher = Net(5, seed=1), Net(16, seed=2)
    expected = copy.deepcopy(student)
    mine = torch.optim.SGD(student.parameters(), lr=0.5)
    theirs = torch.optim.SGD(expected.parameters(), lr=0.5)
    for step in range(3):
        batch = data(seed=step)
        given = module.distil_step(student, teacher, batch, mine, loss=soft, max_norm=0.3)
        with torch.no_grad():
            target = teacher(batch[0])
        loss = soft(expected(batch[0]), target, batch)
        theirs.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(expected.parameters(), 0.3)
        theirs.step()
        assert given == pytest.approx(loss.item(), rel=1e-5), (
            f"step {step + 1}: loss {given:.6f}, expected {loss.item():.6f}"
        )
        difference = float((weights(student) - weights(expected)).abs().max())
        assert difference < 1e-6, f"step {step + 1}: the weights differ by {difference:.3g}"


@pytest.mark.exercise("5.2")
def test_each_model_is_asked_in_its_own_mode():
    """Teacher: dropout off, no graph. Student: dropout on, with a graph.

    A teacher in training mode gives other targets for the same text at every step, and a graph
    through it costs the memory of the largest model for nothing. After an evaluation the student
    is still in evaluation mode: it would train on without its dropout.
    """
    student, teacher = Net(5, dropout=0.1).eval(), Net(16, dropout=0.5).train()
    optimizer = torch.optim.SGD(student.parameters(), lr=0.1)
    module.distil_step(student, teacher, data(), optimizer, loss=soft)
    assert teacher.calls, "the teacher was not asked"
    modes = {"teacher": teacher.calls[-1], "student": student.calls[-1]}
    assert modes["teacher"] == (False, False), (
        f"the teacher answered with (training, graph) = {modes['teacher']}, expected both False"
    )
    assert modes["student"] == (True, True), (
        f"the student answered with (training, graph) = {modes['student']}, expected both True"
    )


@pytest.mark.exercise("5.2")
def test_nothing_flows_into_the_teacher():
    """The teacher is fixed: its gradients stay empty, even where the loss would reach it."""
    student, teacher = Net(5), Net(16)
    before = weights(teacher)
    optimizer = torch.optim.SGD(student.parameters(), lr=0.5)
    module.distil_step(student, teacher, data(), optimizer, loss=soft)
    reached = [name for name, p in teacher.named_parameters() if p.grad is not None]
    assert not reached, f"gradients reached {reached} of the teacher, expected none"
    moved = float((weights(teacher) - before).abs().max())
    assert moved == 0, f"the teacher's weights moved by {moved:.3g}, expected 0"


@pytest.mark.exercise("5.2")
def test_the_gradient_is_clipped_as_one_vector_with_the_projections():
    """With SGD at rate 1, student and projection together move by max_norm, and not further.

    Clipped alone, the student keeps to the limit while the projection, whose gradient may be the
    largest of all, makes steps of any size. With None, all move by the whole gradient.
    """
    moves, batch = {}, data()
    for max_norm in (0.01, None):
        student, teacher, loss = Net(5, seed=1), Net(16, seed=2), Projected(scale=50.0)
        before = weights(student, loss)
        optimizer = torch.optim.SGD(
            [{"params": student.parameters()}, {"params": loss.parameters()}], lr=1.0
        )
        module.distil_step(student, teacher, batch, optimizer, loss=loss, max_norm=max_norm)
        moves[max_norm] = float((weights(student, loss) - before).norm())
    student, loss = Net(5, seed=1), Projected(scale=50.0)
    loss(student(batch[0]), teacher(batch[0]).detach(), batch).backward()
    grads = [p.grad.flatten() for model in (student, loss) for p in model.parameters()]
    whole = float(torch.cat(grads).norm())
    assert moves[0.01] == pytest.approx(0.01, rel=0.01), (
        f"student and projection moved {moves[0.01]:.4f}, limit 0.01"
    )
    assert moves[None] == pytest.approx(whole, rel=1e-3), (
        f"max_norm=None moved {moves[None]:.4f}, the whole gradient is {whole:.4f}"
    )
    assert whole > 1.5, f"the gradient {whole:.4f} is too small to tell None from a limit of 1"


def test_the_loop_takes_the_same_step():
    """`distiller.fit` with the same loss as an objective gives the same losses and weights."""
    from labs.lab5_distillation.distiller import fit
    from labs.lab5_distillation.objectives import FrozenTeacher, TaskDistillation

    batches = [data(seed=seed) for seed in range(4)]
    looped = []
    teacher = Net(16, dropout=0.5, seed=2)
    pairs = [(Net(5, dropout=0.3, seed=1), Projected()) for _ in range(2)]
    optimizers = [torch.optim.AdamW([*a.parameters(), *b.parameters()], lr=0.01) for a, b in pairs]
    torch.manual_seed(0)
    student, loss = pairs[0]
    by_hand = [
        module.distil_step(student, teacher, batch, optimizers[0], loss=loss) for batch in batches
    ]
    torch.manual_seed(0)
    student, loss = pairs[1]
    objective = TaskDistillation(student, FrozenTeacher(teacher), no_task, loss, alpha=1.0)
    fit(objective, batches, optimizers[1], epochs=1, on_step=lambda _, loss: looped.append(loss))
    assert by_hand == looped
    assert torch.equal(weights(*pairs[0]), weights(*pairs[1]))


def no_task(outputs, batch):
    raise AssertionError("alpha is 1: the labels are not read")
