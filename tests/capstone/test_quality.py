"""One exam for every ranker, and rankers that were tampered with fail it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from capstone import quality
from capstone.baselines import ease
from capstone.calibration import Platt
from capstone.data import Feed
from capstone.gates import judge
from capstone.offline import Score, candidates
from capstone.quality import EXAM, VALIDATION, Answers, ask, fit_calibration, judge_answers
from capstone.value import ENGAGE, HEADS, ValueWeights
from common.errors import InputError

LENGTH = 50
WEIGHTS = ValueWeights(1.0, 1.0, 0.0, -0.5)
SHARPNESS = 12.0
"""Makes the sum of the probabilities about the number of hits."""
Calls = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def tables(feed: Feed) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """EASE's item-item weights, and each item's smoothed rate of every reaction, from training."""
    items = np.concatenate([sequence.items for sequence in feed.train])
    ratings = np.concatenate([sequence.ratings for sequence in feed.train])
    count = np.bincount(items, minlength=feed.n_items + 1)
    rates = {
        head: (np.bincount(items, happened, feed.n_items + 1) + 10 * happened.mean()) / (count + 10)
        for head, happened in quality.reaction_outcomes(ratings).items()
    }
    return ease(feed.matrix(feed.train), 500.0).astype(np.float32), rates


@pytest.fixture(scope="module")
def honest(feed: Feed, tables: tuple[np.ndarray, dict[str, np.ndarray]]) -> Score:
    """A ranker that needs no training: softmax of EASE, and reactions by item."""
    weights, rates = tables

    def score(history: np.ndarray, ratings: np.ndarray, items: np.ndarray) -> Calls:
        read = np.zeros((len(history), feed.n_items + 1), dtype=np.float32)
        np.put_along_axis(read, history, 1.0, axis=1)
        logits = SHARPNESS * (read @ weights)
        np.put_along_axis(logits, history, -np.inf, axis=1)
        odds = np.exp(logits - logits.max(axis=1, keepdims=True))
        engage = odds / odds.sum(axis=1, keepdims=True)
        heads = {head: rate[items] for head, rate in rates.items()}
        return {ENGAGE: np.take_along_axis(engage, items, axis=1), **heads}

    return score


@pytest.fixture(scope="module")
def retrieved(feed: Feed, tables: tuple[np.ndarray, dict[str, np.ndarray]]) -> dict[int, Calls]:
    """200 candidates before the validation and before the test item."""
    masked = feed.matrix(feed.train) > 0
    masked[:, 0] = True
    found = {}
    for held_out, known, seen in (
        (VALIDATION, feed.train, masked), (EXAM, feed.test_history, feed.seen)
    ):  # fmt: skip
        scores = feed.matrix(known).astype(np.float32) @ tables[0]
        found[held_out] = candidates(scores, seen, 200)
    return found


@pytest.fixture(scope="module")
def passed(feed: Feed, honest: Score, retrieved: dict[int, np.ndarray]) -> quality.Quality:
    return examine(honest, feed, retrieved)


def examine(score: Score, feed: Feed, retrieved: dict[int, np.ndarray]) -> quality.Quality:
    """Calibrate on validation, judge on the exam."""
    validation, exam = (
        ask(score, feed, retrieved[held_out], length=LENGTH, held_out=held_out)
        for held_out in (VALIDATION, EXAM)
    )
    return judge_answers(exam, WEIGHTS, fit_calibration(validation))


def test_the_honest_ranker_passes_its_own_gates(passed: quality.Quality) -> None:
    """Otherwise a poisoned one that fails would show nothing."""
    verdict = judge(passed.metrics(), passed.metrics())
    assert verdict.passed, verdict.explain()


def backwards(scores: Calls) -> Calls:
    """As if the weight of engagement had the wrong sign."""
    return scores | {ENGAGE: (1 - scores[ENGAGE]) / 1682}


def constant(scores: Calls) -> Calls:
    """Keeps the order of retrieval, which is a good one: neither NDCG nor overlap notices."""
    return {head: np.full_like(p, 0.01) for head, p in scores.items()}


def not_a_number(scores: Calls) -> Calls:
    broken = scores[ENGAGE].copy()
    broken[0, 0] = np.nan
    return scores | {ENGAGE: broken}


def too_sure(scores: Calls) -> Calls:
    """The order is right and every probability is twice too high: only calibration notices."""
    return scores | {ENGAGE: 2 * scores[ENGAGE]}


def likes_backwards(scores: Calls) -> Calls:
    return scores | {"like": 1 - scores["like"]}


@pytest.mark.parametrize(
    ("poison", "caught_by"),
    [
        (backwards, "ndcg"),
        (constant, "ties"),
        (constant, "auc"),
        (not_a_number, "ndcg"),
        (too_sure, "calibration of engage"),
        (likes_backwards, "auc"),
    ],
)
def test_a_poisoned_ranker_fails(
    poison: Callable[[Calls], Calls],
    caught_by: str,
    feed: Feed,
    honest: Score,
    passed: quality.Quality,
    retrieved: dict[int, np.ndarray],
) -> None:
    """Its calibration was fitted when it was healthy, as that of a model that breaks later is."""
    validation, exam = (
        ask(honest, feed, retrieved[held_out], length=LENGTH, held_out=held_out)
        for held_out in (VALIDATION, EXAM)
    )
    poisoned = replace(exam, scores=poison(exam.scores), held_out=spoiled(poison, exam))
    found = judge_answers(poisoned, WEIGHTS, fit_calibration(validation))
    verdict = judge(found.metrics(passed), passed.metrics())
    assert caught_by in verdict.failed, verdict.explain()


def spoiled(poison: Callable[[Calls], Calls], exam: Answers) -> Calls:
    columns = poison({head: p[:, None] for head, p in exam.held_out.items()})
    return {head: p[:, 0] for head, p in columns.items()}


def test_a_shuffled_item_table_fails(
    feed: Feed, honest: Score, passed: quality.Quality, retrieved: dict[int, np.ndarray]
) -> None:
    """The ids of another catalogue: every shape is right, and every item is some other one."""
    other = np.concatenate([[0], np.random.default_rng(0).permutation(feed.n_items) + 1])

    def shuffled(history: np.ndarray, ratings: np.ndarray, items: np.ndarray) -> Calls:
        return honest(history, ratings, other[items])

    exam = ask(shuffled, feed, retrieved[EXAM], length=LENGTH, held_out=EXAM)
    found = judge_answers(exam, WEIGHTS, {head: Platt() for head in HEADS})
    verdict = judge(found.metrics(passed), passed.metrics())
    assert {"ndcg", "auc", "rank agreement"} <= set(verdict.failed), verdict.explain()


def test_another_calibration_fails_and_changes_no_auc(
    feed: Feed, honest: Score, passed: quality.Quality, retrieved: dict[int, np.ndarray]
) -> None:
    """A map rises, so the order of a head stays; the weights then multiply wrong numbers."""
    exam = ask(honest, feed, retrieved[EXAM], length=LENGTH, held_out=EXAM)
    wrong = {head: Platt(1.0, 1.5) if head != ENGAGE else Platt() for head in HEADS}
    found = judge_answers(exam, WEIGHTS, wrong)
    verdict = judge(found.metrics(passed), passed.metrics())
    assert "calibration of the reactions" in verdict.failed, verdict.explain()
    assert found.auc == pytest.approx(passed.auc, abs=1e-9)


def test_the_history_ends_before_the_question(feed: Feed, retrieved: dict[int, np.ndarray]) -> None:
    """A history that holds the answer makes every ranker brilliant."""
    read: list[np.ndarray] = []

    def score(history: np.ndarray, ratings: np.ndarray, items: np.ndarray) -> Calls:
        read.append(history)
        return {head: np.full(items.shape, 0.5) for head in HEADS}

    for held_out in (EXAM, VALIDATION):
        read.clear()
        answers = ask(score, feed, retrieved[held_out], length=LENGTH, held_out=held_out)
        histories = np.concatenate(read)
        newest = np.array([sequence.items[-held_out - 1] for sequence in feed.sequences])
        assert (histories[:, -1] == newest).all()
        assert not (histories == answers.target[:, None]).any()


def test_the_batch_changes_no_answer_of_an_isolated_ranker(
    feed: Feed, honest: Score, retrieved: dict[int, np.ndarray]
) -> None:
    few = replace(feed, sequences=feed.sequences[:20])
    one, many = (
        ask(honest, few, retrieved[EXAM][:20], length=LENGTH, held_out=EXAM, batch=batch)
        for batch in (1, 20)
    )
    for head in HEADS:
        np.testing.assert_allclose(one.scores[head], many.scores[head], rtol=1e-4)


def test_a_tie_is_counted_for_everyone_in_it() -> None:
    value = np.array([[1.0, 2.0, 1.0, 1.0], [1.0, 2.0, 3.0, 4.0], [5.0, 5.0, 5.0, 5.0]])
    assert quality.tied(value).tolist() == [0.75, 0.0, 1.0]


def test_overlap_counts_common_items_in_any_order() -> None:
    first, second = np.array([[1, 2, 3, 4]]), np.array([[4, 3, 9, 8]])
    assert quality.overlap(first, second).tolist() == [0.5]


def test_another_question_is_refused(feed: Feed, honest: Score) -> None:
    with pytest.raises(InputError, match="held_out = 3"):
        ask(honest, feed, np.ones((feed.n_users, 1), np.int64), length=LENGTH, held_out=3)
