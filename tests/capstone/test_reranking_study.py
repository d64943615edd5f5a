"""The study measures what its names say, and chooses by its rule."""

from __future__ import annotations

import numpy as np
import pytest

from capstone.catalogue import Catalogue
from capstone.reranking import RerankConfig
from capstone.reranking_study import (
    LEAST_KEPT,
    Outcome,
    RerankingStudy,
    Scored,
    gini,
    lists_of,
    most_diverse,
    study_reranking,
    top_share,
)
from common.errors import InputError

N_ITEMS, N_USERS = 80, 60


@pytest.fixture(scope="module")
def world():  # type: ignore[no-untyped-def]
    """Items in four clusters; a user's best candidates come from one, the next item from any."""
    rng = np.random.default_rng(0)
    cluster = rng.integers(0, 4, N_ITEMS + 1)
    vectors = np.eye(4)[cluster] + rng.normal(0, 0.2, (N_ITEMS + 1, 4))
    visible = np.arange(N_ITEMS + 1) > 0
    empty = ((),) * (N_ITEMS + 1)
    catalogue = Catalogue(
        ("",) * (N_ITEMS + 1), empty, rng.integers(1, 6, N_ITEMS + 1), cluster, visible
    )

    def scored() -> Scored:
        ids = np.stack([rng.permutation(N_ITEMS)[:40] + 1 for _ in range(N_USERS)])
        liked = rng.integers(0, 4, (N_USERS, 1))
        value = rng.random(ids.shape) * np.where(cluster[ids] == liked, 1.0, 0.6)
        best = np.take_along_axis(ids, np.argsort(-value, axis=1)[:, :15], axis=1)
        return Scored(value, ids, best[np.arange(N_USERS), rng.integers(0, 15, N_USERS)])

    return scored(), scored(), catalogue, vectors, np.eye(4)[cluster]


@pytest.fixture(scope="module")
def study(world) -> RerankingStudy:  # type: ignore[no-untyped-def]
    return study_reranking(*world, n_boot=100)


def test_the_study_trades_ndcg_for_diversity_and_judges_on_the_test_items(
    study: RerankingStudy,
) -> None:
    """More weight, more diversity; the choice keeps its share on validation, whatever test says."""
    base = study.validation[0]
    assert base.config == RerankConfig()
    assert base.kept == 1
    assert base.lost_ci95 == (0, 0)
    for name in ("MMR", "DPP"):
        diverse = [each.ild for each in study.validation if each.name == name]
        assert diverse == sorted(diverse)
        assert diverse[-1] > base.ild + 0.05
    decayed = [each.top_creator for each in study.validation if each.name == "creator decay"]
    assert decayed == sorted(decayed, reverse=True)
    assert decayed[-1] < base.top_creator
    (chosen,) = {each.kept for each in study.validation if each.config == study.chosen}
    assert chosen >= LEAST_KEPT
    assert study.test[1].config == study.chosen
    assert study.test[0].ndcg != base.ndcg


def test_the_most_diverse_that_keeps_enough_is_chosen() -> None:
    """Diversity is what we want; NDCG is what we may not lose."""

    def outcome(kept: float, ild: float) -> Outcome:
        return Outcome("", RerankConfig(), 0.1, kept, (0, 0), ild, 0, 0, 0, 0)

    outcomes = [outcome(1.0, 0.3), outcome(0.991, 0.5), outcome(0.989, 0.9), outcome(1.02, 0.4)]
    assert most_diverse(outcomes) == outcomes[1]


def test_lists_do_not_depend_on_who_else_is_asked(world) -> None:  # type: ignore[no-untyped-def]
    """Each user has a generator of their own, so a user's feed can be made again alone."""
    scored, _, catalogue, vectors, _ = world
    config = RerankConfig(exploration_slots=2)
    together = lists_of(scored, catalogue, vectors, config, k=10, seed=3)
    alone = Scored(scored.value[:1], scored.ids[:1], scored.target[:1])
    assert lists_of(alone, catalogue, vectors, config, k=10, seed=3).tolist() == [
        together[0].tolist()
    ]
    assert len({tuple(row) for row in together.tolist()}) == N_USERS


def test_top_share_is_that_of_the_most_frequent_creator() -> None:
    """By hand: three of four, two of four, all different."""
    lists = np.array([[7, 2, 7, 7], [1, 2, 1, 2], [4, 3, 2, 1]])
    assert top_share(lists).tolist() == [0.75, 0.5, 0.25]


def test_gini_is_zero_for_equals_and_nearly_one_for_a_monopoly() -> None:
    """And half of the mean absolute difference over the mean, by its definition."""
    assert gini(np.full(9, 4)) == pytest.approx(0)
    assert gini(np.array([0, 0, 0, 8])) == pytest.approx(0.75)
    counts = np.array([1, 5, 2, 9])
    pairs = np.abs(counts[:, None] - counts).mean()
    assert gini(counts) == pytest.approx(pairs / 2 / counts.mean())


def test_scores_of_other_people_are_refused() -> None:
    """One row short, and every user would be judged by their neighbour's next item."""
    with pytest.raises(InputError, match="must be"):
        Scored(np.ones((3, 5)), np.ones((3, 5), np.int64), np.ones(2, np.int64))


def test_the_figure_shows_every_method(study: RerankingStudy) -> None:
    """A legend without the chosen setting would hide what the run decided."""
    from capstone.figures_reranking import draw_reranking

    figure = draw_reranking(study)
    labels = figure.axes[1].get_legend_handles_labels()[1]
    assert labels == ["MMR", "DPP", "creator decay", "chosen"]
