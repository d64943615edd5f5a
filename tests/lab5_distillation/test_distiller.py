"""The loop: any batches and losses, stopped anywhere and gone on with, or ended by a NaN."""

import errno
import json
import os
import resource
import signal
from collections import namedtuple
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from common.errors import InputError, RunError
from labs.lab5_distillation import distiller_checkpoint
from labs.lab5_distillation.batch_trees import Weighted, change, examples, plain, rows
from labs.lab5_distillation.distiller import fit
from labs.lab5_distillation.objectives import Distillation, FrozenTeacher, Objective, Supervised
from labs.lab5_distillation.resuming import set_generators
from labs.lab5_distillation.sequence_ranker import SequenceRanker, Walks, ranker_distillation
from tests.fork_server import forked


def new(dropout=0.1, temperature=2.0, width=16, rate=1e-2, schedule=True):
    """A ranker pair, an optimizer over the student and a falling schedule."""
    torch.manual_seed(0)
    teacher, student = SequenceRanker(20, 32, 2), SequenceRanker(20, width, 1, dropout=dropout)
    objective = ranker_distillation(student, teacher, temperature=temperature)
    optimizer = torch.optim.AdamW(objective.parameters(), rate)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))
    return objective, optimizer, scheduler if schedule else None


def run(checkpoint=None, stop=None, *, pair=None, loader=None, epochs=3, **options):
    """Losses by step, means (None for a run that was stopped) and weights of 12 steps."""
    objective, optimizer, scheduler = pair or new()
    losses = []

    def on_step(step, loss):
        losses.append((step, loss))
        if step == stop:
            signal.raise_signal(signal.SIGINT)

    try:
        means = fit(
            objective, loader or Walks(), optimizer, epochs=epochs, scheduler=scheduler,
            on_step=on_step, checkpoint=checkpoint, **options,
        )  # fmt: skip
    except KeyboardInterrupt:
        means = None
    return losses, means, weights(objective)


def weights(module):
    return torch.cat([p.detach().flatten() for p in module.parameters()])


# --- stopped and gone on with -----------------------------------------------------------------


@pytest.mark.parametrize("stop", [1, 4, 6, 12])
def test_a_run_that_was_interrupted_goes_on_to_the_same_losses_to_the_bit(stop, tmp_path):
    """Dropout on, a schedule, AdamW: every loss, every mean and every weight is the same.

    The interrupted step is finished and saved, though the next checkpoint was not due.
    """
    losses, means, expected = run()
    path = tmp_path / "run.pt"
    first, none, _ = run(path, stop)
    assert none is None
    assert first == losses[:stop]
    rest, resumed_means, resumed = run(path)
    assert rest == losses[stop:]
    assert resumed_means == means
    assert torch.equal(resumed, expected)
    assert os.listdir(tmp_path) == ["run.pt"]


def test_a_finished_run_is_done(tmp_path):
    """Started again it takes no step, gives the same means, and has its weights."""
    _, means, expected = run(tmp_path / "run.pt")
    losses, again, restored = run(tmp_path / "run.pt")
    assert losses == []
    assert again == means
    assert torch.equal(restored, expected)


def test_an_order_drawn_by_torchs_data_loader_is_drawn_again(tmp_path):
    """DataLoader(shuffle=True) takes its order from the global generator, not from the epoch."""
    batches = [batch for batch in Walks(size=4)]  # noqa: C416
    data = torch.utils.data.DataLoader(batches, batch_size=None, shuffle=True)
    losses, means, _ = run(loader=data, epochs=2)
    first, _, _ = run(tmp_path / "run.pt", 21, loader=data, epochs=2)
    rest, resumed_means, _ = run(tmp_path / "run.pt", loader=data, epochs=2)
    assert first + rest == losses
    assert resumed_means == means


