"""The same run on two ranks, replicated and sharded, as in one process."""

from pathlib import Path

import pytest
import torch

from labs.lab5_distillation.batch_trees import Weighted
from labs.lab5_distillation.distributed import Sharded, layers
from labs.lab5_distillation.sequence_ranker import SequenceRanker, Walks
from tests.lab1_fsdp_advanced.conftest import start

WAYS = ("replicate", "shard")


def new(seed=0, dropout=0.0, teacher_seed=None):
    """A pair whose soft loss has a projection, so that not only the student learns.

    33 users in batches of 16: the last batch has one row, and one of two ranks none of it.
    """
    from torch import nn

    from labs.lab5_distillation.objectives import FrozenTeacher, TaskDistillation
    from labs.lab5_distillation.sequence_ranker import SoftHeads, read_heads, task_loss

    class Projected(nn.Module):
        def __init__(self):
            super().__init__()
            self.projection, self.soft = nn.Linear(20, 20), SoftHeads(2.0)

        def forward(self, heads, teacher, batch):
            moved = {"next": self.projection(heads["next"]), "like": heads["like"]}
            return self.soft(moved, teacher, batch)

    torch.manual_seed(seed if teacher_seed is None else teacher_seed)
    teacher = SequenceRanker(20, 32, 2)
    torch.manual_seed(seed)
    student = SequenceRanker(20, 16, 2, dropout=dropout)
    objective = TaskDistillation(
        student, FrozenTeacher(teacher, read_heads), task_loss, Projected(), alpha=0.5,
        forward=read_heads,
    )  # fmt: skip
    return objective


def walks():
    return Walks(users=33, size=16)


def train(objective, loader, **options):
    """Losses of 6 steps (two epochs of 33 users in three batches) with a strong clipping."""
    from labs.lab5_distillation.distiller import fit

    optimizer = torch.optim.AdamW(objective.parameters(), 0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))
    losses = []
    fit(
        objective, loader, optimizer, epochs=2, scheduler=schedule, max_norm=0.5,
        on_step=lambda step, loss: losses.append(loss), **options,
    )  # fmt: skip
    return losses


def gradient(objective, batches, accumulate=1):
    """The clipped gradient of one step, whole, by name."""
    from labs.lab5_distillation.batch_trees import weighted
    from labs.lab5_distillation.distiller import train_step
    from labs.lab5_distillation.distributed import sums, whole

    parameters = list(objective.parameters())
    group = [weighted(batch) for batch in batches][-accumulate:]
    (total,) = sums([sum(each.weight for each in group)], parameters[0].device)
    optimizer = torch.optim.SGD(parameters, 0.0)
    train_step(objective, group, optimizer, parameters, total=total, max_norm=0.5)
    names = [name.removeprefix("module.") for name, _ in objective.named_parameters()]
    return {name: whole(each.grad) for name, each in zip(names, parameters, strict=True)}


class Stop(Exception):
    """Stands for a machine that was taken away."""


class StopsAtTheFifth(Sharded):
    """Batches of two epochs of three, and then none."""

    asked = 0

    def __iter__(self):
        for batch in super().__iter__():
            self.asked += 1
            if self.asked == 5:
                raise Stop
            yield batch


def stop_after_four(objective, path, ranks=None):
    """Leave the checkpoint of four steps, on all ranks or in one process."""
    rank, world = (ranks.rank, ranks.world) if ranks else (0, 1)
    with pytest.raises(Stop):
        train(objective, StopsAtTheFifth(walks(), rank, world), checkpoint=path, every=4)


