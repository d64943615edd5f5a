"""Train the models, one after the other; run by torchrun on every rank.

``python -m torch.distributed.run ... -m capstone.training JOB...`` where each JOB is a JSON file
(:class:`Job`). Lab 1 shards, steps and checkpoints; lab 5 is the student's loss.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from capstone.data import Feed, Sequence, pad, prepare
from capstone.models import Attention, Ranker, SequenceEncoder
from capstone.ranking_loss import distilled_loss, ranker_loss, retrieval_loss
from common.data import load as load_dataset
from labs.lab1_fsdp_advanced import checkpoint
from labs.lab1_fsdp_advanced.distributed import Ranks, leave, process_group
from labs.lab1_fsdp_advanced.sharding import Strategy, shard
from labs.lab1_fsdp_advanced.training import StepResult, cosine_schedule, fit

PROGRESS = "progress"
PROGRESS_LINE = re.compile(rf"{PROGRESS} (\w+) (\d+) \d+ (-?\d+\.\d+)")
Kind = Literal["retrieval", "ranker"]


@dataclass(frozen=True)
class Job:
    """What to train. With ``teacher`` (weights) a ranker is distilled from it."""

    name: str
    kind: Kind
    width: int
    layers: int
    max_length: int
    epochs: int
    batch_size: int
    learning_rate: float
    strategy: str
    device: str
    seed: int
    output: str
    checkpoints: str
    precision: str = "fp32"
    dropout: float = 0.0
    attention: Attention = "softmax"
    teacher: str = ""
    teacher_width: int = 0
    teacher_layers: int = 0
    teacher_attention: Attention = "softmax"
    temperature: float = 2.0
    alpha: float = 0.5

    def write(self, path: Path) -> Path:
        path.write_text(json.dumps(asdict(self)), encoding="utf-8")
        return path

    @classmethod
    def read(cls, path: Path) -> Job:
        return cls(**json.loads(path.read_text(encoding="utf-8")))


@dataclass(frozen=True)
class Batch:
    """One rank's sequences of a step, each [B, L]; position t predicts ``nexts[:, t]``.

    ``tokens`` is the global number of real positions divided by the ranks: losses are summed and
    divided by it, so that the mean over ranks is the mean over all tokens, however padding falls.
    """

    history: Tensor
    ratings: Tensor
    nexts: Tensor
    next_ratings: Tensor
    tokens: float


def make_batch(
    train: tuple[Sequence, ...],
    step: int,
    *,
    batch_size: int,
    max_length: int,
    seed: int,
    rank: int,
    world: int,
    device: torch.device,
) -> Batch:
    """The rank's share of global batch ``step``: a function of its arguments alone.

    Each epoch is a permutation of the users, and one random window of ``max_length`` + 1
    interactions of each.
    """
    per_epoch = -(-len(train) // batch_size)
    epoch, number = divmod(step, per_epoch)
    rng = np.random.default_rng((seed, epoch))
    order = rng.permutation(len(train))
    draws = rng.random(len(train))
    chosen = np.resize(order[number * batch_size :], batch_size)
    lengths = np.array([min(len(train[user].items) - 1, max_length) for user in chosen])
    columns: list[list[np.ndarray]] = [[], [], [], []]
    for user in chosen[rank::world]:
        items, ratings = train[user].items, train[user].ratings
        room = max(0, len(items) - (max_length + 1))
        start = int(draws[user] * (room + 1))
        window = slice(start, start + max_length + 1)
        for column, values in zip(
            columns,
            (items[window][:-1], ratings[window][:-1], items[window][1:], ratings[window][1:]),
            strict=True,
        ):
            column.append(pad(values, max_length))
    history, ratings_, nexts, next_ratings = (
        torch.from_numpy(np.stack(column)).to(device) for column in columns
    )
    return Batch(history, ratings_, nexts, next_ratings, float(lengths.sum()) / world)


def build_ranker(
    feed: Feed, width: int, layers: int, length: int, attention: Attention, dropout: float
) -> Ranker:
    """An untrained ranker."""
    return Ranker(
        torch.from_numpy(feed.genres), width, length,
        layers=layers, dropout=dropout, attention=attention,
    )  # fmt: skip


def build_encoder(
    feed: Feed, width: int, layers: int, length: int, dropout: float
) -> SequenceEncoder:
    """An untrained retrieval encoder."""
    return SequenceEncoder(feed.n_items, width, length, layers=layers, dropout=dropout)


def load_ranker(
    path: Path,
    feed: Feed,
    width: int,
    layers: int,
    length: int,
    attention: Attention = "softmax",
) -> Ranker:
    """A trained ranker in evaluation mode."""
    model = build_ranker(feed, width, layers, length, attention, 0.0)
    model.load_state_dict(load_file(path))
    return model.eval()


def load_encoder(path: Path, feed: Feed, width: int, layers: int, length: int) -> SequenceEncoder:
    """A trained retrieval encoder in evaluation mode."""
    model = build_encoder(feed, width, layers, length, 0.0)
    model.load_state_dict(load_file(path))
    return model.eval()


def train(jobs: Iterable[Job]) -> None:
    """Train on this rank and, on rank 0, write each job's weights to its ``output``."""
    feed = prepare(load_dataset("ml-100k"))
    queue = list(jobs)
    with process_group(queue[0].device) as ranks:
        for job in queue:
            _train_one(job, feed, ranks)


def _train_one(job: Job, feed: Feed, ranks: Ranks) -> None:
    torch.manual_seed(job.seed)  # the same draft of the model on every rank
    size = (job.width, job.layers, job.max_length)
    draft: SequenceEncoder | Ranker = (
        build_encoder(feed, *size, job.dropout)
        if job.kind == "retrieval"
        else build_ranker(feed, *size, job.attention, job.dropout)
    )
    blocks = list(draft.blocks)
    model = shard(
        draft,
        Strategy(job.strategy),
        device=ranks.device,
        blocks=blocks,
        param_dtype=torch.bfloat16 if job.precision == "bf16" else None,
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=job.learning_rate, weight_decay=0.01)
    total = job.epochs * -(-len(feed.train) // job.batch_size)

    def batches(step: int, rank: int, world: int) -> list[Batch]:
        return [
            make_batch(
                feed.train,
                step,
                batch_size=job.batch_size,
                max_length=job.max_length,
                seed=job.seed,
                rank=rank,
                world=world,
                device=ranks.device,
            )
        ]

    def report(done: int, result: StepResult) -> None:
        if ranks.is_main and (done % 5 == 1 or done == total):
            print(f"{PROGRESS} {job.name} {done} {total} {result.loss:.4f}", flush=True)

    fit(
        model,
        optimizer,
        batches,
        _loss(job, feed, ranks.device),
        steps=total,
        scheduler=cosine_schedule(optimizer, total),
        seed=job.seed,
        directory=Path(job.checkpoints),
        save_every=max(1, total // 4),
        on_step=report,
    )
    checkpoint.export_weights(model, Path(job.output))


def _loss(job: Job, feed: Feed, device: torch.device) -> Callable[[nn.Module, Batch], Tensor]:
    if job.kind == "retrieval":
        return retrieval_loss
    if not job.teacher:
        return ranker_loss
    teacher = load_ranker(
        Path(job.teacher), feed, job.teacher_width, job.teacher_layers, job.max_length,
        job.teacher_attention,
    )  # fmt: skip
    return distilled_loss(teacher.to(device), job.temperature, job.alpha)


if __name__ == "__main__":
    train(Job.read(Path(path)) for path in sys.argv[1:])
    leave()