@pytest.mark.parametrize("moment", ["between steps", "while writing"])
def test_a_killed_run_goes_on_from_its_last_checkpoint(moment, tmp_path, server):
    """kill -9, after step 8 or in the middle of writing the second checkpoint.

    The losses from the last checkpoint on are those of a run that was never killed.
    """
    script = tmp_path / "script.py"
    script.write_text(
        f"import os, signal, sys; sys.path.insert(0, {str(Path(__file__).parents[2])!r})\n"
        "from tests.lab5_distillation import test_distiller\n"
        "test_distiller.in_a_process(*sys.argv[1:])\n"
    )
    if server is None:
        pytest.skip("needs the fork server")
    said = tmp_path / "losses.jsonl"
    arguments = [script, tmp_path / "run.pt", said, moment]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with forked(arguments, server=server, log=tmp_path / "log", env=environment) as child:
        assert child.wait() == -signal.SIGKILL, (tmp_path / "log").read_text()[-2000:]
    killed = [tuple(json.loads(line)) for line in said.read_text().splitlines()]
    assert len(killed) == (8 if moment == "between steps" else 6)
    assert (tmp_path / "run.pt.partial").exists() == (moment == "while writing")
    said.unlink()
    with forked(
        [*arguments[:-1], ""], server=server, log=tmp_path / "log", env=environment
    ) as child:
        assert child.wait() == 0, (tmp_path / "log").read_text()[-2000:]
    rest = [tuple(json.loads(line)) for line in said.read_text().splitlines()]
    start = 6 if moment == "between steps" else 3
    assert [step for step, _ in rest] == list(range(start + 1, 13))
    assert dict(rest) == {**dict(rest), **{k: v for k, v in killed if k > start}}
    assert not (tmp_path / "run.pt.partial").exists()


def in_a_process(checkpoint, said, moment):
    """12 steps with a checkpoint every 3, each loss written at once; killed at a moment."""
    objective, optimizer, scheduler = new()
    stream = open(said, "a", buffering=1)  # noqa: SIM115 - a killed process closes nothing
    if moment == "while writing":

        def killed_by_the_second_file(_, files=[]):  # noqa: B006
            files.append(1)
            if len(files) == 3:  # file, folder, file
                os.kill(os.getpid(), signal.SIGKILL)

        os.fsync = killed_by_the_second_file

    def on_step(step, loss):
        print(json.dumps([step, loss]), file=stream)
        if moment == "between steps" and step == 8:
            os.kill(os.getpid(), signal.SIGKILL)

    fit(
        objective, Walks(), optimizer, epochs=3, scheduler=scheduler, on_step=on_step,
        checkpoint=Path(checkpoint), every=3,
    )  # fmt: skip


def test_sigterm_is_answered_after_a_checkpoint(tmp_path):
    """What a scheduler sends before it kills: the handler that was there gets it, saved."""
    heard = []
    before = signal.signal(signal.SIGTERM, lambda number, _: heard.append(number))
    try:
        objective, optimizer, scheduler = new()

        def on_step(step, loss):
            if step == 5:
                signal.raise_signal(signal.SIGTERM)
                assert heard == [], "the step was cut in two"

        with pytest.raises(KeyboardInterrupt):
            fit(
                objective, Walks(), optimizer, epochs=3, scheduler=scheduler, on_step=on_step,
                checkpoint=tmp_path / "run.pt",
            )  # fmt: skip
        assert heard == [signal.SIGTERM]
        assert distiller_checkpoint.read(tmp_path / "run.pt")["progress"]["steps"] == 5
        assert signal.getsignal(signal.SIGTERM).__name__ == "<lambda>"
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("every", [100, 6])
def test_a_signal_during_the_last_checkpoint_is_answered_after_it(
    number, every, tmp_path, monkeypatch
):
    """No step comes after it, at which it would have been: it is answered once, all being saved.

    With ``every`` = 6 it comes while a checkpoint is written that was due, before the very last.
    """
    heard, sent, done = [], [], []
    write = distiller_checkpoint.write_whole

    def interrupted(*arguments):
        if done[-1] == 12 and not sent:
            sent.append(number)
            signal.raise_signal(number)
            assert heard == [], "the checkpoint was cut in two"
        write(*arguments)

    objective, optimizer, scheduler = new()
    monkeypatch.setattr(distiller_checkpoint, "write_whole", interrupted)
    before = signal.signal(number, lambda *_: heard.append(number))
    try:
        with pytest.raises(KeyboardInterrupt):
            fit(
                objective, Walks(), optimizer, epochs=3, scheduler=scheduler,
                on_step=lambda step, _: done.append(step), checkpoint=tmp_path / "run.pt",
                every=every,
            )  # fmt: skip
    finally:
        signal.signal(number, before)
    assert heard == sent == [number]
    progress = distiller_checkpoint.read(tmp_path / "run.pt")["progress"]
    assert (progress["steps"], len(progress["means"])) == (12, 3)
    assert run(tmp_path / "run.pt")[0] == []


