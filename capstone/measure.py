"""Measurements on trained models: scores in batches, AUC, ratios with paired intervals."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnxruntime as ort
import torch
from numpy.typing import NDArray

from capstone.data import Feed, Ints, RankingSet, Sequence, histories
from capstone.models import EncodeUser, RankCandidates, Ranker, SequenceEncoder
from capstone.offline import Score
from capstone.value import HEADS, Floats
from labs.lab4_model_serving.export import run


@torch.no_grad()
def queries(
    encoder: SequenceEncoder, known: tuple[Sequence, ...], length: int
) -> NDArray[np.float32]:
    """Query vectors of all users from what is known of them [n_users, D]."""
    history, _ = histories(known, length)
    return EncodeUser(encoder)(torch.from_numpy(history)).numpy()


def encoder_scores(encoder: SequenceEncoder, known: tuple[Sequence, ...], length: int) -> Floats:
    """Retrieval scores [n_users, n_items + 1]; padding is column 0."""
    table = encoder.items.weight.detach().numpy()
    return queries(encoder, known, length) @ table.T


def torch_score(ranker: Ranker) -> Score:
    """Score candidates with the PyTorch model."""
    served = RankCandidates(ranker).eval()

    @torch.no_grad()
    def score(history: Ints, ratings: Ints, candidates: Ints) -> dict[str, Floats]:
        inputs = (torch.from_numpy(part) for part in (history, ratings, candidates))
        return {head: p.numpy() for head, p in zip(HEADS, served(*inputs), strict=True)}

    return score


def onnx_score(opened: ort.InferenceSession) -> Score:
    """Score candidates with the ONNX model."""

    def score(history: Ints, ratings: Ints, candidates: Ints) -> dict[str, Floats]:
        outputs = run(opened, {"history": history, "ratings": ratings, "candidates": candidates})
        return {head: outputs[f"p_{head}"] for head in HEADS}

    return score


@torch.no_grad()
def like_scores(ranker: Ranker, feed: Feed, rows: RankingSet, length: int) -> Floats:
    """P(like) of the ranking set, each row from the history that was known then."""
    predicted = np.zeros(len(rows.item))
    score = torch_score(ranker)
    for held_out in np.unique(rows.held_out):
        chosen = rows.held_out == held_out
        known = tuple(feed.sequences[user].before(int(held_out)) for user in rows.user[chosen])
        history, ratings = histories(known, length)
        scores = score(history, ratings, rows.item[chosen][:, None])
        predicted[chosen] = scores["like"][:, 0]
    return predicted


def auc(labels: NDArray[np.bool_], scores: Floats) -> float:
    """Area under the ROC curve: the share of (like, dislike) pairs in the right order."""
    from scipy.stats import rankdata

    positives = int(labels.sum())
    negatives = len(labels) - positives
    above = rankdata(scores)[labels].sum() - positives * (positives + 1) / 2
    return float(above / (positives * negatives))


def auc_difference(
    labels: NDArray[np.bool_], first: Floats, second: Floats, users: Ints, *, n_boot: int, seed: int
) -> tuple[float, tuple[float, float]]:
    """AUC(first) - AUC(second) on the same rows, with a bootstrap interval over users."""
    pairs = [
        auc(labels[rows], first[rows]) - auc(labels[rows], second[rows])
        for rows in _resampled_rows(users, n_boot, seed)
    ]
    low, high = np.quantile(pairs, [0.025, 0.975])
    return auc(labels, first) - auc(labels, second), (float(low), float(high))


def auc_interval(
    labels: NDArray[np.bool_], scores: Floats, users: Ints, *, n_boot: int, seed: int
) -> tuple[float, float]:
    """95 % interval of an AUC. Users are resampled, not rows: the rows of a user go together."""
    values = [auc(labels[rows], scores[rows]) for rows in _resampled_rows(users, n_boot, seed)]
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)


def _resampled_rows(users: Ints, n_boot: int, seed: int) -> Iterator[Ints]:
    """Row numbers of ``n_boot`` resamples of whole users."""
    rng = np.random.default_rng(seed)
    order = np.argsort(users, kind="stable")
    rows_of = np.split(order, np.flatnonzero(np.diff(users[order])) + 1)
    for _ in range(n_boot):
        drawn = rng.integers(0, len(rows_of), len(rows_of))
        yield np.concatenate([rows_of[user] for user in drawn])


def ratio_of_means(
    numerator: Floats, denominator: Floats, *, n_boot: int, seed: int
) -> tuple[float, tuple[float, float]]:
    """mean(numerator) / mean(denominator) of paired values [n], with a bootstrap interval."""
    rng = np.random.default_rng(seed)
    drawn = rng.integers(0, len(numerator), (n_boot, len(numerator)))
    ratios = numerator[drawn].mean(axis=1) / denominator[drawn].mean(axis=1)
    low, high = np.quantile(ratios, [0.025, 0.975])
    return float(numerator.mean() / denominator.mean()), (float(low), float(high))


def parameters(model: torch.nn.Module) -> int:
    """Number of trained parameters."""
    return sum(parameter.numel() for parameter in model.parameters())


def batch_dependence(score: Score, history: Ints, ratings: Ints, candidates: Ints) -> float:
    """Largest change of any probability between scoring users alone and all together."""
    together = score(history, ratings, candidates)
    worst = 0.0
    for row in range(len(history)):
        one = slice(row, row + 1)
        alone = score(history[one], ratings[one], candidates[one])
        for head, single in alone.items():
            worst = max(worst, float(np.abs(together[head][one] - single).max()))
    return worst
