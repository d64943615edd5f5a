"""Quality of one ranker in the whole system: one pass over the users, everything a gate reads.

The exam is the newest interaction of every user (``held_out=1``). What was *chosen* for a model
(weights, calibration, options) was chosen on the one before it, so no choice has seen the exam.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from capstone import calibration, measure
from capstone.calibration import Platt
from capstone.data import LIKE_FROM, Feed, Ints, histories
from capstone.offline import Score
from capstone.rank_metrics import list_ndcg
from capstone.value import ENGAGE, REACTIONS, Floats, ValueWeights
from common.errors import require

EXAM, VALIDATION = 1, 2
"""How many interactions from the end the question is: the newest, or the one before it."""
TOP = 10
LOVE_FROM, DISLIKE_TO = 5, 2


def reaction_outcomes(ratings: Ints) -> dict[str, NDArray[np.bool_]]:
    """What each reaction's head predicts, of ratings [n]: like >= 4, love = 5, dislike <= 2."""
    return {
        "like": ratings >= LIKE_FROM,
        "love": ratings >= LOVE_FROM,
        "dislike": ratings <= DISLIKE_TO,
    }


@dataclass(frozen=True)
class Answers:
    """What a ranker says about every user's candidates and held-out item.

    Attributes
    ----------
    candidates : [n_users, C]
    scores : head to [n_users, C]
    held_out : head to [n_users]
        The same heads for the item that came next, retrieved or not.
    target, ratings : [n_users]
        That item and its rating.
    """

    candidates: Ints
    scores: dict[str, Floats]
    held_out: dict[str, Floats]
    target: Ints
    ratings: Ints

    @property
    def finite(self) -> bool:
        parts = [*self.scores.values(), *self.held_out.values()]
        return all(bool(np.isfinite(part).all()) for part in parts)


def ask(
    score: Score, feed: Feed, candidates: Ints, *, length: int, held_out: int, batch: int = 128
) -> Answers:
    """Score every user's candidates, and the held-out item, from what was known before it.

    Parameters
    ----------
    candidates : [n_users, C]
        What retrieval gives for the same history.
    held_out
        :data:`EXAM` or :data:`VALIDATION`.
    batch
        Users a call. A dynamic INT8 model must be asked as it is served: one at a time.
    """
    require(held_out in (EXAM, VALIDATION), "held_out", held_out, "must be 1 or 2")
    known = tuple(sequence.before(held_out) for sequence in feed.sequences)
    history, ratings = histories(known, length)
    target = np.array([sequence.items[-held_out] for sequence in feed.sequences])
    given = np.array([sequence.ratings[-held_out] for sequence in feed.sequences])
    # Candidates are isolated, so the held-out item can be asked for beside them.
    asked = np.concatenate([candidates, target[:, None]], axis=1)
    parts = [
        score(history[at : at + batch], ratings[at : at + batch], asked[at : at + batch])
        for at in range(0, len(asked), batch)
    ]
    whole = {head: np.concatenate([part[head] for part in parts]) for head in parts[0]}
    return Answers(
        candidates,
        {head: p[:, :-1] for head, p in whole.items()},
        {head: p[:, -1] for head, p in whole.items()},
        target,
        given,
    )


def fit_calibration(validation: Answers) -> dict[str, Platt]:
    """A Platt map for each head, from validation rows.

    The reactions get one fitted on the held-out items' ratings. ``engage`` stays as it is: a
    softmax over the catalogue sums to 1, and a map of each probability by itself would undo that.
    Its calibration is checked all the same (:attr:`Quality.engage_log_ratio`).
    """
    outcomes = reaction_outcomes(validation.ratings)
    maps = {
        head: calibration.fit_platt(validation.held_out[head], outcomes[head]) for head in REACTIONS
    }
    return {ENGAGE: Platt(), **maps}


@dataclass(frozen=True)
class Quality:
    """One ranker at the exam, as served: calibrated heads, weights, the first ten items.

    Attributes
    ----------
    feeds : [n_users, 10]
    ndcg : [n_users]
        NDCG@10 of the feed; 0 where retrieval missed the item.
    p_like, liked : [n_users]
        Of the held-out item: calibrated P(like), and whether it was liked.
    auc : of ``p_like``
    ece : head to expected calibration error after the map, for the reactions
    engage_log_ratio
        ``|log(expected / observed)|`` hits among the ten items of largest P(engage): the sum of
        their probabilities against the number of held-out items among them.
    tied_share
        Share of a user's candidates whose value another one has too, mean over users. Ties keep
        the order of retrieval, so a ranker that says nothing looks as good as retrieval is.
    """

    feeds: Ints
    ndcg: Floats
    p_like: Floats
    liked: NDArray[np.bool_]
    auc: float
    ece: dict[str, float]
    engage_log_ratio: float
    tied_share: float

    def metrics(self, reference: Quality | None = None) -> dict[str, float]:
        """What the gates read; ``overlap_at_10`` is with the reference's feeds (itself if None)."""
        return {
            "ndcg_at_10": float(self.ndcg.mean()),
            "auc": self.auc,
            "ece": max(self.ece.values()) if self.ece else float("nan"),
            "engage_log_ratio": self.engage_log_ratio,
            "tied_share": self.tied_share,
            "overlap_at_10": float(overlap(self.feeds, (reference or self).feeds).mean()),
        }