def test_a_second_interrupt_does_not_wait(tmp_path):
    """Whoever presses Ctrl-C twice means it: no checkpoint, at once."""
    objective, optimizer, _ = new()

    def on_step(step, loss):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        pytest.fail("went on")

    class Interrupted(Exception):
        pass

    def handler(*_):
        raise Interrupted

    before = signal.signal(signal.SIGINT, handler)
    try:
        with pytest.raises(Interrupted):
            fit(
                objective, Walks(), optimizer, epochs=1, on_step=on_step,
                checkpoint=tmp_path / "run.pt",
            )  # fmt: skip
    finally:
        signal.signal(signal.SIGINT, before)
    assert os.listdir(tmp_path) == []


def test_an_interrupt_raised_by_a_callback_is_saved_too(tmp_path):
    """A run that is stopped by its own on_step loses nothing."""
    objective, optimizer, scheduler = new()

    def on_step(step, loss):
        if step == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(
            objective, Walks(), optimizer, epochs=3, scheduler=scheduler, on_step=on_step,
            checkpoint=tmp_path / "run.pt",
        )  # fmt: skip
    assert distiller_checkpoint.read(tmp_path / "run.pt")["progress"]["steps"] == 2


def sgd(objective):
    return torch.optim.SGD(objective.parameters(), 0.1)


def momentum(objective):
    return torch.optim.SGD(objective.parameters(), 0.1, momentum=0.9)


def two_rates(objective):
    """A group without parameters too, as a recipe makes it when an objective has no such part."""
    named = dict(objective.named_parameters())
    heads = [each for name, each in named.items() if "next" in name]
    rest = [each for name, each in named.items() if "next" not in name]
    groups = [{"params": rest}, {"params": heads, "lr": 0.03}, {"params": []}]
    return torch.optim.AdamW(groups, 0.01, fused=True)


@pytest.mark.parametrize("make", [sgd, momentum, two_rates])
def test_any_optimizer_goes_on(make, tmp_path):
    """One without state, one with momentum, one with groups at rates of their own."""

    def pair():
        objective, _, _ = new()
        objective.student.like.requires_grad_(False)
        return objective, make(objective), None

    losses, means, expected = run(pair=pair())
    first, _, _ = run(tmp_path / "run.pt", 5, pair=pair())
    rest, resumed_means, resumed = run(tmp_path / "run.pt", pair=pair())
    assert first + rest == losses
    assert resumed_means == means
    assert torch.equal(resumed, expected)


class TwoPaths(Objective):
    """A model of which one layer learns in the second epoch only."""

    def __init__(self):
        torch.manual_seed(0)
        super().__init__(nn.Linear(3, 2))
        self.late, self.calls = nn.Linear(2, 2), 0

    def forward(self, batch):
        out = self.student(batch[0])
        return F.cross_entropy(self.late(out) if batch[2] else out, batch[1])


def test_a_parameter_without_moments_has_none_after_resuming(tmp_path):
    """What has not learnt yet starts like new, at Adam's first step and not at its second."""
    torch.manual_seed(1)
    batches = [(torch.randn(4, 3), torch.randint(2, (4,)), number >= 3) for number in range(6)]
    results = []
    for path, stop in ((None, None), (tmp_path / "run.pt", 2), (tmp_path / "run.pt", None)):
        objective = TwoPaths()
        pair = (objective, torch.optim.AdamW(objective.parameters(), 0.1), None)
        results.append(run(path, stop, pair=pair, loader=batches, epochs=1))
    assert results[1][0] + results[2][0] == results[0][0]
    assert torch.equal(results[2][2], results[0][2])


