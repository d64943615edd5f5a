"""Training over ranks: the same gradient, the same batches, whatever their number."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from capstone.data import Feed
from capstone.models import Ranker
from capstone.ranking_loss import distilled_loss, ranker_loss, reaction_labels
from capstone.training import Job, make_batch
from common.launch import torchrun

RANK_SCRIPT = """
import json, sys
from pathlib import Path
import torch
from capstone.data import prepare
from capstone.ranking_loss import ranker_loss
from capstone.training import build_ranker, make_batch
from common.data import load
from labs.lab1_fsdp_advanced.distributed import leave, process_group
from labs.lab1_fsdp_advanced.sharding import Strategy, shard
from torch.distributed.tensor import DTensor

feed = prepare(load("ml-100k"))
with process_group(sys.argv[3], seed=0) as ranks:
    model = build_ranker(feed, 32, 1, 20, "softmax", 0.0)
    blocks = list(model.blocks)
    model = shard(model, Strategy(sys.argv[2]), device=ranks.device, blocks=blocks)
    batch = make_batch(feed.train, 3, batch_size=16, max_length=20, seed=0,
                       rank=ranks.rank, world=ranks.world, device=ranks.device)
    ranker_loss(model, batch).backward()
    gradients = {
        name: (p.grad.full_tensor() if isinstance(p.grad, DTensor) else p.grad).cpu()
        for name, p in model.named_parameters()
    }
    if ranks.is_main:
        torch.save(gradients, sys.argv[1])
