"""Measurements on trained models: scores in batches, AUC, ratios with paired intervals."""

from __future__ import annotations

import numpy as np
import onnxruntime as ort
import torch
from numpy.typing import NDArray

from capstone.data import Feed, Ints, RankingSet, histories
from capstone.models import EncodeUser, RankCandidates, Ranker, SequenceEncoder
from capstone.offline import Floats, Score
from labs.lab4_model_serving.export import run


@torch.no_grad()
def queries(encoder: SequenceEncoder, feed: Feed, length: int) -> NDArray[np.float32]:
    """Query vectors of all users at test time [n_users, D]."""
    history, _ = histories(feed.test_history, length)
    return EncodeUser(encoder)(torch.from_numpy(history)).numpy()


def encoder_scores(encoder: SequenceEncoder, feed: Feed, length: int) -> Floats:
    """Retrieval scores [n_users, n_items + 1]; padding is column 0."""
    table = encoder.items.weight.detach().numpy()
    return queries(encoder, feed, length) @ table.T


def torch_score(ranker: Ranker) -> Score:
    """Score candidates with the PyTorch model."""
    served = RankCandidates(ranker).eval()

    @torch.no_grad()
    def score(history: Ints, ratings: Ints, candidates: Ints) -> tuple[Floats, Floats]:
        inputs = (torch.from_numpy(part) for part in (history, ratings, candidates))
        engage, like = served(*inputs)
        return engage.numpy(), like.numpy()

    return score


def onnx_score(opened: ort.InferenceSession) -> Score:
    """Score candidates with the ONNX model."""

    def score(history: Ints, ratings: Ints, candidates: Ints) -> tuple[Floats, Floats]:
        outputs = run(opened, {"history": history, "ratings": ratings, "candidates": candidates})
        return outputs["p_engage"], outputs["p_like"]

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
        _, like = score(history, ratings, rows.item[chosen][:, None])
        predicted[chosen] = like[:, 0]
    return predicted


def auc(labels: NDArray[np.bool_], scores: Floats) -> float:
    """Area under the ROC curve."""
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(labels, scores))


def auc_interval(labels: NDArray[np.bool_], scores: Floats) -> tuple[float, float]:
    """95 % interval of an AUC by DeLong's variance (DeLong et al. 1988, Biometrics 44)."""
    from scipy.stats import rankdata

    positive, negative = scores[labels], scores[~labels]
    m, n = len(positive), len(negative)
    every = rankdata(np.concatenate([positive, negative]))
    above = (every[:m] - rankdata(positive)) / n
    below = 1 - (every[m:] - rankdata(negative)) / m
    value = above.mean()
    spread = 1.96 * np.sqrt(above.var(ddof=1) / m + below.var(ddof=1) / n)
    return float(value - spread), float(value + spread)


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


def top_agreement(
    first: Score, second: Score, history: Ints, ratings: Ints, candidates: Ints, k: int = 10
) -> Floats:
    """Share of the first model's top k by P(next) that the second has too: [n_users]."""
    overlap = np.zeros(len(history))
    for start in range(0, len(history), 128):
        rows = slice(start, start + 128)
        tops = [
            np.argsort(-score(history[rows], ratings[rows], candidates[rows])[0], axis=1)[:, :k]
            for score in (first, second)
        ]
        overlap[rows] = [
            len(set(a.tolist()) & set(b.tolist())) / k for a, b in zip(*tops, strict=True)
        ]
    return overlap


def batch_dependence(score: Score, history: Ints, ratings: Ints, candidates: Ints) -> float:
    """Largest change of any probability between scoring users alone and all together."""
    together = score(history, ratings, candidates)
    worst = 0.0
    for row in range(len(history)):
        one = slice(row, row + 1)
        alone = score(history[one], ratings[one], candidates[one])
        for whole, single in zip(together, alone, strict=True):
            worst = max(worst, float(np.abs(whole[one] - single).max()))
    return worst