# --- checkpoints that cannot be used ----------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 5}, "epochs is 3 there and 5 here"),
        ({"pair": {"temperature": 4.0}}, "soft_loss"),
        ({"pair": {"width": 8}}, r"tensors have other shapes there; student\.\w+"),
        ({"pair": {"rate": 0.5}}, r"rates is \[0\.01\] there and \[0\.5\] here"),
        ({"pair": {"schedule": False}}, "scheduler is 'LambdaLR' there and 'NoneType' here"),
        ({"loader": Walks(seed=3)}, "loader.seed is 0 there and 3 here"),
        ({"loader": Walks(users=99)}, "batches is 4 there and 7 here"),
        ({"accumulate": 2}, "accumulate is 1 there and 2 here"),
        ({"max_norm": None}, r"max_norm is 1\.0 there and None here"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_checkpoint_of_another_run_is_refused(changes, message, tmp_path):
    """The value that differs is named; nothing has been loaded and the file is as it was."""
    path = tmp_path / "run.pt"
    run(path, 2)
    saved = path.read_bytes()
    changes = dict(changes)
    pair = new(**changes.pop("pair", {}))
    before = weights(pair[0]).clone()
    with pytest.raises(InputError, match=f"is another run's: .*{message}.*; remove it"):
        run(path, pair=pair, **changes)
    assert torch.equal(weights(pair[0]), before)
    assert path.read_bytes() == saved


@pytest.mark.parametrize("content", [b"", b"no checkpoint", "half", "another"])
def test_a_damaged_checkpoint_is_one_clear_error(content, tmp_path):
    path = tmp_path / "run.pt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content == "half":
        run(path, 2)
        path.write_bytes(path.read_bytes()[:3000])
    else:
        torch.save({"model": {}}, path)
    with pytest.raises(RunError, match="remove it to start anew"):
        run(path)


def test_a_checkpoint_runs_no_code(tmp_path):
    """A pickled function in it is refused, not called."""
    path = tmp_path / "run.pt"
    torch.save({"format": 1, "model": Evil()}, path)
    with pytest.raises(RunError, match="cannot be read"):
        run(path)
    assert not (tmp_path / "was run").exists()


class Evil:
    def __reduce__(self):
        return os.system, ("touch 'was run'",)


@contextmanager
def file_limit(size):
    """Files may not grow past ``size`` bytes, as on a disk that is nearly full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_leaves_the_last_checkpoint_as_it_was(tmp_path):
    """The run stops with what the disk said; nothing half-written lies about."""
    path = tmp_path / "run.pt"
    run(path, 2)
    saved = path.read_bytes()
    with file_limit(len(saved) // 2), pytest.raises(RunError, match="File too large") as raised:
        run(path, every=3)
    assert "the checkpoint of step 3 was not written" in str(raised.value)
    assert path.read_bytes() == saved
    assert os.listdir(tmp_path) == ["run.pt"]
    losses, _, _ = run()
    assert run(path)[0] == losses[2:]


def test_a_full_disk_at_any_byte_leaves_old_or_new(tmp_path):
    """Whatever the disk takes before it is full, the name holds one whole file."""
    path = tmp_path / "file"
    for room in (0, 1, 5, 9):
        path.write_bytes(b"old")
        with file_limit(room), pytest.raises(OSError) as raised:
            distiller_checkpoint.write_whole(path, lambda stream: stream.write(b"0123456789"))
        assert raised.value.errno == errno.EFBIG
        assert path.read_bytes() == b"old"
        assert os.listdir(tmp_path) == ["file"]


def test_a_schedule_that_cannot_be_read_back_is_refused_when_it_is_saved(tmp_path):
    """numpy's numbers in a scheduler's state would need code to be read: better now than later."""
    objective, optimizer, _ = new()
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: np.float64(0.5) ** step)
    with pytest.raises(InputError, match="let its functions return Python numbers"):
        run(tmp_path / "run.pt", pair=(objective, optimizer, scheduler))


# --- not a number -----------------------------------------------------------------------------


class WithStatistics(nn.Module):
    """Two layers with batch normalisation between them, whose buffers a bad batch could spoil."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(
            nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.Linear(8, 2)
        )

    def forward(self, x):
        return self.layers(x)


