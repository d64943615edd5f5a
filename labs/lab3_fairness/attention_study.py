"""Where does attention mislead? Beside ablation, under permutation, and trained to look away."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linprog
from scipy.special import expit

from common.errors import require
from common.statistics import bootstrap_ci
from labs.lab3_fairness.attention import (
    ColumnTransformer,
    Training,
    as_predict,
    as_tensor,
    attention_rollout,
    fit_transformer,
    gradient_times_token,
    integrated_gradients,
    looks_away,
    raw_attention,
    value_weighted_attention,
)
from labs.lab3_fairness.attribution import ColumnCodes, Matrix, Predict, Vector, top_columns
from labs.lab3_fairness.faithfulness import (
    largest_first,
    outputs_without,
    removal_curve,
    row_rank_correlation,
)
from labs.lab3_fairness.shapley import permutation_shapley
from labs.lab3_fairness.tabular import Task

Interval = tuple[float, float]


def ablation(f: Predict, rows: Matrix, background: Matrix) -> Matrix:
    """Change of the output when one column alone is replaced by background cells, [n, d].

    Output minus the mean output without the column. The judge of this module: it is what "the
    model uses this column here" means, one column at a time.
    """
    n, d = rows.shape
    alone = np.repeat(np.eye(d, dtype=bool)[:, None, :], n, axis=1)
    return np.asarray((f(rows) - outputs_without(f, rows, background, alone)).T)


def permuted_change(
    model: ColumnTransformer, rows: Matrix, *, n: int = 10, seed: int = 0
) -> Vector:
    """Median |change of the probability| when the last layer's attention is shuffled, [rows].

    CLS keeps the weight on itself; the weights on the columns change places, alike in all heads.

    References
    ----------
    Jain, Wallace: Attention is not Explanation, NAACL 2019, section 4.2.1.
    """
    require(n >= 1, "n", n, "must be >= 1", "try 10")
    rng = np.random.default_rng(seed)
    with torch.no_grad():
        tokens = model.tokens(as_tensor(model, rows))
        trace = model.trace(tokens)
        own = torch.sigmoid(trace.logits)
        changes = []
        for _ in range(n):
            order = rng.permuted(np.tile(np.arange(rows.shape[1]), (len(rows), 1)), axis=1) + 1
            place = torch.tensor(order, device=tokens.device)[:, None].expand(
                -1, trace.attention[-1].shape[1], -1
            )
            weights = trace.attention[-1].clone()
            weights[:, :, 0, 1:] = weights[:, :, 0].gather(2, place)
            changed = torch.sigmoid(model.trace(tokens, weights).logits)
            changes.append((changed - own).abs().cpu().numpy())
    return np.asarray(np.median(changes, axis=0), dtype=np.float64)


def other_attention(weights: Vector, values: Matrix) -> Vector:
    r"""Another attention of the same output that looks least at what this one looks at most.

    .. math:: \min_{a'} a'_j \ \text{ with } \ a' V = a V, \quad \sum a' = 1, \quad a' \ge 0

    A linear programme. With more tokens than a head has dimensions there are directions in which
    the attention can move and the output cannot.

    Parameters
    ----------
    weights : array of shape [t]
        Attention of one head, with sum 1.
    values : array of shape [t, k]
        What each token hands over.

    References
    ----------
    Brunner et al.: On Identifiability in Transformers, ICLR 2020, section 3 (the null space).
    """
    goal = np.zeros(len(weights))
    goal[np.argmax(weights)] = 1.0
    # Scaled so that the solver's absolute tolerance is relative to the values.
    scaled = values / max(float(np.abs(values).max()), 1e-12)
    equal = np.vstack([scaled.T, np.ones(len(weights))])
    found = linprog(goal, A_eq=equal, b_eq=equal @ weights, bounds=(0, 1))
    return np.asarray(found.x if found.success else weights, dtype=np.float64)


@dataclass(frozen=True)
class OtherAttention:
    """Attention replaced by another one of the same output, row by row.

    ``top_before`` and ``top_after`` are the weights [n], mean over heads, that each head gave and
    gives the token it looked at most; ``moved`` the total variation distance between the two
    attentions, mean over heads, [n]; ``change`` the |change of the logit|, [n].
    """

    top_before: Vector
    top_after: Vector
    moved: Vector
    change: Vector


def replace_attention(model: ColumnTransformer, rows: Matrix) -> OtherAttention:
    """:func:`other_attention` for CLS in every head of the last layer, put into the model.

    References
    ----------
    Jain, Wallace, 2019, section 4.2.2 search for such attention by gradient steps; with the values
    fixed it is a linear programme for each head.
    """
    with torch.no_grad():
        tokens = model.tokens(as_tensor(model, rows))
        trace = model.trace(tokens)
        handed = model.stack()[-1].values(trace.last_input).cpu().numpy().astype(float)
        own = trace.attention[-1][:, :, 0].cpu().numpy().astype(float)
        new = np.array(
            [[other_attention(a, v) for a, v in zip(*each)] for each in zip(own, handed)]
        )
        weights = trace.attention[-1].clone()
        weights[:, :, 0] = as_tensor(model, new)
        change = (model.trace(tokens, weights).logits - trace.logits).abs().cpu().numpy()
    top = own.argmax(axis=2)[..., None]
    before, after = (np.take_along_axis(a, top, axis=2).mean(axis=(1, 2)) for a in (own, new))
    moved = np.abs(own - new).sum(axis=2).mean(axis=1) / 2
    return OtherAttention(before, after, moved, change.astype(float))


@dataclass(frozen=True)
class AttentionScore:
    """How well a method names what ablation finds.

    ``rank_correlation`` is Spearman's within a row, mean over rows; ``top`` the share of rows in
    which both name the same first column; ``deletion`` the deletion area in log-odds on
    the first rows. ``rows`` are the correlations [n], ``profile`` the mean share of each column
    in |scores|, [d].
    """

    method: str
    rank_correlation: float
    rank_correlation_ci95: Interval
    top: float
    top_ci95: Interval
    deletion: float
    rows: Vector
    profile: Vector


@dataclass(frozen=True)
class AttentionStudy:
    """Attention and its rivals on one transformer, n rows.

    ``permuted`` is :func:`permuted_change` and ``removed`` the |change of the probability| when
    ablation's first column is replaced, [n]: what a change looks like when it matters.
    ``judge_profile`` [d] is the mean share of each column in |ablation|.
    """

    columns: tuple[str, ...]
    accuracy: float
    scores: tuple[AttentionScore, ...]
    judge_profile: Vector
    permuted: Vector
    removed: Vector
    other: OtherAttention
    n: int

    def score(self, method: str) -> AttentionScore:
        """The score of one method."""
        return next(score for score in self.scores if score.method == method)

    def difference(self, first: str, second: str) -> tuple[float, Interval]:
        """Mean paired difference of rank correlations with its interval."""
        paired = self.score(first).rows - self.score(second).rows
        return float(np.nanmean(paired)), bootstrap_ci(paired[~np.isnan(paired)])


def study_attention(
    train: Task,
    test: Task,
    *,
    n_train: int | None = None,
    n_rows: int = 150,
    n_background: int = 20,
    n_deleted: int = 40,
    n_programmes: int = 40,
    training: Training | None = None,
    seed: int = 0,
) -> AttentionStudy:
    """Train the transformer, and compare attention with ablation on test rows.

    Parameters
    ----------
    train, test
        Of Adult.
    n_train
        Training rows used, None for all.
    n_rows, n_background
        Test rows explained; training rows that replace cells.
    n_deleted
        Rows whose columns are deleted one after the other, as a second judge.
    n_programmes
        Rows whose attention is replaced by linear programmes.
    training
        Of the transformer.
    seed
        Of everything random.
    """
    require(20 <= n_rows <= len(test), "n_rows", n_rows, f"must be 20 to {len(test)}", "try 200")
    codes = ColumnCodes.of(train.features, test.features)
    sizes = [len(codes.categories.get(name, ())) for name in codes.columns]
    rng = np.random.default_rng(seed)
    x, held_out = codes.encode(train.features), codes.encode(test.features)
    used = rng.permutation(len(x))[:n_train]
    model = fit_transformer(x[used], train.labels[used], sizes, training, seed=seed)
    f = as_predict(model)
    rows = held_out[rng.choice(len(held_out), n_rows, replace=False)]
    background = x[rng.choice(len(x), n_background, replace=False)]

    judge = ablation(f, rows, background)
    size = np.abs(judge)
    methods = {
        "attention, last layer": raw_attention(model, rows),
        "attention rollout": attention_rollout(model, rows),
        "value-weighted attention": value_weighted_attention(model, rows),
        "gradient x token": gradient_times_token(model, rows),
        "gradient x difference": gradient_times_token(model, rows, background),
        "integrated gradients": integrated_gradients(model, rows, background),
        "Shapley": permutation_shapley(f, rows, background, n_permutations=1, seed=seed).values,
        "one ranking for all": (size.sum(axis=0) - size) / (n_rows - 1),
        "random": rng.random(rows.shape),
    }
    first = top_columns(size, 1)[:, 0]
    without = np.zeros(rows.shape, dtype=bool)
    without[np.arange(n_rows), first] = True

    def probability(z: Matrix) -> Vector:
        return np.asarray(expit(f(z)))

    removed = np.abs(probability(rows) - outputs_without(probability, rows, background, without))
    return AttentionStudy(
        columns=codes.columns,
        accuracy=float(np.mean((f(held_out) > 0) == test.labels)),
        scores=tuple(
            _score(name, values, judge, f, rows[:n_deleted], background)
            for name, values in methods.items()
        ),
        judge_profile=_profile(judge),
        permuted=permuted_change(model, rows, seed=seed),
        removed=removed,
        other=replace_attention(model, rows[:n_programmes]),
        n=n_rows,
    )


def _score(
    name: str, values: Matrix, judge: Matrix, f: Predict, rows: Matrix, background: Matrix
) -> AttentionScore:
    """``rows`` are the first of those that values and judge are of: deletion is dear."""
    order = largest_first(values)
    correlation = row_rank_correlation(values, judge)
    known = correlation[~np.isnan(correlation)]
    deleted = removal_curve(f, rows, background, order[: len(rows)])
    same = (order[:, 0] == top_columns(judge, 1)[:, 0]).astype(float)
    return AttentionScore(
        method=name,
        rank_correlation=float(known.mean()),
        rank_correlation_ci95=bootstrap_ci(known),
        top=float(same.mean()),
        top_ci95=bootstrap_ci(same),
        deletion=float(np.abs(deleted - deleted[:, :1])[:, 1:-1].mean()),
        rows=correlation,
        profile=_profile(values),
    )


def _profile(values: Matrix) -> Vector:
    size = np.abs(values)
    return np.asarray(size.mean(axis=0) / size.mean(axis=0).sum())


@dataclass(frozen=True)
class PlantedAttention:
    """A decision by one column, ``group``, and what each method says of it.

    ``shares`` maps a method to the mean share [d] of each column in its |scores|; the right answer
    is 1 for ``group`` and 0 elsewhere. ``attention`` [d] are the plain last-layer weights.
    """

    columns: tuple[str, ...]
    accuracy: float
    attention: Vector
    shares: dict[str, Vector]


PLANTED = ("group", "noise 1", "noise 2", "noise 3", "category", "constant")


def planted_rows(n: int, seed: int = 0) -> tuple[Matrix, NDArray[np.int64]]:
    """Coded rows [n, 6] in the columns ``PLANTED`` and labels equal to the first column."""
    rng = np.random.default_rng(seed)
    group = rng.integers(0, 2, n)
    rows = [group, *rng.normal(size=(3, n)), rng.integers(0, 3, n), np.zeros(n)]
    return np.column_stack(rows).astype(float), group.astype(np.int64)


def planted_attention(
    strength: float, *, n: int = 4000, epochs: int = 6, seed: int = 0
) -> PlantedAttention:
    """Train on labels that are the group, with a penalty on attention to the group.

    Parameters
    ----------
    strength
        Of :func:`labs.lab3_fairness.attention.looks_away`; 0 leaves attention alone.
    n, epochs
        Rows and passes.
    seed
        Of rows and model.
    """
    require(strength >= 0, "strength", strength, "must be >= 0", "try 0.3")
    rows, labels = planted_rows(n, seed)
    model = fit_transformer(
        rows,
        labels,
        (2, 0, 0, 0, 3, 1),
        Training(epochs=epochs, batch=256, width=16, heads=2),
        penalty=looks_away(0, strength) if strength else None,
        seed=seed,
    )
    f = as_predict(model)
    fresh, truth = planted_rows(1000, seed + 1)
    shown, background = fresh[:200], rows[:50]
    attention = raw_attention(model, shown)
    return PlantedAttention(
        columns=PLANTED,
        accuracy=float(np.mean((f(fresh) > 0) == truth)),
        attention=attention.mean(axis=0),
        shares={
            "attention, last layer": _profile(attention),
            "attention rollout": _profile(attention_rollout(model, shown)),
            "value-weighted attention": _profile(value_weighted_attention(model, shown)),
            "integrated gradients": _profile(integrated_gradients(model, shown, background)),
            "ablation": _profile(ablation(f, shown, background)),
        },
    )
