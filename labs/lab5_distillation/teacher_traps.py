"""Traps between teacher and student: who learns, from whom, and about what."""

from __future__ import annotations

import copy
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.traps import Trap
from labs.lab5_distillation.distillation_step import distil_step
from labs.lab5_distillation.distiller import fit
from labs.lab5_distillation.objectives import Distillation, FrozenTeacher, Supervised

Batches = list[tuple[Tensor, Tensor]]


class _Noisy(nn.Module):
    """A classifier with dropout; ``always_on`` leaves it on in evaluation mode."""

    def __init__(self, width: int, dropout: float, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.first, self.last = nn.Linear(20, width), nn.Linear(width, 10)
        self.dropout, self.always_on = dropout, False

    def forward(self, x: Tensor) -> Tensor:
        on = self.training or self.always_on
        logits: Tensor = self.last(F.dropout(torch.relu(self.first(x)), self.dropout, on))
        return logits


@cache
def _task() -> tuple[Batches, tuple[Tensor, Tensor], _Noisy]:
    """Training batches and test examples of ten classes (synthetic), a teacher with dropout."""
    generator = torch.Generator().manual_seed(0)
    truth = torch.randn(20, 10, generator=generator)

    def examples(n: int) -> tuple[Tensor, Tensor]:
        x = torch.randn(n, 20, generator=generator)
        return x, (x @ truth + 2 * torch.randn(n, 10, generator=generator)).argmax(1)

    train = [examples(64) for _ in range(20)]
    teacher = _Noisy(128, 0.7, seed=1)
    torch.manual_seed(3)
    fit(Supervised(teacher), train, torch.optim.Adam(teacher.parameters(), 3e-3), epochs=20)
    return train, examples(4000), teacher.eval()


def _student_of(teacher: nn.Module, train: Batches, alpha: float) -> nn.Module:
    """A small model without dropout, distilled from the same initial weights every time."""
    student = _Noisy(24, 0.0, seed=2)
    torch.manual_seed(3)
    objective = Distillation(student, FrozenTeacher(teacher), temperature=2.0, alpha=alpha)
    fit(objective, train, torch.optim.Adam(student.parameters(), 1e-2), epochs=20)
    return student.eval()


def a_teacher_that_guesses() -> Trap:
    """A teacher in training mode gives noisy targets."""
    train, (x, y), teacher = _task()
    served = teacher(x).argmax(1)
    agreement, accuracy = {}, {}
    for always_on in (True, False):
        teacher.always_on = always_on
        student = _student_of(teacher, train, alpha=1.0)
        teacher.always_on = False
        chosen = student(x).argmax(1)
        agreement[always_on] = (chosen == served).double().mean().item()
        accuracy[always_on] = (chosen == y).double().mean().item()
    return Trap(
        "A teacher left in training mode",
        wrong=("student agrees with the served teacher, dropout on", agreement[True]),
        right=("student agrees with the served teacher, teacher.eval()", agreement[False]),
        why="With dropout on, the teacher answers each example differently every time, and never "
        "as it would when served. The student learns an average of its guesses, and its accuracy "
        f"is {accuracy[True]:.3f} in place of {accuracy[False]:.3f}. One call of train() on a "
        "module that holds the teacher is enough.",
    )


def classes_in_another_order() -> Trap:
    """The teacher sorted its classes otherwise; the shapes agree."""
    train, (x, y), teacher = _task()
    order = torch.arange(9, -1, -1)

    class Reordered(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = teacher(x)
            return logits[:, order]

    accuracy = []
    for teaching in (Reordered(), teacher):
        student = _student_of(teaching, train, alpha=0.9)
        accuracy.append((student(x).argmax(1) == y).double().mean().item())
    return Trap(
        "Classes in another order",
        wrong=("student's accuracy, teacher's classes sorted the other way", accuracy[0]),
        right=("student's accuracy, one order for both", accuracy[1]),
        why="Shapes cannot tell. The loss falls, for the student does learn what it is taught: a "
        "permutation. Compare id2label of both models before the first step.",
    )


def projections_that_never_learn() -> Trap:
    """The optimizer was built over student.parameters(), and the loss has a projection."""
    torch.manual_seed(0)
    teacher = nn.Sequential(nn.Linear(10, 64), nn.Tanh(), nn.Linear(64, 32)).eval()
    batches = [(torch.randn(64, 10), None) for _ in range(40)]
    test = torch.randn(1000, 10)

    class Projected(nn.Module):
        """Distance of the teacher's states from the student's, brought to the same width."""

        def __init__(self) -> None:
            super().__init__()
            self.projection = nn.Linear(8, 32, bias=False)

        def forward(self, student: Tensor, teacher: Tensor, batch: object) -> Tensor:
            return F.mse_loss(self.projection(student), teacher)

    def explained(everything: bool) -> tuple[float, float, float]:
        torch.manual_seed(1)
        student, loss = nn.Sequential(nn.Linear(10, 32), nn.Tanh(), nn.Linear(32, 8)), Projected()
        start = loss.projection.weight.detach().clone()
        learning = [*student.parameters(), *(loss.parameters() if everything else ())]
        optimizer = torch.optim.Adam(learning, 1e-2)
        losses = [
            distil_step(student, teacher, batch, optimizer, loss=loss)
            for _ in range(10)
            for batch in batches
        ]
        with torch.no_grad():
            target = teacher(test)
            left = (loss.projection(student(test)) - target).pow(2).mean()
            moved = (loss.projection.weight - start).abs().max().item()
            share = 1 - (left / (target - target.mean(0)).pow(2).mean()).item()
            return share, moved, losses[-1] / losses[0]

    (wrong, still, fell), (right, moved, _) = explained(False), explained(True)
    return Trap(
        "An optimizer over student.parameters()",
        wrong=("share of the teacher's states explained, projection frozen", wrong),
        right=("share of the teacher's states explained, objective.parameters()", right),
        why=f"The loss falls all the same, to {fell:.2f} of what it was: the student bends towards "
        f"a random projection, which moved by {still:.2g}, and by {moved:.2g} when the optimizer "
        "held it. `distiller.fit` compares the optimizer with the objective and refuses.",
    )


Examples = list[tuple[Tensor, Tensor]]


class _Blocks(nn.Module):
    """A classifier of residual blocks, of which a shallower student takes some."""

    def __init__(self, n: int, width: int = 48) -> None:
        super().__init__()
        self.first = nn.Linear(20, width)
        self.blocks = nn.ModuleList(nn.Linear(width, width) for _ in range(n))
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        states = self.first(x)
        for block in self.blocks:
            states = states + torch.relu(block(states))
        logits: Tensor = self.head(states)
        return logits


@cache
def _blocks() -> tuple[Examples, Examples, _Blocks]:
    """Training and test batches of ten classes (synthetic), and a trained teacher of 4 blocks."""
    generator = torch.Generator().manual_seed(0)
    first = torch.randn(20, 40, generator=generator)
    second = torch.randn(40, 10, generator=generator)

    def examples(n: int) -> tuple[Tensor, Tensor]:
        x = torch.randn(n, 20, generator=generator)
        return x, (torch.relu(x @ first) @ second).argmax(1)

    train, test = [examples(64) for _ in range(40)], [examples(3000)]
    torch.manual_seed(1)
    teacher = _Blocks(4)
    fit(Supervised(teacher), train, torch.optim.Adam(teacher.parameters(), 3e-3), epochs=20)
    return train, test, teacher


@torch.no_grad()
def _accuracy(model: nn.Module, batches: Examples) -> float:
    x, labels = batches[0]
    return (model(x).argmax(1) == labels).double().mean().item()


def a_student_made_of_its_teacher() -> Trap:
    """Blocks that are taken over without a copy learn in both models."""
    train, test, trained = _blocks()
    before = _accuracy(trained, test)
    found = {}
    for copied in (False, True):
        teacher = copy.deepcopy(trained)
        teaching = FrozenTeacher(teacher)
        source = copy.deepcopy(teacher) if copied else teacher
        student = _Blocks(0)
        student.first, student.head = source.first, source.head
        student.blocks = nn.ModuleList([source.blocks[0]])
        student.requires_grad_(True)  # a frozen teacher's student has to learn
        objective = Distillation(student, teaching, temperature=2.0, alpha=1.0)
        torch.manual_seed(2)
        fit(objective, train, torch.optim.Adam(student.parameters(), 3e-3), epochs=12)
        after = _accuracy(teacher, test)
        found[copied] = [before, after, _accuracy(student, test) / after]
    label = "teacher's accuracy before and after it taught, student's retention"
    return Trap(
        "A student made of its teacher's own layers",
        wrong=(label, [round(each, 3) for each in found[False]]),
        right=(f"{label}, layers copied", [round(each, 3) for each in found[True]]),
        why="The student's steps move the layers under the teacher as well. Its targets drift to "
        "whatever the student says, and retention is measured against the ruin: both fall "
        "together, and their ratio says that nothing was lost. Freezing does not help, for the "
        "student thaws what it shares. Copy, and compare the teacher's weights afterwards.",
    )


class _TwoHeads(nn.Module):
    """A shallow head that can only be linear in its input, and a deep one with two more layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.shallow = nn.Linear(6, 32), nn.Linear(32, 4)
        self.deep = nn.Sequential(nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 4))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        states = self.first(x)
        return self.shallow(states), self.deep(states)


def the_teacher_that_hedges() -> Trap:
    """Targets of the deepest head that are not detached teach it to agree with its students."""
    from labs.lab5_distillation.own_deeper_head import deeper_head_loss

    def examples(n: int, seed: int) -> tuple[Tensor, Tensor]:
        x = torch.randn(n, 6, generator=torch.Generator().manual_seed(seed))
        return x, (x[:, 0] * x[:, 1] > 0).long() * 2 + (x[:, 2] * x[:, 3] > 0).long()

    def attached(shallow: Tensor, deep: Tensor, labels: Tensor, t: float, alpha: float) -> Tensor:
        soft = F.kl_div(
            F.log_softmax(shallow / t, -1),
            F.log_softmax(deep / t, -1),  # what is missing here is a detach
            reduction="batchmean",
            log_target=True,
        )
        shallow_loss = alpha * t**2 * soft + (1 - alpha) * F.cross_entropy(shallow, labels)
        return (F.cross_entropy(deep, labels) + shallow_loss) / 2

    x, labels = examples(4000, seed=1)
    test_x, test_labels = examples(4000, seed=2)
    measured = {}
    for detached in (False, True):
        torch.manual_seed(0)
        model = _TwoHeads()
        optimizer = torch.optim.Adam(model.parameters(), 1e-2)
        for _ in range(400):
            rows = torch.randint(len(x), (64,))
            shallow, deep = model(x[rows])
            if detached:
                loss = deeper_head_loss([shallow, deep], labels[rows], temperature=2.0, alpha=0.5)
            else:
                loss = attached(shallow, deep, labels[rows], 2.0, 0.5)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        with torch.no_grad():
            deep = model(test_x)[1]
        right = (deep.argmax(1) == test_labels).double().mean().item()
        sure = deep.softmax(1).gather(1, test_labels[:, None]).mean().item()
        measured[detached] = [round(sure, 3), round(right, 3)]
    return Trap(
        "The deepest head is not detached",
        wrong=("deepest head: probability of the label, accuracy; attached", measured[False]),
        right=("deepest head: probability of the label, accuracy; detached", measured[True]),
        why="A shallow head's loss has two ways to fall: the shallow head comes to the deepest, or "
        "the deepest comes to it, by being less sure. Accuracy hardly shows it, so nothing looks "
        "wrong; but what the deepest head taught was in those probabilities, and so is what an "
        "early exit asks for its threshold.",
    )
