"""The first stages: the frozen split, the simulated world, and what models must beat."""

from __future__ import annotations

import numpy as np

from capstone import baselines, measure
from capstone.context import Context
from capstone.data import ranking_set
from capstone.names import slug


def data(c: Context) -> None:
    """The frozen split: checked against the committed hash, then counted."""
    feed = c.feed
    rows = ranking_set(feed)
    c.run.metric("data.users", feed.n_users, unit="count")
    c.run.metric("data.items", feed.n_items, unit="count")
    c.run.metric("data.train_interactions", sum(len(s.items) for s in feed.train), unit="count")
    c.run.metric("data.like_rate", rows.liked.mean(), unit="ratio", n=len(rows.liked))


def world(c: Context) -> None:
    """Simulated people fitted to the ratings, and how like the real ones they are."""
    from capstone import figures_world, world_study

    found = world_study.study_world(c.feed, seed=c.run.seed, shards=1 if c.smoke else 3)
    position, drift, cost = found.position, found.drift, found.cost
    for name, value, unit in (
        ("naive_bias", position.naive, "ratio"),
        ("debiased_bias", position.debiased, "ratio"),
        ("examination_worst_error", position.swaps.worst_error(position.truth), "ratio"),
        ("rows_per_cpu_second", cost.rows_per_cpu_second, "rows/s"),
        ("bytes_per_row", cost.bytes_per_row, "bytes"),
        ("same_for_any_ranks", int(found.same_for_any_ranks), "flag"),
    ):
        c.run.metric(f"world.{name}", value, unit=unit, how="simulated")
    at = drift.days.index(14)
    c.run.metric(
        "world.drift_loss_14d", 1 - drift.stale[at] / drift.current[at], unit="ratio",
        how="simulated clicks that the best list of day 0 loses by day 14",
    )  # fmt: skip
    for ranker in found.rankers:
        c.run.metric(
            f"world.clicks.{slug(ranker.name)}", ranker.clicks, unit="simulated clicks a session",
            how=f"expected; NDCG@10 on the real test item {ranker.ndcg:.4f}",
        )  # fmt: skip
    c.run.figure(
        "world", figures_world.draw_statistics(found.statistics),
        caption="The simulated world's statistics beside the real ones.",
    )  # fmt: skip
    c.run.figure(
        "world-position", figures_world.draw_position_bias(found.position),
        caption="Position bias in the simulated log: true, as clicks suggest it, as swaps find it.",
    )  # fmt: skip
    c.run.figure(
        "world-drift", figures_world.draw_drift(found.drift),
        caption="Simulated tastes drift: what the best list of day 0 is worth on later days.",
    )  # fmt: skip
    c.run.note(
        "Clicks, long views, hides, shares, creators and every effect of an experiment are "
        "simulated (capstone/world.py). MovieLens holds ratings, not exposures, so nothing about "
        "real people's clicks can be claimed from it."
    )


def baseline(c: Context) -> None:
    """Popularity, EASE without and with recency, logistic regression: what models must beat."""
    from capstone.rank_metrics import hit_rate, ndcg, ranks
    from capstone.world_fit import recent_profile

    train, known = c.feed.matrix(c.feed.train), c.feed.matrix(c.feed.test_history)
    weights = baselines.ease(train, c.config.ease_lambda)
    scores = {
        "popularity": np.tile(baselines.popularity(train), (c.feed.n_users, 1)),
        "ease": known @ weights,
        "recent_ease": recent_profile(c.feed, c.feed.test_history) @ weights,
    }
    with c.workspace.stage("baselines") as folder:
        for name, score in scores.items():
            rank = ranks(score, c.feed.test_items, c.feed.seen)
            np.save(folder / f"{name}_ndcg.npy", ndcg(rank))
            c.mean(f"baseline.{name}.hr_at_10", hit_rate(rank))
            c.mean(f"baseline.{name}.ndcg_at_10", ndcg(rank))
        rows = ranking_set(c.feed)
        predicted = baselines.logistic_regression_scores(c.feed, rows)
        np.save(folder / "lr_scores.npy", predicted)
        record_auc(c, "baseline.lr.auc", predicted)


def record_auc(c: Context, name: str, predicted: np.ndarray) -> None:
    """AUC on the two held-out interactions of each user."""
    rows = ranking_set(c.feed)
    interval = measure.auc_interval(
        rows.liked, predicted, rows.user, n_boot=c.config.n_boot, seed=c.run.seed
    )
    c.run.metric(
        name, measure.auc(rows.liked, predicted),
        unit="ratio", n=len(predicted), ci95=interval,
        how="rating >= 4 on the two held-out interactions of each user; bootstrap of users",
    )  # fmt: skip