def on_two_ranks(ranks, folder):
    """Both ways: gradients, losses, a resumed run, a bad batch on one rank, a differing rank."""
    from pathlib import Path

    import torch

    from common.errors import InputError, RunError
    from labs.lab5_distillation.distributed import Sharded, replicate, shard
    from tests.lab5_distillation.test_distributed import (
        gradient,
        new,
        stop_after_four,
        train,
        walks,
    )

    folder, answer = Path(folder), {}
    expected = torch.load(folder / "expected.pt", weights_only=True)

    def loader():
        return Sharded(walks(), ranks.rank, ranks.world)

    for way, wrap in (("replicate", replicate), ("shard", shard)):
        for accumulate in (1, 3):
            # Another seed on each rank: rank 0's weights must reach the others.
            found = gradient(wrap(new(seed=ranks.rank)), loader(), accumulate)
            differences = [
                float((found[name] - given).abs().max())
                for name, given in expected[f"gradient {accumulate}"].items()
            ]
            answer[f"{way} gradient {accumulate}"] = max(differences)
        answer[f"{way} losses"] = train(wrap(new(seed=ranks.rank)), loader())
        answer[f"{way} accumulated"] = train(wrap(new(seed=ranks.rank)), loader(), accumulate=2)
        # Goes on from what one process saved after 4 steps; and saves for one process, killed at 4.
        answer[f"{way} resumed"] = train(
            wrap(new(seed=9, teacher_seed=0)), loader(), checkpoint=folder / f"one-{way}.pt"
        )

        stop_after_four(wrap(new(seed=ranks.rank)), folder / f"two-{way}.pt", ranks)
        dropout = train(wrap(new(dropout=0.3)), loader(), checkpoint=folder / f"drop-{way}.pt")
        answer[f"{way} dropout"] = dropout
        wrapped = wrap(new())
        teacher = getattr(wrapped, "module", wrapped).teacher.model
        answer[f"{way} teacher learns"] = any(p.requires_grad for p in teacher.parameters())

    objective = shard(new())
    held = sum(p.to_local().numel() for p in objective.parameters())
    whole = sum(p.numel() for p in objective.parameters())
    answer["share held"] = held / whole
    train(objective, loader())
    model = objective.teacher.model
    answer["teacher sharded after use"] = all(hasattr(p, "full_tensor") for p in model.parameters())
    answer["teacher in eval mode"] = not any(each.training for each in model.modules())

    class BadOnOne(Sharded):
        def __iter__(self):
            for number, given in enumerate(super().__iter__()):
                if number == 1 and ranks.rank == 1:
                    given.batch.history.fill_(0)
                    object.__setattr__(given.batch, "liked", given.batch.liked.float() * torch.nan)
                yield given

    messages = []
    for attempt, options in (
        (BadOnOne(walks(), ranks.rank, 2), {"bad_batches": folder / "bad"}),
        (loader(), {"max_norm": 0.5 + ranks.rank}),
    ):
        from labs.lab5_distillation.distiller import fit

        objective = shard(new())
        optimizer = torch.optim.AdamW(objective.parameters(), 0.01)
        try:
            fit(objective, attempt, optimizer, epochs=1, **options)
        except (InputError, RunError) as error:
            messages.append(str(error))
    all_messages = [None, None]
    torch.distributed.all_gather_object(all_messages, messages)
    answer["messages"] = all_messages
    return answer


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """What one process finds, and the checkpoints it leaves after 4 steps."""
    folder = tmp_path_factory.mktemp("distributed")
    found = {f"gradient {count}": gradient(new(), walks(), count) for count in (1, 3)}
    found["losses"] = train(new(), walks())
    found["accumulated"] = train(new(), walks(), accumulate=2)
    for way in WAYS:
        stop_after_four(new(), folder / f"one-{way}.pt")
    torch.save(found, folder / "expected.pt")
    return folder, found


@pytest.fixture(scope="module")
def answers(expected, tmp_path_factory, server):
    folder, _ = expected
    return start(
        on_two_ranks, tmp_path_factory.mktemp("ranks"), server=server, procs=2,
        arguments=(str(folder),), timeout=120,
    )  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
def test_gradients_and_losses_are_those_of_one_process(way, expected, answers):
    """To 1e-6, with a projection beside the student, one clipping over all, unequal shards.

    A mean of the ranks' means would weigh the lone row of the last batch like eight others.
    """
    _, found = expected
    assert answers[f"{way} gradient 1"] < 1e-6
    assert answers[f"{way} gradient 3"] < 1e-6
    assert answers[f"{way} losses"] == pytest.approx(found["losses"], abs=1e-6)
    assert answers[f"{way} accumulated"] == pytest.approx(found["accumulated"], abs=1e-6)
    assert len(found["losses"]) == 6