def numbers(n=6, bad=None, value=float("nan")):
    torch.manual_seed(1)
    batches = [(torch.randn(4, 3), torch.randint(2, (4,))) for _ in range(n)]
    if bad is not None:
        batches[bad][0][1, 2] = value
    return batches


class Explodes(Supervised):
    """A loss that is finite, and whose gradient is not."""

    def forward(self, batch):
        loss = super().forward(batch)
        far = F.relu(batch[0][1, 2] - 5) * self.student.layers[0].weight.sum()
        return loss + torch.sqrt(far.abs())


@pytest.mark.parametrize(
    ("kind", "value", "what"),
    [
        (Supervised, float("nan"), "the loss is nan"),
        (Supervised, float("inf"), "the loss is nan"),
        (Explodes, 0.0, "the norm of the gradient is nan"),
    ],
)
def test_a_loss_or_gradient_that_is_no_number_stops_before_the_step(kind, value, what, tmp_path):
    """RunError with the step and the file; weights, statistics and moments are those before.

    The file has the batch and the generators: the loss can be computed again, dropout and all.
    """
    bad = numbers(bad=4, value=value)
    if kind is Explodes:
        for number, (x, _) in enumerate(bad):
            x[1, 2] = 5.0 if number == 4 else 30.0

    def pair():
        objective = kind(WithStatistics())
        return objective, torch.optim.AdamW(objective.parameters(), 0.1), None

    expected, stopped = pair(), pair()
    torch.manual_seed(3)
    fit(expected[0], bad[:4], expected[1], epochs=1)
    objective, optimizer, _ = stopped
    torch.manual_seed(3)
    with pytest.raises(RunError, match=rf"{what} at step 5 \(epoch 0, batch 4 of it") as raised:
        fit(objective, bad, optimizer, epochs=1, checkpoint=tmp_path / "run.pt", every=2)
    before, after = expected[0].state_dict(), objective.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(float(state["step"]) == 4 for state in optimizer.state.values())
    assert distiller_checkpoint.read(tmp_path / "run.pt")["progress"]["steps"] == 4
    path = tmp_path / "bad-step-5.pt"
    assert str(path) in str(raised.value)
    held = torch.load(path, weights_only=True)
    assert held["step"] == 5
    (batch,) = held["batches"]
    assert torch.equal(batch[0], bad[4][0]) or value != 0
    set_generators(held["generators"])
    objective.train()
    loss = float(objective(batch).detach())
    assert loss == held["loss"] or (np.isnan(loss) and np.isnan(held["loss"]))


def test_a_bad_batch_goes_where_it_is_told_to_or_nowhere(tmp_path):
    for folder, message in (
        (tmp_path / "bad", "bad/bad-step-3.pt"),
        (None, r"not saved.*bad_batches= .*checkpoint= "),
    ):
        objective = Supervised(WithStatistics())
        optimizer = torch.optim.SGD(objective.parameters(), 0.1)
        with pytest.raises(RunError, match=message):
            fit(objective, numbers(bad=2), optimizer, epochs=1, bad_batches=folder)


# --- any batches ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Example:
    x: Tensor
    y: Tensor
    name: str = "no tensor"


Pair = namedtuple("Pair", ["x", "y"])
SHAPES = {
    "tuple": lambda x, y: (x, y),
    "list": lambda x, y: [x, y],
    "dict": lambda x, y: {"x": x, "deeper": {"y": y}},
    "dataclass": Example,
    "namedtuple": Pair,
}


def read_any(batch):
    if isinstance(batch, dict):
        return batch["x"], batch["deeper"]["y"]
    return (batch.x, batch.y) if hasattr(batch, "x") else (batch[0], batch[1])


