"""Sources chosen on validation, and the offline candidates those of a request."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from capstone import retrieval_index, source_choice, sources
from capstone.catalogue import Catalogue
from capstone.data import Feed, Sequence
from capstone.retrieval_study import RetrievalStudy, study_retrieval
from capstone.source_choice import Chosen, choose
from capstone.sources import Quotas
from labs.lab2_vector_db.search import search

USERS, ITEMS, LIMIT = 60, 90, 20


def small_feed(seed: int = 0) -> tuple[Feed, pd.DataFrame, Catalogue]:
    """Histories that walk from an item to one of its next few neighbours."""
    rng = np.random.default_rng(seed)
    rows, walks = [], []
    for _ in range(USERS):
        steps = rng.integers(1, 4, rng.integers(8, 25))
        walks.append(Sequence(1 + np.cumsum(steps) % ITEMS, np.full(len(steps), 4)))
    for user, walk in enumerate(walks):
        rows += [(user, item, time) for time, item in enumerate(walk.items)]
    interactions = pd.DataFrame(rows, columns=["user_id", "item_id", "timestamp"])
    blank = pd.DataFrame({"title": [""] * ITEMS})
    feed = Feed(tuple(walks), blank, blank, (), np.zeros((ITEMS + 1, 0), np.float32))
    visible = np.arange(ITEMS + 1) % 11 != 0  # hides the padding and some items
    first_seen = rng.integers(0, 100, ITEMS + 1)
    titles = ("",) * (ITEMS + 1)
    return feed, interactions, Catalogue(titles, (), first_seen * 0, first_seen, visible)


FEED, INTERACTIONS, CATALOGUE = small_feed()
VECTORS = np.random.default_rng(1).normal(size=(ITEMS + 1, 8)).astype(np.float32)
QUERIES = np.random.default_rng(2).normal(size=(USERS, 8)).astype(np.float32)
SCORES = QUERIES @ VECTORS.T


@pytest.fixture(scope="module")
def chosen() -> Chosen:
    at = source_choice.before_validation(FEED, SCORES)
    return choose(FEED, INTERACTIONS, CATALOGUE, at, limit=LIMIT, regularisation=5.0)


@pytest.fixture(scope="module")
def study() -> RetrievalStudy:
    return study_retrieval(
        FEED, INTERACTIONS, CATALOGUE, SCORES, SCORES,
        limit=LIMIT, regularisation=5.0, n_boot=100, seed=0,
    )  # fmt: skip


def test_the_offline_candidates_are_those_of_single_requests(
    chosen: Chosen, tmp_path: Path
) -> None:
    """A recall measured on other candidates than the service hands out says nothing about it."""
    retrieval_index.build(VECTORS, tmp_path, "a")
    index = retrieval_index.open_index(tmp_path, "a")
    at, visible = source_choice.before_test(FEED, SCORES), CATALOGUE.visible
    offered = source_choice.offers_of_all(at, chosen.tables, visible, limit=LIMIT)
    quotas = Quotas(8, 5, 4, 3)
    merged = source_choice.merge_all(offered, at, visible, quotas, limit=LIMIT)
    for user, offline in enumerate(merged):
        history = FEED.test_history[user].items
        _, nearest = search(index, QUERIES[user : user + 1], ITEMS)
        online = sources.gather(
            nearest[0], history, chosen.tables,
            limit=LIMIT, quotas=quotas, seen=sources.mask_of(history, ITEMS), visible=visible,
        )  # fmt: skip
        assert np.array_equal(online.ids, offline.ids), f"user {user}"
        assert np.array_equal(online.source, offline.source), f"user {user}"


def test_the_test_items_have_no_say_in_the_choice(chosen: Chosen) -> None:
    """Options that have seen the test item make its recall a promise nobody can keep."""
    rng = np.random.default_rng(5)
    other = [
        Sequence(np.append(s.items[:-1], rng.integers(1, ITEMS + 1)), s.ratings)
        for s in FEED.sequences
    ]
    feed = replace(FEED, sequences=tuple(other))
    last = INTERACTIONS.groupby("user_id").cumcount(ascending=False) == 0
    interactions = INTERACTIONS.assign(
        item_id=np.where(last, rng.integers(1, ITEMS + 1, len(last)), INTERACTIONS["item_id"])
    )
    at = source_choice.before_validation(feed, SCORES)
    again = choose(feed, interactions, CATALOGUE, at, limit=LIMIT, regularisation=5.0)
    assert (again.neighbours, again.popularity, again.quotas) == (
        chosen.neighbours, chosen.popularity, chosen.quotas,
    )  # fmt: skip
    for name in ("neighbours", "weights", "popular", "fresh"):
        first, second = getattr(chosen.tables, name), getattr(again.tables, name)
        assert np.array_equal(first, second), name


def test_what_is_chosen_is_the_best_that_was_tried(chosen: Chosen) -> None:
    for tried in (chosen.neighbours, chosen.popularity, chosen.quotas):
        recalls = [each.recall for each in tried]
        assert recalls == sorted(recalls, reverse=True)
    assert chosen.tables.quotas.total == LIMIT
    assert f"item_to_item {chosen.tables.quotas.item_to_item}," in chosen.quotas[0].name
    assert f"half-life {chosen.tables.half_life:g} items" in chosen.neighbours[0].name


def test_neighbours_learn_where_a_walk_goes_next(chosen: Chosen) -> None:
    """The walks step 1 to 3 items on, which random vectors cannot know: the merge must gain."""
    assert chosen.neighbours[0].recall > 0.6
    assert chosen.tables.quotas.item_to_item > 0


def test_no_candidate_of_the_study_was_seen_or_is_hidden(study: RetrievalStudy) -> None:
    at = source_choice.before_test(FEED, SCORES)
    assert study.candidates.shape == (USERS, LIMIT)
    for user, ids in enumerate(study.candidates):
        assert not at.seen[user, ids].any()
        assert CATALOGUE.visible[ids].all()
        assert len(set(ids.tolist())) == LIMIT


def test_the_figures_of_the_study_agree_with_each_other(study: RetrievalStudy) -> None:
    found = (study.candidates == FEED.test_items[:, None]).any(axis=1).mean()
    assert study.merged.value == pytest.approx(found)
    assert study.gain.value == pytest.approx(study.merged.value - study.nearest.value)
    nearest = next(each for each in study.sources if each.name == "nearest")
    # Hidden targets cannot be found; the nearest alone fill every slot of the nearest-only list.
    assert study.nearest.value == pytest.approx(nearest.recall.value)
    for each in study.sources:
        assert each.contribution.value <= study.merged.value
        low, high = each.recall.ci95
        assert low <= each.recall.value <= high
    touched = np.zeros(ITEMS + 1, dtype=bool)
    touched[study.candidates] = True
    assert study.coverage == pytest.approx(touched.sum() / CATALOGUE.visible.sum())


def test_a_source_contributes_what_the_merge_loses_without_it(study: RetrievalStudy) -> None:
    tables, at = study.chosen.tables, source_choice.before_test(FEED, SCORES)
    lists = []
    for user, each in enumerate(at.known):
        nearest = np.argsort(-SCORES[user], kind="stable")
        without = replace(tables, weights=np.zeros_like(tables.weights))
        quotas = replace(tables.quotas, item_to_item=0)
        lists.append(
            sources.gather(
                nearest, each.items, without,
                limit=LIMIT, quotas=quotas, seen=at.seen[user], visible=CATALOGUE.visible,
            )
        )  # fmt: skip
    recall = source_choice.found(iter(lists), at.targets).mean()
    contribution = next(s for s in study.sources if s.name == "item_to_item").contribution
    assert contribution.value == pytest.approx(study.merged.value - recall)
    assert contribution.value > 0
