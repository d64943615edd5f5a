"""Scores of **simulated** impressions: the model's, and the true probabilities of the world."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from capstone.impression_batches import pack, take
from capstone.impressions import ImpressionConfig, Impressions, world_of
from capstone.target_ranker import HEADS, LOGITS, TargetRanker
from capstone.target_ranker import probabilities as scores_of

Floats = NDArray[np.float64]
Scores = dict[str, Floats]


@torch.no_grad()
def predict(
    model: TargetRanker,
    rows: Impressions,
    *,
    lists: int = 512,
    at_the_top: bool = False,
    exact: bool = False,
) -> Scores:
    """Probabilities of each head [n], where the rows were shown or as serving scores them.

    A GPU multiplies in bf16 unless ``exact``.
    """
    starts = np.append(np.flatnonzero(rows.position == 0), rows.n)
    sizes = np.diff(starts)
    # A batch is as long as its longest history: lists of like length go together.
    order = np.argsort((rows.history[starts[:-1]] > 0).sum(axis=1), kind="stable")
    device = model.head.weight.device
    fast = device.type == "cuda" and not exact
    scores = {head: np.zeros(rows.n) for head in LOGITS}
    for chosen in np.split(order, range(lists, len(order), lists)):
        ids = np.concatenate([np.arange(starts[i], starts[i] + sizes[i]) for i in chosen])
        requests, _, weight = pack(take(rows, ids), np.ones(len(ids), dtype=bool))
        asked = requests.at_the_top() if at_the_top else requests
        with torch.autocast(device.type, torch.bfloat16, enabled=fast):
            found = scores_of(model, asked.on(device))
        real = weight.numpy() > 0
        for head, p in found.items():
            scores[head][ids] = p[real]
    return scores


def oracle(config: ImpressionConfig, rows: Impressions) -> Scores:
    """The world's true probability of each reaction where the row was shown [n]."""
    world = world_of(config)
    p = given_seen(config, rows)
    seen = world.examination(config.list_length)[rows.position]
    click = p["click"] * seen
    long_view = click * p["long_view"]
    return {
        "click": click,
        "long_view": long_view,
        "share": long_view * p["share"],
        "hide": p["hide"] * seen,
    }


def isolation_difference(model: TargetRanker, rows: Impressions) -> float:
    """Largest change of a probability between whole lists together and each row on its own."""
    together = predict(model, rows, exact=True)
    requests, _, _ = pack(
        replace(rows, position=np.zeros_like(rows.position)), np.full(rows.n, True)
    )
    positions = torch.from_numpy(rows.position.astype(np.int64))[:, None]
    alone = scores_of(model, replace(requests, positions=positions).on(model.head.weight.device))
    return max(float(np.abs(alone[head][:, 0] - together[head]).max()) for head in together)


def given_seen(config: ImpressionConfig, rows: Impressions) -> Scores:
    """The world's conditional probabilities of each head [n]: click and hide given examined."""
    world = world_of(config)
    found: Scores = {head: np.zeros(rows.n) for head in HEADS}
    for day in np.unique(rows.day):
        chosen = rows.day == day
        items = rows.item[chosen].astype(np.int64)[:, None]
        p = world.probabilities(rows.user[chosen].astype(np.int64), items, int(day))
        for head in HEADS:
            found[head][chosen] = p[head][:, 0]
    return found