@pytest.mark.parametrize("shape", SHAPES)
def test_batches_of_any_shape_give_the_same_run(shape, tmp_path):
    """The loop hands them on; the objective reads them; a bad one is saved all the same."""
    losses = {}
    for name in ("tuple", shape):
        objective = Supervised(
            WithStatistics(),
            forward=lambda model, batch: model(read_any(batch)[0]),
            labels=lambda batch: read_any(batch)[1],
        )
        optimizer, seen = torch.optim.SGD(objective.parameters(), 0.1), []
        batches = [SHAPES[name](*each) for each in numbers(bad=3)]
        torch.manual_seed(0)
        with pytest.raises(RunError, match="step 4"):
            fit(
                objective, batches, optimizer, epochs=1, bad_batches=tmp_path,
                on_step=lambda _, loss, seen=seen: seen.append(loss),
            )  # fmt: skip
        losses[name] = seen
    assert losses["tuple"] == losses[shape]
    assert len(losses[shape]) == 3
    held = torch.load(tmp_path / "bad-step-4.pt", weights_only=True)["batches"][0]
    x = held[0] if isinstance(held, list) else held["x"]
    assert torch.equal(x.isnan(), numbers(bad=3)[3][0].isnan())


@settings(derandomize=True, deadline=None, max_examples=30)
@given(n=st.integers(1, 9), ranks=st.integers(1, 4), shape=st.sampled_from(sorted(SHAPES)))
def test_rows_of_all_ranks_together_are_the_batch(n, ranks, shape):
    """Every row once, tensors that are no rows and what is no tensor left alone."""
    x, y = torch.arange(2.0 * n).view(n, 2), torch.arange(n)
    batch = (SHAPES[shape](x, y), torch.tensor(7.0), "word")
    assert examples(batch) == n
    parts = [rows(batch, slice(rank, None, ranks)) for rank in range(ranks)]
    assert all(type(part[0]) is type(batch[0]) for part in parts)
    assert all(float(part[1]) == 7 and part[2] == "word" for part in parts)
    seen = torch.cat([read_any(part[0])[1] for part in parts])
    assert sorted(seen.tolist()) == y.tolist()
    assert torch.equal(torch.cat([read_any(part[0])[0] for part in parts]), x[seen])


def test_a_plain_copy_is_a_copy():
    given = Example(torch.zeros(2), torch.ones(2))
    held = plain((given, np.float32(2.5), len))
    given.x.fill_(9)
    assert held[0]["x"].tolist() == [0, 0]
    assert held[1] == 2.5
    assert held[2] == repr(len)
    assert change(given, lambda tensor: tensor + 1).x.tolist() == [10, 10]
    with pytest.raises(InputError, match="no tensor with rows"):
        examples({"a": torch.tensor(1.0), "b": "word"})


# --- accumulation, types, options -------------------------------------------------------------


def unequal(sizes=(4, 1, 3, 2, 5)):
    torch.manual_seed(2)
    return [(torch.randn(n, 3), torch.randint(2, (n,))) for n in sizes]


