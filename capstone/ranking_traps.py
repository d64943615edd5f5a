"""Silent failures of data, retrieval and ranking, for :mod:`capstone.traps`."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from common.traps import Trap

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

    from capstone.data import Feed
    from capstone.two_tower import TwoTower


def tie_order() -> Trap:
    """EASE on two splits that differ in nothing but the order of equal timestamps."""
    from capstone.offline import retrieval_ndcg
    from common.data import load

    interactions = load("ml-100k").table("interactions")
    frozen = interactions.sort_values(["user_id", "timestamp"], kind="stable")
    by_item = interactions.sort_values(["user_id", "timestamp", "item_id"], kind="stable")
    shared = interactions.duplicated(["user_id", "timestamp"], keep=False).mean()
    values = []
    for ordered in (by_item, frozen):
        feed = _feed(ordered)
        values.append(float(retrieval_ndcg(_ease_scores(feed), feed).mean()))
    return Trap(
        "A sort that reorders ties changes the test set",
        wrong=("EASE NDCG@10, ties in order of item id", round(values[0], 4)),
        right=("EASE NDCG@10, ties in file order (the frozen split)", round(values[1], 4)),
        why=(
            f"{shared:.1%} of the interactions share their second with another of the same user, "
            "so the order of ties decides which film is the last one. Any sort that is not stable, "
            "or a database without ORDER BY, gives some other split, and models measured on "
            "different splits cannot be compared. prepare() sorts stably and checks a hash."
        ),
    )


def sampled_metrics() -> Trap:
    """One model and one test set; only the number of items it must beat differs."""
    import numpy as np

    from capstone.offline import retrieval_ndcg
    from capstone.rank_metrics import ndcg, ranks

    feed = _frozen()
    scores = _ease_scores(feed)
    rng = np.random.default_rng(0)
    drawn = np.where(feed.seen, np.inf, rng.random(feed.seen.shape))
    drawn[np.arange(feed.n_users), feed.test_items] = np.inf
    negatives = np.argpartition(drawn, 100, axis=1)[:, :100]
    masked = np.ones_like(feed.seen)
    np.put_along_axis(masked, negatives, False, axis=1)
    np.put_along_axis(masked, feed.test_items[:, None], False, axis=1)
    sampled = float(ndcg(ranks(scores, feed.test_items, masked)).mean())
    full = float(retrieval_ndcg(scores, feed).mean())
    return Trap(
        "NDCG against 100 sampled negatives is another metric",
        wrong=("EASE NDCG@10 among 100 random negatives", round(sampled, 4)),
        right=("EASE NDCG@10 over the full catalogue", round(full, 4)),
        why=(
            f"The same scores look {sampled / full:.1f} times better, since most random films are "
            "easy to beat. The flattery differs from model to model, so even the order of two "
            "models can turn round (Krichene and Rendle, KDD 2020). Rank the whole catalogue."
        ),
    )


def leaking_world() -> Trap:
    """A recommender learns from simulated clicks only, and is tested on the real held-out films."""
    import numpy as np

    from capstone.baselines import ease
    from capstone.offline import retrieval_ndcg
    from capstone.world import build_world

    feed = _frozen()
    users, values = np.arange(feed.n_users), []
    weights = ease(feed.matrix(feed.train), 500.0)
    items = np.tile(np.arange(1, feed.n_items + 1), (feed.n_users, 1))
    for sequences in (feed.sequences, feed.train):
        world = build_world(feed, sequences=sequences)
        chance = world.probabilities(users, items)["click"]
        clicks = np.random.default_rng(0).random(chance.shape) < chance
        simulated = np.concatenate([np.zeros((feed.n_users, 1)), clicks], axis=1)
        scores = (feed.matrix(feed.test_history) + simulated) @ weights
        values.append(float(retrieval_ndcg(scores, feed).mean()))
    return Trap(
        "A simulator fitted to everything tells its log the test labels",
        wrong=("NDCG@10 with clicks of a world that knows the test films", round(values[0], 4)),
        right=("NDCG@10 with clicks of a world fitted to the training set", round(values[1], 4)),
        why=(
            "No row of the simulated log is a test row, and the split's hash is intact; still the "
            "tastes that drew the clicks were estimated from the test interactions. Worlds that "
            "judge (build_world) may know everything, worlds that make training data "
            "(impressions.world_of) are fitted to feed.train. The same leak is in any generated, "
            "imputed or distilled training data: ask what its generator has seen."
        ),
    )


def no_log_q() -> Trap:
    """Two towers trained on in-batch negatives, without the logQ correction and with it."""
    from capstone import two_tower

    feed = _frozen()
    popular = feed.matrix(feed.train).sum(axis=0)
    recalls, recommended = [], []
    for name in ("in-batch, no correction", "in-batch, logQ"):
        scores = two_tower.scores(_two_towers(name, 0), feed)
        top = scores.argsort(axis=1)[:, -50:]
        recalls.append(float((top == feed.test_items[:, None]).any(axis=1).mean()))
        recommended.append(popular[top].mean())
    return Trap(
        "In-batch negatives teach a model to avoid what is popular",
        wrong=("recall@50 of the two towers, negatives as they come", round(recalls[0], 3)),
        right=("the same training with log Q subtracted", round(recalls[1], 3)),
        why=(
            "An item is a negative as often as it is somebody's target, so popular items are "
            f"pushed down most: a recommended film has {recommended[0]:.0f} interactions on "
            f"average, with the correction {recommended[1]:.0f}. The loss falls in both cases. "
            "Subtract the log of the sampling probability from every logit, the target's too "
            "(sampled_softmax.corrected_logits)."
        ),
    )


def yesterdays_index() -> Trap:
    """Queries of today's encoder in the index of yesterday's, of the same width and items."""
    import numpy as np
    import torch

    from capstone import retrieval_index, two_tower
    from capstone.data import histories
    from common.errors import InputError
    from labs.lab2_vector_db.persistence import load_index
    from labs.lab2_vector_db.search import search

    feed = _frozen()
    models = [_two_towers("in-batch, logQ", seed) for seed in (0, 1)]
    history, _ = histories(feed.test_history, two_tower.SMOKE.max_length)
    with torch.no_grad():
        queries = models[1](torch.from_numpy(history))[:, -1].contiguous().numpy()
    recalls, refused = [], ""
    with tempfile.TemporaryDirectory(prefix="trap-") as temporary:
        folder = Path(temporary)
        for model, version in zip(models, ("yesterday", "today"), strict=True):
            vectors = model.items().detach().numpy()
            retrieval_index.build(vectors, folder, version)
            try:
                retrieval_index.open_index(folder, "today")
            except InputError as error:
                refused = str(error).partition(": ")[2]
            index, _ = load_index(folder)  # accepts any version
            _, ids = search(index, queries, feed.n_items)
            unseen = ~np.take_along_axis(feed.seen, ids, axis=1)
            first = unseen & (unseen.cumsum(axis=1) <= 50)
            hits = ((ids == feed.test_items[:, None]) & first).any(axis=1)
            recalls.append(float(hits.mean()))
    return Trap(
        "An index of yesterday's checkpoint answers without an error",
        wrong=("recall@50, today's queries in yesterday's index", round(recalls[0], 3)),
        right=("recall@50, queries and index of one checkpoint", round(recalls[1], 3)),
        why=(
            "Two trainings that differ by their seed alone give unrelated spaces of one width, so "
            f"every check of shapes passes and the feed is noise (by chance it would be "
            f"{50 / feed.n_items:.3f}). The index carries the hash of its checkpoint, and "
            f"open_index refuses any other: {refused}."
        ),
    )


def candidates_that_see_each_other() -> Trap:
    """One ranker with random weights, with and without the mask: an item alone, then in company."""
    import numpy as np
    import torch

    from capstone.target_ranker import (
        SIZES,
        Layout,
        Requests,
        TargetRanker,
        Vocabulary,
        probabilities,
    )

    class Open(TargetRanker):
        """Every candidate sees every other."""

        def layout(self, history: torch.Tensor, n_candidates: int) -> Layout:
            layout = super().layout(history, n_candidates)
            layout.mask[..., -n_candidates:, -n_candidates:] = True
            return layout

    drawn = torch.Generator().manual_seed(0)
    vocabulary = Vocabulary(items=500, creators=20, reactions=4, positions=10)

    def ints(high: int, *shape: int) -> torch.Tensor:
        return torch.randint(1, high + 1, shape, generator=drawn)

    users, company = 200, 50
    asked = Requests(
        ints(500, users, 8), ints(4, users, 8), ints(500, users, company),
        ints(20, users, company), ints(9, users, company),
        torch.zeros(users, company, dtype=torch.long),
    )  # fmt: skip
    pair = Requests(
        asked.history, asked.reactions, *(each[:, :2] for each in list(vars(asked).values())[2:])
    )
    turned = []
    for kind in (Open, TargetRanker):
        model = kind(SIZES["tiny"], vocabulary)
        model.init_weights(0)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim > 1:
                    parameter.mul_(20)  # as large as trained ones
        two, many = (probabilities(model, each)["click"] for each in (pair, asked))
        turned.append(float(np.mean((two[:, 0] > two[:, 1]) != (many[:, 0] > many[:, 1]))))
    return Trap(
        "Candidates that see each other",
        wrong=("share of pairs whose order turns when 48 others join", f"{turned[0]:.1%}"),
        right=("the same under the isolation mask", f"{turned[1]:.1%}"),
        why=(
            "A transformer over history and candidates lets an item's score depend on what else "
            "was retrieved: on another source, another shard, a shorter deadline. Offline, where "
            "candidates come in batches of another size, the metrics are those of other scores. "
            "Nothing fails; a cache or a calibration of such scores is meaningless. A candidate "
            "may look at the history and at itself alone (capstone/candidate_mask.py); a property "
            "test compares each score alone and in company."
        ),
    )


@cache
def _frozen() -> Feed:
    """The frozen split."""
    from capstone.data import prepare
    from common.data import load

    return prepare(load("ml-100k"))


@cache
def _two_towers(objective: str, seed: int) -> TwoTower:
    """A few epochs of training, a second or two."""
    from capstone import two_tower

    return two_tower.fit(_frozen(), objective, two_tower.SMOKE, seed=seed)


def _feed(ordered: pd.DataFrame) -> Feed:
    """The split that another order of the interactions would have given."""
    import numpy as np

    from capstone.data import Sequence

    sequences = tuple(
        Sequence(group["item_id"].to_numpy(np.int64), group["rating"].to_numpy(np.int64))
        for _, group in ordered.groupby("user_id", sort=True)
    )
    return replace(_frozen(), sequences=sequences)


def _ease_scores(feed: Feed) -> NDArray[np.float64]:
    from capstone.baselines import ease

    return feed.matrix(feed.test_history) @ ease(feed.matrix(feed.train), 500.0)
