"""Traps of texts and features: a cache of other texts, attention maps that are not there."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from common.traps import Trap
from labs.lab5_distillation.distiller import fit
from labs.lab5_distillation.hooks import Taps
from labs.lab5_distillation.objectives import (
    CachedTeacher,
    Distillation,
    Objective,
    Supervised,
)
from labs.lab5_distillation.tokens import Batch, Batches, TokenSet

TOPICS, WORDS_OF_A_TOPIC, MASK = 6, 30, 3


FIRST_WORD = 10  # ids below are [PAD], [CLS], [SEP], [MASK] and their like


VOCABULARY = FIRST_WORD + TOPICS * WORDS_OF_A_TOPIC


class _Bag(nn.Module):
    """Mean of word vectors, one hidden layer: reads batches of tokens in a millisecond."""

    def __init__(self, width: int, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.words = nn.Embedding(VOCABULARY, width)
        self.rest = nn.Sequential(nn.Linear(width, width), nn.Tanh(), nn.Linear(width, TOPICS))

    def forward(self, batch: Batch) -> Tensor:
        real = batch.attention_mask[:, :, None].float()
        logits: Tensor = self.rest((self.words(batch.input_ids) * real).sum(1) / real.sum(1))
        return logits


def _read(model: nn.Module, batch: Batch) -> Tensor:
    logits: Tensor = model(batch)
    return logits


def _labels(batch: Batch) -> Tensor:
    return batch.labels


def _texts(n: int, seed: int) -> TokenSet:
    """Texts of 6 to 12 words, 45 % of them of their topic and the others of any (synthetic)."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, TOPICS, n)
    ids = []
    for label in labels:
        length = int(rng.integers(6, 13))
        topic = np.where(rng.random(length) < 0.45, label, rng.integers(0, TOPICS, length))
        words = FIRST_WORD + topic * WORDS_OF_A_TOPIC + rng.integers(0, WORDS_OF_A_TOPIC, length)
        ids.append([1, *words.tolist(), 2])
    return TokenSet(ids, labels.astype(np.int64))


def _train(objective: Objective, loader: Any, epochs: int) -> nn.Module:
    torch.manual_seed(0)
    fit(objective, loader, torch.optim.Adam(objective.parameters(), 1e-2), epochs=epochs)
    return objective.student.eval()


@torch.no_grad()
def _answers(model: nn.Module, texts: TokenSet) -> Tensor:
    return _read(model, texts.batch(np.arange(len(texts))))


def _accuracy(model: nn.Module, texts: TokenSet) -> float:
    return float((_answers(model, texts).argmax(1).numpy() == texts.labels).mean())


@cache
def _bags() -> tuple[_Bag, TokenSet, TokenSet]:
    """A teacher that saw 4,000 texts, the 300 that a student has, and 3,000 to judge on."""
    teacher = _Bag(48, seed=1)
    texts = _texts(4000, seed=0)
    _train(
        Supervised(teacher, forward=_read, labels=_labels, label_smoothing=0.1),
        Batches(texts, 128, seed=0),
        epochs=8,
    )
    return teacher.eval(), TokenSet(texts.ids[:300], texts.labels[:300]), _texts(3000, seed=1)


def _distilled(answers: Any, texts: TokenSet, epochs: int) -> nn.Module:
    objective = Distillation(
        _Bag(16, seed=2), answers, temperature=2.0, alpha=1.0, forward=_read, labels=_labels
    )
    return _train(objective, Batches(texts, 32, seed=0), epochs)


def cached_answers_of_other_texts() -> Trap:
    """Logits are cached by row, and the texts were sorted afterwards."""
    teacher, texts, test = _bags()
    kept = CachedTeacher(_answers(teacher, texts))
    order = np.argsort(texts.lengths, kind="stable")
    ordered = TokenSet([texts.ids[row] for row in order], texts.labels[order])
    found = {
        name: _accuracy(_distilled(answers, ordered, 30), test)
        for name, answers in (
            ("old", kept),
            ("new", CachedTeacher(_answers(teacher, ordered))),
        )
    }
    return Trap(
        "Cached answers, texts in another order",
        wrong=("student's accuracy, logits cached before the texts were sorted", found["old"]),
        right=("student's accuracy, logits cached for the texts as they are", found["new"]),
        why="A cache knows rows, not texts. The shapes agree, the loss falls, and each text is "
        "taught the answer to another. Augmented texts are the same mistake: no row of the "
        "originals is theirs. A fingerprint over the ids in their order makes a new file here.",
    )


def attention_that_sdpa_does_not_give() -> Trap:
    """output_attentions=True under sdpa gives no maps, and the loss over none is 0."""
    import logging

    from transformers import BertConfig, BertModel

    from labs.lab5_distillation.attention_maps import attention_kl

    loggers = [logging.getLogger(name) for name in ("transformers",)]
    levels = [each.level for each in loggers]
    for each in loggers:
        each.setLevel(logging.ERROR)  # a warning is all that transformers says, and once
    config = BertConfig(  # type: ignore[call-arg]
        vocab_size=50, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=64, max_position_embeddings=16, attn_implementation="sdpa",
    )  # fmt: skip
    models = []
    for seed in range(2):
        torch.manual_seed(seed)
        models.append(BertModel(config, add_pooling_layer=False).eval())
        for parameter in models[-1].parameters():
            parameter.requires_grad_(False).mul_(3)  # away from uniform maps
    generator = torch.Generator().manual_seed(0)
    ids, mask = torch.randint(3, 50, (4, 12), generator=generator), torch.ones(4, 12).long()
    given = [model(ids, mask, output_attentions=True).attentions for model in models]
    maps = [[each for each in of or () if each is not None] for of in given]
    naive = sum(float(((s - t) ** 2).mean()) for s, t in zip(*maps, strict=True))
    paths = [
        f"encoder.layer.{layer}.attention.self.{kind}"
        for layer in range(2)
        for kind in ("query", "key")
    ]
    tapped = []
    for model in models:
        with Taps(model, paths) as taps:
            model(ids, mask)
        tapped.append(taps)
    student, teacher = tapped
    loss = sum(
        float(
            attention_kl(
                (student[paths[at]], student[paths[at + 1]]),
                (teacher[paths[at]], teacher[paths[at + 1]]),
                mask,
                (4, 4),
            )
        )
        for at in (0, 2)
    )
    for each, level in zip(loggers, levels, strict=True):
        each.setLevel(level)
    return Trap(
        "Attention maps under sdpa",
        wrong=("loss over the maps that output_attentions=True gave", float(naive)),
        right=("loss over maps from tapped queries and keys", float(loss)),
        why=f"transformers gave {sum(map(len, maps))} maps of {2 * 2}: sdpa never builds them. A "
        "sum over none is 0, so the run trains on the rest of its loss and reports that the maps "
        "agree. Queries and keys are there under every implementation.",
    )