@pytest.mark.parametrize("accumulate", [2, 3, 5])
def test_batches_of_one_step_are_as_one_batch(accumulate):
    """Different sizes: the loss and the gradient are means over examples, not over batches.

    A mean of means would count a text of the last, short batch several times.
    """
    parts, losses, expected = unequal(), [], []
    models = [nn.Linear(3, 2) for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    joined = [
        tuple(torch.cat(each) for each in zip(*parts[at : at + accumulate]))
        for at in range(0, len(parts), accumulate)
    ]
    for model, batches, count, seen in (
        (models[0], parts, accumulate, losses),
        (models[1], joined, 1, expected),
    ):
        optimizer = torch.optim.SGD(model.parameters(), 0.5)
        means = fit(
            Supervised(model), batches, optimizer, epochs=2, max_norm=0.3, accumulate=count,
            on_step=lambda _, loss, seen=seen: seen.append(loss),
        )  # fmt: skip
        assert means == pytest.approx([np.mean(seen[: len(joined)]), np.mean(seen[len(joined) :])])
    assert losses == pytest.approx(expected, abs=1e-6)
    assert torch.allclose(weights(models[0]), weights(models[1]), atol=1e-6)


def test_a_loader_may_say_what_a_batch_weighs():
    """A loss per token counts by tokens: Weighted(batch, tokens)."""
    torch.manual_seed(0)
    model, (first, second) = nn.Linear(3, 2), unequal((4, 2))
    losses = [float(F.cross_entropy(model(x), y).detach()) for x, y in (first, second)]
    fit(
        Supervised(model), [Weighted(first, 1.0), Weighted(second, 9.0)],
        torch.optim.SGD(model.parameters(), 0.1), epochs=1, accumulate=2,
        on_step=lambda _, loss: losses.append(loss),
    )  # fmt: skip
    assert losses[2] == pytest.approx(0.1 * losses[0] + 0.9 * losses[1], rel=1e-5)


def test_autocast_computes_in_bfloat16_and_keeps_weights_in_float32():
    seen = []

    def forward(model, batch):
        logits = model(batch[0])
        seen.append(logits.dtype)
        return logits

    model = nn.Linear(3, 2)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    fit(Supervised(model, forward=forward), unequal(), optimizer, epochs=1, autocast=torch.bfloat16)
    assert set(seen) == {torch.bfloat16}
    assert model.weight.dtype == torch.float32


def test_what_cannot_be_meant_is_refused():
    """Options out of range, no batches, and optimizers that hold the wrong parameters."""
    objective, optimizer, _ = new()
    for changes, message in (
        ({"epochs": 0}, "epochs = 0"),
        ({"every": 0}, "every = 0"),
        ({"accumulate": 0}, "accumulate = 0"),
    ):
        with pytest.raises(InputError, match=message):
            fit(objective, Walks(), optimizer, **{"epochs": 1, **changes})
    with pytest.raises(InputError, match="loader gave no batch"):
        fit(objective, [], optimizer, epochs=1)
    with pytest.raises(InputError, match=r"weigh 0\.0 together"):
        fit(objective, [Weighted(next(iter(Walks())), 0.0)], optimizer, epochs=1)
    objective.projection = nn.Linear(2, 2)
    with pytest.raises(InputError, match=r"lacks 2 of .* parameters \(projection\.weight, proj"):
        fit(objective, Walks(), optimizer, epochs=1)
    objective, _, _ = new()
    teacher = objective.teacher.model
    both = torch.optim.SGD([*objective.parameters(), *teacher.parameters()], 0.1)
    with pytest.raises(InputError, match="not the objective's, such as a teacher's"):
        fit(objective, Walks(), both, epochs=1)
    objective.requires_grad_(False)
    with pytest.raises(InputError, match="no parameter that learns"):
        fit(objective, Walks(), both, epochs=1)


def test_a_student_learns_from_its_teacher_alone():
    """alpha = 1: the labels are wrong and not looked at, and the student answers as its teacher."""

    def net(width):
        return nn.Sequential(nn.Linear(6, width), nn.ReLU(), nn.Linear(width, 4))

    def learn(objective, batches):
        optimizer = torch.optim.Adam(objective.parameters(), 0.01)
        return fit(objective, batches, optimizer, epochs=25)

    torch.manual_seed(0)
    x = torch.randn(756, 6)
    y = x[:, :4].argmax(1)
    batches = list(zip(x[:256].split(32), y[:256].split(32)))
    teacher, student = net(64), net(16)
    learn(Supervised(teacher), batches)
    wrong = [(inputs, (labels + 1) % 4) for inputs, labels in batches]
    means = learn(Distillation(student, FrozenTeacher(teacher), temperature=2.0, alpha=1.0), wrong)
    mine, its = student(x[256:]).argmax(1), teacher(x[256:]).argmax(1)
    assert means[-1] < 0.1 * means[0]
    assert (mine == its).float().mean() > 0.85
    assert (its == y[256:]).float().mean() > 0.85


@pytest.mark.gpu
def test_a_run_on_a_gpu_goes_on_to_the_same_losses_to_the_bit(tmp_path):
    """Dropout draws from the GPU's generator there; it is kept as well."""

    class OnGpu(Walks):
        def __iter__(self):
            yield from (change(batch, lambda tensor: tensor.cuda()) for batch in super().__iter__())

    def pair():
        objective, _, _ = new()
        objective.teacher.model.cuda()
        objective.cuda()
        return objective, torch.optim.AdamW(objective.parameters(), 0.01, fused=True), None

    losses, means, expected = run(pair=pair(), loader=OnGpu())
    first, _, _ = run(tmp_path / "run.pt", 5, pair=pair(), loader=OnGpu())
    rest, resumed_means, resumed = run(tmp_path / "run.pt", pair=pair(), loader=OnGpu())
    assert first + rest == losses
    assert resumed_means == means
    assert torch.equal(resumed, expected)
