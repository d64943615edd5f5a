"""A distillation step, the loop around it, and what the student keeps."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from common.errors import InputError
from labs.lab5_distillation.distil import distil, distil_step, predict, retention, train_alone


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


def data(n=32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 6, generator=generator)
    return x, (x[:, :4]).argmax(1)


def plain_loss(student_logits, teacher_logits, labels, temperature, alpha):
    """The loss again, so that these tests judge the step alone (exercise 5.1 has its own)."""
    p = (teacher_logits / temperature).softmax(1)
    log_q = (student_logits / temperature).log_softmax(1)
    soft = (p * (p.log() - log_q)).sum(1).mean()
    hard = nn.functional.cross_entropy(student_logits, labels)
    return alpha * temperature**2 * soft + (1 - alpha) * hard


@pytest.fixture
def formula(monkeypatch):
    """Put the plain formula where the step looks for the loss: 5.2 does not wait for 5.1."""
    from labs.lab5_distillation import distil as module

    def loss(student_logits, teacher_logits, labels, *, temperature, alpha):
        return plain_loss(student_logits, teacher_logits, labels, temperature, alpha)

    monkeypatch.setattr(module, "distillation_loss", loss)


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def test_three_steps_follow_the_textbook(formula):
    """The student moves exactly as clear, backward, clip, step on the loss would move it.

    Three steps: gradients left over from the first would show in the second. The weights of the
    two parts differ, so that giving alpha to the labels would show as well.
    """
    student, teacher = Net(5, seed=1), Net(16, seed=2)
    expected = copy.deepcopy(student)
    mine = torch.optim.SGD(student.parameters(), lr=0.5)
    theirs = torch.optim.SGD(expected.parameters(), lr=0.5)
    for step in range(3):
        batch = data(seed=step)
        given = distil_step(student, teacher, batch, mine, temperature=3.0, alpha=0.8, max_norm=0.3)
        with torch.no_grad():
            target = teacher(batch[0])
        loss = plain_loss(expected(batch[0]), target, batch[1], 3.0, 0.8)
        theirs.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(expected.parameters(), 0.3)
        theirs.step()
        assert given == pytest.approx(loss.item(), rel=1e-5), (
            f"step {step + 1}: loss {given:.6f}, expected {loss.item():.6f}"
        )
        difference = float((weights(student) - weights(expected)).abs().max())
        assert difference < 1e-6, f"step {step + 1}: the weights differ by {difference:.3g}"


def test_the_teacher_answers_in_evaluation_mode_without_gradients(formula):
    """Dropout off, no graph: the teacher is asked what it would say when served.

    A teacher in training mode gives other targets for the same text at every step, and a graph
    through it costs the memory of the largest model for nothing.
    """
    student, teacher = Net(5), Net(16, dropout=0.5)
    teacher.train()
    optimizer = torch.optim.SGD(student.parameters(), lr=0.1)
    distil_step(student, teacher, data(), optimizer, temperature=2.0, alpha=0.5)
    assert teacher.calls, "the teacher was not asked"
    training, graph = teacher.calls[-1]
    assert not training, "the teacher answered in training mode (dropout on), expected eval"
    assert not graph, "the teacher's answer carries a graph, expected none"


def test_nothing_flows_into_the_teacher(formula):
    """The teacher is fixed: its weights do not move and its gradients stay empty."""
    student, teacher = Net(5), Net(16)
    before = weights(teacher)
    optimizer = torch.optim.SGD([*student.parameters(), *teacher.parameters()], lr=0.5)
    distil_step(student, teacher, data(), optimizer, temperature=2.0, alpha=1.0)
    reached = [name for name, p in teacher.named_parameters() if p.grad is not None]
    assert not reached, f"gradients reached {reached} of the teacher, expected none"
    moved = float((weights(teacher) - before).abs().max())
    assert moved == 0, f"the teacher's weights moved by {moved:.3g}, expected 0"


def test_the_student_is_in_training_mode(formula):
    """Evaluating sets a student to eval; the next step must set it back, or its dropout is off."""
    student, teacher = Net(5, dropout=0.5), Net(16)
    student.eval()
    optimizer = torch.optim.SGD(student.parameters(), lr=0.1)
    distil_step(student, teacher, data(), optimizer, temperature=2.0, alpha=0.5)
    training, graph = student.calls[-1]
    assert training, "the student answered in evaluation mode, expected training mode"
    assert graph, "the student's answer carries no graph: nothing could be learnt"


def test_the_gradient_is_clipped_before_the_step(formula):
    """With SGD at rate 1, the student moves by at most max_norm; with None, by the whole gradient.

    Soft targets at a high temperature make rare, large gradients; one of them undoes many steps.
    """
    x, y = data()
    batch = (10 * x, y)
    moves = {}
    for max_norm in (0.01, None):
        student, teacher = Net(5, seed=1), Net(16, seed=2)
        before = weights(student)
        optimizer = torch.optim.SGD(student.parameters(), lr=1.0)
        distil_step(
            student, teacher, batch, optimizer, temperature=2.0, alpha=0.5, max_norm=max_norm
        )
        moves[max_norm] = float((weights(student) - before).norm())
    student = Net(5, seed=1)
    plain_loss(student(batch[0]), teacher(batch[0]).detach(), y, 2.0, 0.5).backward()
    whole = float(torch.cat([p.grad.flatten() for p in student.parameters()]).norm())
    assert moves[0.01] == pytest.approx(0.01, rel=0.01), f"moved {moves[0.01]:.4f}, limit 0.01"
    assert moves[None] == pytest.approx(whole, rel=1e-3), (
        f"max_norm=None moved {moves[None]:.4f}, the whole gradient is {whole:.4f}"
    )
    assert whole > 1.5, f"the gradient {whole:.4f} is too small to tell None from a limit of 1"


def test_any_batch_works_through_forward_and_labels(formula):
    """The step knows nothing of the batch: forward and labels read it."""
    student, teacher = Net(5), Net(16)
    x, y = data()
    batch = {"x": x, "y": y}
    optimizer = torch.optim.SGD(student.parameters(), lr=0.1)
    loss = distil_step(
        student,
        teacher,
        batch,
        optimizer,
        temperature=2.0,
        alpha=0.0,
        forward=lambda model, given: model(given["x"]),
        labels=lambda given: given["y"],
    )
    assert isinstance(loss, float), f"the loss is a {type(loss).__name__}, expected a float"


def loader(batches=8):
    return [data(seed=seed) for seed in range(batches)]


def test_a_student_learns_from_its_teacher_alone():
    """alpha = 1: no label is looked at, and the student answers as its teacher does."""
    teacher, student = Net(64, seed=1), Net(16, seed=2)
    train_alone(teacher, loader(), torch.optim.Adam(teacher.parameters(), 0.01), epochs=30)
    wrong = [(x, (y + 1) % 4) for x, y in loader()]
    seen = []
    losses = distil(
        student, teacher, wrong, torch.optim.Adam(student.parameters(), 0.01), epochs=30,
        temperature=2.0, alpha=1.0, on_step=lambda step, loss: seen.append(step),
    )  # fmt: skip
    assert len(losses) == 30
    assert losses[-1] < 0.1 * losses[0]
    assert seen == list(range(1, 241))
    test = [data(500, seed=99)]
    mine, its = predict(student, test).argmax(1), predict(teacher, test).argmax(1)
    assert (mine == its).float().mean() > 0.85
    assert (its == test[0][1]).float().mean() > 0.85


def test_training_alone_follows_the_textbook():
    """Clear, backward, clip, step on cross-entropy, in training mode even after an evaluation."""
    model = Net(5, seed=1)
    expected = copy.deepcopy(model)
    model.eval()
    batches = [(10 * x, y) for x, y in loader(3)]
    losses = []
    train_alone(
        model, batches, torch.optim.SGD(model.parameters(), lr=0.5), epochs=1, max_norm=0.3,
        on_step=lambda _, loss: losses.append(loss),
    )  # fmt: skip
    theirs = torch.optim.SGD(expected.parameters(), lr=0.5)
    for step, (x, y) in enumerate(batches):
        loss = nn.functional.cross_entropy(expected(x), y)
        assert losses[step] == pytest.approx(loss.item(), rel=1e-5)
        theirs.zero_grad()
        loss.backward()
        assert nn.utils.clip_grad_norm_(expected.parameters(), 0.3) > 0.3
        theirs.step()
    assert torch.allclose(weights(model), weights(expected), atol=1e-6)
    assert all(training for training, _ in model.calls)


def test_the_losses_of_an_epoch_are_averaged():
    student, teacher = Net(5), Net(16)
    seen = []
    means = distil(
        student, teacher, loader(3), torch.optim.SGD(student.parameters(), lr=0.1), epochs=2,
        temperature=2.0, alpha=0.5, on_step=lambda _, loss: seen.append(loss),
    )  # fmt: skip
    assert means == pytest.approx([np.mean(seen[:3]), np.mean(seen[3:])])


def test_predictions_are_in_order_from_evaluation_mode_without_a_graph():
    model = Net(16, dropout=0.5).double()
    batches = [(x.double(), y) for x, y in loader(3)]
    logits = predict(model, batches)
    assert logits.dtype == torch.float32
    assert logits.device.type == "cpu"
    assert model.calls == [(False, False)] * 3
    assert torch.equal(logits, predict(model, batches))
    assert torch.equal(logits[32:64], predict(model, batches[1:2]))


def test_the_schedule_moves_with_every_batch():
    student, teacher = Net(5), Net(16)
    optimizer = torch.optim.SGD(student.parameters(), lr=1.0)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
    distil(
        student, teacher, loader(3), optimizer, epochs=2, temperature=2.0, alpha=0.5,
        scheduler=scheduler,
    )  # fmt: skip
    assert optimizer.param_groups[0]["lr"] == 0.5**6


def test_an_optimizer_of_the_teacher_is_refused():
    student, teacher = Net(5), Net(16)
    arguments = {"epochs": 1, "temperature": 2.0, "alpha": 0.5}
    both = torch.optim.SGD([*student.parameters(), *teacher.parameters()], lr=0.1)
    with pytest.raises(InputError, match="parameters of the teacher"):
        distil(student, teacher, loader(1), both, **arguments)
    other = torch.optim.SGD(Net(5).parameters(), lr=0.1)
    with pytest.raises(InputError, match="no parameter of the student"):
        distil(student, teacher, loader(1), other, **arguments)
    own = torch.optim.SGD(student.parameters(), lr=0.1)
    with pytest.raises(InputError, match="loader gave no batch"):
        distil(student, teacher, [], own, **arguments)
    with pytest.raises(InputError, match="epochs = 0"):
        distil(student, teacher, loader(1), own, **(arguments | {"epochs": 0}))


def test_retention_is_the_ratio_of_the_accuracies_with_a_paired_interval():
    """Errors that both share cancel: the interval is narrower than that of either accuracy."""
    rng = np.random.default_rng(0)
    teacher = rng.random(2000) < 0.8
    student = np.where(rng.random(2000) < 0.95, teacher, ~teacher)
    kept = retention(student, teacher)
    assert kept.value == pytest.approx(student.mean() / teacher.mean())
    assert kept.ci95[0] < kept.value < kept.ci95[1]
    alone = retention(rng.permutation(student), teacher)
    assert kept.ci95[1] - kept.ci95[0] < 0.7 * (alone.ci95[1] - alone.ci95[0])
    assert retention(teacher, teacher).ci95 == (1.0, 1.0)


@pytest.mark.parametrize(
    ("student", "teacher", "message"),
    [
        ([1, 0], [1], "must both be"),
        ([], [], "must both be"),
        ([1, 0], [0, 0], "right on no example"),
    ],
)
def test_a_ratio_that_means_nothing_is_refused(student, teacher, message):
    with pytest.raises(InputError, match=message):
        retention(student, teacher)