@pytest.mark.parametrize("way", WAYS)
def test_a_run_goes_on_with_another_number_of_ranks(way, expected, answers):
    """One process to two ranks and back: moments, schedule and the place in the epoch."""
    folder, found = expected
    assert answers[f"{way} resumed"] == pytest.approx(found["losses"][4:], abs=1e-6)
    path = folder / f"two-{way}.pt"
    losses = train(new(seed=5, teacher_seed=0), walks(), checkpoint=path)
    assert losses == pytest.approx(found["losses"][4:], abs=1e-6)


def test_sharding_holds_half_of_everything_that_learns_and_of_the_teacher(answers):
    """On each of two ranks; the teacher is sharded again after it was asked, and in eval mode."""
    assert answers["share held"] == pytest.approx(0.5, abs=0.02)
    assert answers["teacher sharded after use"]
    assert answers["teacher in eval mode"]
    assert not any(answers[f"{way} teacher learns"] for way in WAYS)


def test_ranks_draw_dropout_of_their_own_and_finish(answers):
    """With dropout the loss is another than one process's, and finite."""
    assert all(0 < loss < 10 for way in WAYS for loss in answers[f"{way} dropout"])


def test_a_bad_batch_on_one_rank_stops_both(expected, answers):
    """The mean over ranks is NaN everywhere: nobody waits for a rank that has left.

    Each rank's rows are saved under its own name.
    """
    folder, _ = expected
    for rank, (bad, _) in enumerate(answers["messages"]):
        assert "the loss is nan at step 2 (epoch 0, batch 1 of it" in bad
        assert str(folder / "bad" / f"bad-step-2.rank-{rank}.pt") in bad
    held = torch.load(folder / "bad" / "bad-step-2.rank-1.pt", weights_only=True)
    assert held["batches"][0]["liked"].isnan().all()
    other = torch.load(folder / "bad" / "bad-step-2.rank-0.pt", weights_only=True)
    assert not other["batches"][0]["liked"].isnan().any()


def test_ranks_that_were_given_different_runs_are_told(answers):
    """Before the first collective that only some of them would enter."""
    for rank, (_, differs) in enumerate(answers["messages"]):
        assert "the ranks differ: max_norm is" in differs
        assert f"{0.5 + rank} here" in differs


def test_shards_of_a_batch_are_all_of_it():
    """Weights add up to the batch's; a rank without rows repeats one at weight 0."""
    shards = [list(Sharded(walks(), rank, 2)) for rank in range(2)]
    for whole, mine, other in zip(walks(), *shards, strict=True):
        assert mine.weight + other.weight == len(whole.history)
        if other.weight:
            assert torch.equal(whole.history[0::2], mine.batch.history)
            assert torch.equal(whole.history[1::2], other.batch.history)
    assert [len(each.batch.history) for each in shards[1]] == [8, 8, 1]
    assert [each.weight for each in shards[1]] == [8, 8, 0]
    tokens = [Weighted((torch.arange(4),), 100.0)]
    assert [each.weight for each in Sharded(tokens, 0, 3)] == [50.0]


def test_the_layers_of_a_model_are_the_topmost_lists():
    model = SequenceRanker(20, 16, 3)
    assert layers(model) == list(model.blocks)
    assert layers(torch.nn.Linear(2, 2)) == []


@pytest.mark.slow
def test_a_run_under_torchrun_goes_on_in_one_process(tmp_path):
    """Two ranks of the example, launched as anyone would launch them: torchrun takes 10 s."""
    from labs.lab5_distillation.distributed_example import launch

    found = launch(procs=2, device="cpu", folder=tmp_path, ways=())
    assert list(found.losses) == ["1 alone", "2 shard, then 1"]
    assert [len(losses) for losses in found.losses.values()] == [15, 15]
    assert found.largest_difference < 1e-5
    assert Path(found.checkpoint).exists()