leave()
"""


def gradients(tmp_path: Path, procs: int, device: str) -> dict[str, torch.Tensor]:
    """Gradients of one batch of the ranker, computed on ``procs`` ranks."""
    (tmp_path / "rank_gradients.py").write_text(RANK_SCRIPT)
    name = f"{device}-{procs}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(tmp_path))
        torchrun(
            "rank_gradients", [str(tmp_path / f"{name}.pt"), "FULL_SHARD", device],
            procs=procs, device=device, log=tmp_path / f"{name}.log",
        )  # fmt: skip
    return torch.load(tmp_path / f"{name}.pt", weights_only=True)


def assert_equal(
    one: dict[str, torch.Tensor], two: dict[str, torch.Tensor], tolerance: float
) -> None:
    assert one.keys() == two.keys()
    largest = max(gradient.abs().max().item() for gradient in one.values())
    assert largest > 1e-3, "the gradients must not be trivially zero"
    worst = max((one[name] - two[name]).abs().max().item() for name in one)
    assert worst < tolerance, f"the gradients differ by {worst:g}"


def test_gradients_of_two_fsdp_ranks_equal_one_process(tmp_path: Path) -> None:
    """The central check: sharding changes where numbers live, never which numbers."""
    assert_equal(gradients(tmp_path, 1, "cpu"), gradients(tmp_path, 2, "cpu"), 1e-5)


@pytest.mark.gpu
def test_gradients_on_a_gpu_equal_the_cpus(tmp_path: Path) -> None:
    """Only the order of additions differs, so fp32 agrees to a few units in the last place."""
    assert_equal(gradients(tmp_path, 1, "cpu"), gradients(tmp_path, 1, "cuda"), 1e-4)


@pytest.mark.multigpu
def test_gradients_of_two_gpus_equal_one(tmp_path: Path) -> None:
    """The same check over NCCL."""
    assert_equal(gradients(tmp_path, 1, "cuda"), gradients(tmp_path, 2, "cuda"), 1e-5)


def test_the_ranks_share_out_one_global_batch(feed: Feed) -> None:
    def batch(rank: int, world: int):  # type: ignore[no-untyped-def]
        return make_batch(
            feed.train, 7, batch_size=16, max_length=20, seed=1,
            rank=rank, world=world, device=torch.device("cpu"),
        )  # fmt: skip

    whole, parts = batch(0, 1), [batch(rank, 2) for rank in range(2)]
    for field in ("history", "ratings", "nexts", "next_ratings"):
        rows = torch.empty_like(getattr(whole, field))
        rows[0::2], rows[1::2] = getattr(parts[0], field), getattr(parts[1], field)
        assert torch.equal(rows, getattr(whole, field)), field
    assert sum(part.tokens for part in parts) == pytest.approx(whole.tokens)


def test_an_epoch_visits_every_user_once(feed: Feed) -> None:
    seen = []
    for step in range(-(-feed.n_users // 64)):
        batch = make_batch(
            feed.train, step, batch_size=64, max_length=200, seed=0,
            rank=0, world=1, device=torch.device("cpu"),
        )  # fmt: skip
        seen += [tuple(row[row > 0].tolist()) for row in batch.history]
    assert len(set(seen[: feed.n_users])) > 0.99 * feed.n_users


def test_targets_are_the_next_items_and_never_held_out_ones(feed: Feed) -> None:
    batch = make_batch(
        feed.train, 0, batch_size=64, max_length=50, seed=0,
        rank=0, world=1, device=torch.device("cpu"),
    )  # fmt: skip
    earlier = batch.nexts[:, :-1]
    assert torch.equal(batch.history[:, 1:][earlier > 0], earlier[earlier > 0])
    order = np.random.default_rng((0, 0)).permutation(feed.n_users)[:64]
    for row, user in zip(batch.nexts, order, strict=True):
        train = feed.train[user].items
        assert row[-1].item() in train
        assert feed.test_items[user] not in row.tolist()


def test_distilling_with_alpha_zero_is_training_on_the_labels(feed: Feed) -> None:
    torch.manual_seed(0)
    genres = torch.from_numpy(feed.genres)
    teacher, student = Ranker(genres, 32, 20), Ranker(genres, 16, 20, dropout=0.0)
    batch = make_batch(
        feed.train, 0, batch_size=8, max_length=20, seed=0,
        rank=0, world=1, device=torch.device("cpu"),
    )  # fmt: skip
    hard = ranker_loss(student, batch)
    mixed = distilled_loss(teacher, temperature=2.0, alpha=0.0)(student, batch)
    assert mixed.item() == pytest.approx(hard.item(), rel=1e-5)


def test_distillation_leaves_the_teacher_alone(feed: Feed) -> None:
    genres = torch.from_numpy(feed.genres)
    teacher, student = Ranker(genres, 32, 20), Ranker(genres, 16, 20)
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    batch = make_batch(
        feed.train, 0, batch_size=8, max_length=20, seed=0,
        rank=0, world=1, device=torch.device("cpu"),
    )  # fmt: skip
    loss = distilled_loss(teacher, temperature=2.0, alpha=0.5)(student, batch)
    loss.backward()
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    assert not teacher.training
    assert student.items.weight.grad is not None


def test_the_ranker_loss_is_a_mean_over_real_tokens(feed: Feed) -> None:
    torch.manual_seed(0)
    model = Ranker(torch.from_numpy(feed.genres), 16, 20, dropout=0.0).eval()
    batch = make_batch(
        feed.train, 0, batch_size=8, max_length=20, seed=0,
        rank=0, world=1, device=torch.device("cpu"),
    )  # fmt: skip
    engage, reactions = model(batch.history, batch.ratings, batch.nexts)
    labels = reaction_labels(batch.next_ratings)
    losses = [
        F.cross_entropy(engage[b, t], batch.nexts[b, t])
        + F.binary_cross_entropy_with_logits(reactions[b, t], labels[b, t], reduction="sum")
        for b, t in torch.nonzero(batch.nexts).tolist()
    ]
    assert ranker_loss(model, batch).item() == pytest.approx(
        torch.stack(losses).mean().item(), rel=1e-5
    )


def test_a_killed_training_resumes_to_the_same_weights(tmp_path: Path) -> None:
    """Resuming must not change the result: same batches, same dropout, same schedule."""
    from safetensors.torch import load_file

    fields = {
        "kind": "retrieval", "width": 16, "layers": 1, "max_length": 20, "epochs": 1,
        "batch_size": 64, "learning_rate": 1e-3, "strategy": "FULL_SHARD", "device": "cpu",
        "seed": 0,
    }  # fmt: skip

    def run(name: str, checkpoints: str, stop_after: int | None) -> Path:
        output = tmp_path / f"{name}.safetensors"
        job = Job(name=name, **fields, output=str(output), checkpoints=str(tmp_path / checkpoints))

        def on_line(line: str) -> None:
            if stop_after and line.startswith("progress") and int(line.split()[2]) > stop_after:
                raise KeyboardInterrupt

        arguments = [str(job.write(tmp_path / f"{name}.json"))]
        torchrun(
            "capstone.training", arguments, procs=2, device="cpu",
            log=tmp_path / f"{name}.log", on_line=on_line,
        )  # fmt: skip
        return output

    whole = run("whole", "a", None)
    with pytest.raises(KeyboardInterrupt):
        run("stopped", "b", 5)
    assert not (tmp_path / "stopped.safetensors").exists()
    resumed = run("resumed", "b", None)
    first, second = load_file(whole), load_file(resumed)
    worst = max((first[name] - second[name]).abs().max().item() for name in first)
    assert worst < 1e-6, f"resumed weights differ by {worst:g}"
    steps = [
        int(line.split()[2])
        for line in (tmp_path / "resumed.log").read_text().splitlines()
        if line.startswith("progress")
    ]
    assert steps[0] > 1, "the second run must not have begun at the first step"


def test_both_models_train_in_bf16(tmp_path: Path) -> None:
    """On GPUs training computes in bf16, so both models must run in it; it is checked on CPU."""
    assert_both_learn_in_bf16(tmp_path, "cpu", 2)


@pytest.mark.gpu
def test_both_models_train_on_a_gpu(tmp_path: Path) -> None:
    """The same code, one rank, NCCL and bf16."""
    assert_both_learn_in_bf16(tmp_path, "cuda", 1)


def assert_both_learn_in_bf16(tmp_path: Path, device: str, procs: int) -> None:
    paths = []
    for name, kind in (("encoder", "retrieval"), ("teacher", "ranker")):
        job = Job(
            name=name, kind=kind, width=16, layers=1, max_length=20, epochs=2, batch_size=64,
            learning_rate=8e-3, strategy="FULL_SHARD", device=device, seed=0, precision="bf16",
            output=str(tmp_path / f"{name}.safetensors"), checkpoints=str(tmp_path / name),
        )  # fmt: skip
        paths.append(str(job.write(tmp_path / f"{name}.json")))
    log = tmp_path / "log"
    torchrun("capstone.training", paths, procs=procs, device=device, log=log)
    for name in ("encoder", "teacher"):
        losses = [
            float(line.split()[-1])
            for line in log.read_text().splitlines()
            if line.startswith(f"progress {name} ")
        ]
        assert losses[-1] < losses[0] - 0.3, f"{name}: {losses[0]} to {losses[-1]}"


def test_a_job_survives_being_written_and_read(tmp_path: Path) -> None:
    job = Job(
        "student", "ranker", 32, 1, 20, 1, 16, 1e-3, "FULL_SHARD", "cpu", 0, "out", "checkpoints"
    )
    assert Job.read(job.write(tmp_path / "job.json")) == job
    assert json.loads((tmp_path / "job.json").read_text())["width"] == 32
