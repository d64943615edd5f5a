"""Silent failures of a ranking system: ``python -m capstone.traps``."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from common.traps import Trap, show

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

    from capstone.data import Feed


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

    from capstone.data import prepare
    from capstone.offline import retrieval_ndcg
    from capstone.rank_metrics import ndcg, ranks
    from common.data import load

    feed = prepare(load("ml-100k"))
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


def batch_mates() -> Trap:
    """A small INT8 model scores one row alone, and in the company of a row of large values."""
    import numpy as np
    import torch

    from labs.lab4_model_serving.export import export_onnx, run, session
    from labs.lab4_model_serving.quantization import quantize_int8

    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Linear(64, 64), torch.nn.GELU(), torch.nn.Linear(64, 1), torch.nn.Sigmoid()
    )
    rng = np.random.default_rng(0)
    row = rng.normal(size=(1, 64)).astype(np.float32)
    loud = 20 * rng.normal(size=(1, 64)).astype(np.float32)
    with tempfile.TemporaryDirectory(prefix="trap-") as temporary:
        fp32 = export_onnx(
            model,
            {"x": torch.zeros(2, 64)},
            Path(temporary) / "model.onnx",
            output_names=["p"],
            dynamic={"x": {0: "batch"}},
        )
        changes = []
        for path in (quantize_int8(fp32, fp32.with_suffix(".int8.onnx")), fp32):
            opened = session(path, threads=1)
            alone = run(opened, {"x": row})["p"][0, 0]
            together = run(opened, {"x": np.concatenate([row, loud])})["p"][0, 0]
            changes.append(abs(float(together) - float(alone)))
    return Trap(
        "Under dynamic INT8 a score depends on who else is in the batch",
        wrong=("change of one probability when a stranger joins, INT8", f"{changes[0]:.4f}"),
        right=("the same in float32", f"{changes[1]:.1e}"),
        why=(
            "Dynamic quantization takes one activation scale from the whole tensor, batch-mates "
            "included, so one large row makes the steps coarse for everybody. An offline "
            "evaluation in batches of 128 then measures other scores than the service gives. "
            "Measure at the served batch size, or calibrate static scales. The capstone reports "
            "int8.batch_dependence."
        ),
    )


def _feed(ordered: pd.DataFrame) -> Feed:
    """The split that another order of the interactions would have given."""
    import numpy as np

    from capstone.data import Sequence, prepare
    from common.data import load

    sequences = tuple(
        Sequence(group["item_id"].to_numpy(np.int64), group["rating"].to_numpy(np.int64))
        for _, group in ordered.groupby("user_id", sort=True)
    )
    return replace(prepare(load("ml-100k")), sequences=sequences)


def _ease_scores(feed: Feed) -> NDArray[np.float64]:
    from capstone.baselines import ease

    return feed.matrix(feed.test_history) @ ease(feed.matrix(feed.train), 500.0)


TRAPS = (tie_order, sampled_metrics, batch_mates)

if __name__ == "__main__":
    show(TRAPS)