def judge_answers(answers: Answers, weights: ValueWeights, maps: Mapping[str, Platt]) -> Quality:
    """The quality of a ranker's answers; every figure is NaN when one of its scores is not finite.

    A ranker that answers NaN has no order: ``argsort`` would put its items anywhere, and a figure
    computed from that looks like one.
    """
    n = len(answers.target)
    if not answers.finite:
        nothing = np.full(n, np.nan)
        liked = reaction_outcomes(answers.ratings)["like"]
        feeds = np.zeros((n, TOP), dtype=np.int64)
        nans = dict.fromkeys(REACTIONS, float("nan"))
        nan = float("nan")
        return Quality(feeds, nothing, nothing, liked, nan, nans, nan, nan)
    scores = calibration.calibrated(maps, answers.scores)
    value = weights.value(scores)
    feeds = _first(answers.candidates, value)
    outcomes = reaction_outcomes(answers.ratings)
    held_out = calibration.calibrated(maps, answers.held_out)
    likely = np.argsort(-scores[ENGAGE], axis=1, kind="stable")[:, :TOP]
    expected = float(np.take_along_axis(scores[ENGAGE], likely, axis=1).sum())
    picked = np.take_along_axis(answers.candidates, likely, axis=1)
    observed = int((picked == answers.target[:, None]).sum())
    return Quality(
        feeds,
        list_ndcg(feeds, answers.target),
        held_out["like"],
        outcomes["like"],
        measure.auc(outcomes["like"], held_out["like"]),
        {
            head: calibration.expected_calibration_error(held_out[head], outcomes[head])
            for head in REACTIONS
        },
        abs(float(np.log(expected / observed))) if observed and expected > 0 else float("inf"),
        float(tied(value).mean()),
    )


@dataclass(frozen=True)
class Exam:
    """A ranker's answers on the validation items and at the exam, and what follows from them."""

    validation: Answers
    test: Answers
    maps: Mapping[str, Platt]
    """Fitted on ``validation``."""
    quality: Quality
    """Of ``test``."""

    def values(self, weights: ValueWeights) -> tuple[Floats, Floats]:
        """Value of every candidate of validation and test [n_users, C] each."""
        first, second = (
            weights.value(calibration.calibrated(self.maps, answers.scores))
            for answers in (self.validation, self.test)
        )
        return first, second


def examine(
    score: Score,
    feed: Feed,
    validation: Ints,
    test: Ints,
    weights: ValueWeights,
    *,
    length: int,
    batch: int,
) -> Exam:
    """Calibrate a ranker on the validation items, then judge it at the exam.

    Parameters
    ----------
    validation, test : [n_users, C]
        Candidates of either question.
    batch
        As of :func:`ask`.
    """
    before, at = (
        ask(score, feed, candidates, length=length, held_out=held_out, batch=batch)
        for candidates, held_out in ((validation, VALIDATION), (test, EXAM))
    )
    maps = fit_calibration(before)
    return Exam(before, at, maps, judge_answers(at, weights, maps))


def tied(value: Floats) -> Floats:
    """Share of each row's values [n, C] that stand there more than once: [n]."""
    ordered = np.sort(value, axis=1)
    same = np.diff(ordered, axis=1) == 0
    edge = np.zeros((len(value), 1), dtype=bool)
    return np.asarray((np.hstack([same, edge]) | np.hstack([edge, same])).mean(axis=1))


def overlap(first: Ints, second: Ints) -> Floats:
    """Share of the first lists' items [n, k] that the second lists [n, k] hold too: [n]."""
    found = (first[:, :, None] == second[:, None, :]).any(axis=2)
    return np.asarray(found.mean(axis=1))


def _first(candidates: Ints, value: Floats) -> Ints:
    order = np.argsort(-value, axis=1, kind="stable")[:, :TOP]
    return np.take_along_axis(candidates, order, axis=1)
