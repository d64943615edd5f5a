"""Is an explanation true to the model? Take away what it calls important, and see what happens.

A column is taken away by putting background cells in its place and averaging the outputs. What is
called faithful is relative to that choice: another background is another question, and rows mixed
from two people are answered by the model from where it has seen nobody.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from common.errors import InputError, require
from common.exercises import exercise
from labs.lab3_fairness.attribution import Matrix, Predict, Vector, checked_rows
from labs.lab3_fairness.shapley import CELLS, coalitions, evaluate

Orders = NDArray[np.intp]
"""[n, d]: the columns of each row, the first to be taken first."""


def outputs_without(
    f: Predict, rows: Matrix, background: Matrix, replaced: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Mean output of each row when some of its cells come from the background.

    Parameters
    ----------
    f
        [m, d] rows to [m] outputs.
    rows, background : arrays of shape [n, d] and [m, d]
    replaced : boolean array of shape [..., n, d]

    Returns
    -------
    float64 array of shape [..., n]
    """
    explained, others = checked_rows(rows, background)
    if replaced.shape[-2:] != explained.shape:
        raise InputError(f"replaced {replaced.shape} must end in the rows' {explained.shape}")
    flat = replaced.reshape(-1, *explained.shape)
    size = max(1, CELLS // (explained.size * len(others)))
    found = [
        evaluate(f, np.where(flat[start : start + size, :, None], others, explained[:, None]))
        for start in range(0, len(flat), size)
    ]
    return np.concatenate(found).mean(axis=-1).reshape(replaced.shape[:-1])


@exercise(
    "3.14",
    points=6,
    title="Infidelity",
    hint="For each set of replaced columns there are two numbers a row: what the credits say the "
    "output loses, and what it loses. Which of the credits take part in the first?",
)
def infidelity(
    f: Predict,
    rows: Matrix,
    values: Matrix,
    replaced: NDArray[np.bool_],
    background: Matrix,
) -> Vector:
    r"""Mean squared difference of what credits promise and what the output loses.

    .. math:: \mathrm{INFD} = E_I\big[(I \cdot \phi - (f(x) - f(x - I)))^2\big]

    I says which columns are replaced. The credits :math:`\phi` are already in units of the
    output, so I is 0 or 1, and :math:`f(x - I)` is the mean output over the background rows that
    lend their cells to those columns. ``outputs_without`` gives it for all sets at once.

    Parameters
    ----------
    f
        [m, d] rows to [m] outputs.
    rows, values : arrays of shape [n, d]
        Rows and their credits.
    replaced : boolean array of shape [s, n, d]
        Sets of columns for each row, True where a cell is replaced.
    background : array of shape [m, d]

    Returns
    -------
    float64 array of shape [n]
        In squared units of the output; 0 when all promises are kept.

    References
    ----------
    Yeh et al.: On the (In)fidelity and Sensitivity of Explanations, NeurIPS 2019, definition 2.1.
    """
    lost = evaluate(f, np.asarray(rows, float)) - outputs_without(f, rows, background, replaced)
    promised = (replaced * values).sum(axis=-1)
    return np.asarray(((promised - lost) ** 2).mean(axis=0))


def random_sets(n_sets: int, shape: tuple[int, int], seed: int = 0) -> NDArray[np.bool_]:
    """Sets of columns [s, n, d]: each column is in with probability 1/2."""
    require(n_sets >= 1, "n_sets", n_sets, "must be >= 1", "try 64")
    return np.random.default_rng(seed).random((n_sets, *shape)) < 0.5


def sets_of_size(
    size: int, n_sets: int, shape: tuple[int, int], seed: int = 0
) -> NDArray[np.bool_]:
    """Random sets of ``size`` columns, [s, n, d]."""
    require(1 <= size < shape[1], "size", size, f"must be from 1 to {shape[1] - 1}")
    return np.random.default_rng(seed).random((n_sets, *shape)).argsort(axis=-1) < size


def sensitivity_n(
    f: Predict, rows: Matrix, values: Matrix, replaced: NDArray[np.bool_], background: Matrix
) -> Vector:
    """Pearson correlation of promise and loss over the sets, for each row: scale is forgiven.

    Parameters
    ----------
    f, rows, values, replaced, background
        As for :func:`infidelity`; the sets are those of :func:`sets_of_size`.

    Returns
    -------
    float64 array of shape [n]
        NaN where promises or losses are all alike.

    References
    ----------
    Ancona et al.: Towards better understanding of gradient-based attribution methods, ICLR 2018.
    """
    lost = evaluate(f, np.asarray(rows, float)) - outputs_without(f, rows, background, replaced)
    promised = (replaced * values).sum(axis=-1)
    a, b = (each - each.mean(axis=0) for each in (promised, lost))
    norm = np.sqrt((a**2).sum(axis=0) * (b**2).sum(axis=0))
    return np.divide((a * b).sum(axis=0), norm, out=np.full(len(rows), np.nan), where=norm > 1e-12)


def largest_first(values: Matrix, seed: int = 0) -> Orders:
    """Columns by absolute credit, largest first, ties at random: [n, d].

    Ties in the order of the columns would score an explanation of zeros by the table's layout.
    """
    luck = np.random.default_rng(seed).random(values.shape)
    return np.lexsort((luck, -np.abs(values)), axis=-1)


def removal_curve(f: Predict, rows: Matrix, background: Matrix, order: Orders) -> Matrix:
    """Mean output after 0, 1, ..., d columns are replaced in the given order, [n, d + 1]."""
    d = rows.shape[1]
    place = np.argsort(order, axis=1)
    replaced = place < np.arange(d + 1)[:, None, None]
    return np.asarray(outputs_without(f, rows, background, replaced).T)


@dataclass(frozen=True)
class Curves:
    """Outputs [n, d + 1] while columns are taken away, and while they are put back.

    ``deletion`` starts at the row's output, ``insertion`` at the background's; k columns are
    deleted or inserted at place k.
    """

    deletion: Matrix
    insertion: Matrix

    @property
    def deletion_area(self) -> Vector:
        """Mean |change of the output| over 1 to d - 1 deleted columns, [n]; more is better."""
        return np.asarray(np.abs(self.deletion - self.deletion[:, :1])[:, 1:-1].mean(axis=1))

    @property
    def insertion_area(self) -> Vector:
        """Mean |distance to the output| over 1 to d - 1 inserted columns, [n]; less is better."""
        return np.asarray(np.abs(self.insertion - self.insertion[:, -1:])[:, 1:-1].mean(axis=1))


def curves(f: Predict, rows: Matrix, background: Matrix, order: Orders) -> Curves:
    """Delete, and insert, the columns in one order.

    Parameters
    ----------
    f
        [m, d] rows to [m] outputs.
    rows, background : arrays of shape [n, d] and [m, d]
    order : integer array of shape [n, d]
        As from :func:`largest_first`.

    References
    ----------
    Petsiuk, Das, Saenko: RISE, BMVC 2018 (deletion and insertion). Samek et al.: Evaluating the
    Visualization of What a Deep Neural Network Has Learned, 2017 (area over the curve, and random
    orders as the null).
    """
    require(rows.shape[1] >= 2, "columns", rows.shape[1], "must be >= 2 to have an order")
    # Inserting the first k is deleting the others, which are the first d - k of the reversed order.
    reverse = removal_curve(f, rows, background, order[:, ::-1])
    return Curves(removal_curve(f, rows, background, order), reverse[:, ::-1])


@dataclass(frozen=True)
class RandomOrders:
    """What random orders get: ``area`` [B] averaged over the rows, ``change`` [B, d + 1] by place.

    One null for deletion and insertion: both look at the distance to the row's output while only
    some of its cells are there, and a random set does not know which of the two it belongs to.
    """

    area: NDArray[np.float64]
    change: Matrix


def random_orders(
    f: Predict, rows: Matrix, background: Matrix, *, n_orders: int = 20, seed: int = 0
) -> RandomOrders:
    """The null: every row draws its own order, B times over.

    Its spread is that of the orders; the rows stay the same.
    """
    require(n_orders >= 2, "n_orders", n_orders, "must be >= 2 to have a spread", "try 20")
    rng = np.random.default_rng(seed)
    columns = np.tile(np.arange(rows.shape[1]), (len(rows), 1))
    change = []
    for _ in range(n_orders):
        curve = removal_curve(f, rows, background, rng.permuted(columns, axis=1))
        change.append(np.abs(curve - curve[:, :1]).mean(axis=0))
    return RandomOrders(np.stack(change)[:, 1:-1].mean(axis=1), np.stack(change))


@dataclass(frozen=True)
class BestOrders:
    """Limits of the two areas, [n] each.

    ``deletion`` is the largest deletion area that an order has, ``insertion`` the smallest
    insertion area, perhaps of another order; ``mean`` the mean over all d! orders, of either.
    """

    deletion: Vector
    insertion: Vector
    mean: Vector


def best_orders(f: Predict, rows: Matrix, background: Matrix) -> BestOrders:
    """Enumerate 2^d sets in place of d! orders: the curve at k depends on the set alone.

    The best way from all columns to none is the longest path in a graph whose edges take one
    column away. d at most 14; costs 2^d m outputs a row.
    """
    explained, _ = checked_rows(rows, background)
    n, d = explained.shape
    require(d >= 2, "columns", d, "must be >= 2 to have an order")
    inside = coalitions(d)
    kept = np.repeat(inside[:, None, :], n, axis=1)
    distance = np.abs(evaluate(f, explained) - outputs_without(f, explained, background, ~kept))
    size = inside.sum(axis=1)
    distance[size % d == 0] = 0.0  # all or nothing: the same for every order
    # In both curves the sets kept are nested, so one walk through the graph serves both.
    largest, smallest = distance.copy(), distance.copy()
    for c in range(1, 2**d):
        smaller = c - 2 ** np.flatnonzero(inside[c])
        largest[c] += largest[smaller].max(axis=0)
        smallest[c] += smallest[smaller].min(axis=0)
    mean = np.mean([distance[size == k].mean(axis=0) for k in range(1, d)], axis=0)
    return BestOrders(largest[-1] / (d - 1), smallest[-1] / (d - 1), mean)


def max_sensitivity(
    explain: Callable[[Matrix], Matrix], rows: Matrix, perturbed: NDArray[np.float64]
) -> Vector:
    """The largest relative change of an explanation under small changes of the row.

    Parameters
    ----------
    explain
        [n, d] rows to [n, d] credits.
    rows : array of shape [n, d]
    perturbed : array of shape [s, n, d]
        Neighbours of each row.

    Returns
    -------
    float64 array of shape [n]
        max over s of |credits of the neighbour - credits of the row| / |credits of the row|. An
        explanation that ignores the row has 0: it is a test of stability, not of faithfulness.

    References
    ----------
    Yeh et al., 2019, section 3; relative as in captum.
    """
    own = explain(rows)
    change = np.stack([np.linalg.norm(explain(each) - own, axis=1) for each in perturbed])
    size = np.linalg.norm(own, axis=1)
    require(bool((size > 0).all()), "credits of a row", 0.0, "must not all be 0", "leave it out")
    return np.asarray(change.max(axis=0) / size)


def row_rank_correlation(values: Matrix, judge: Matrix) -> Vector:
    """Spearman's correlation of the absolute values within each row, [n].

    NaN for a row in which one of the two has no ranking.
    """
    if values.shape != judge.shape:
        raise InputError(f"values {values.shape} and judge {judge.shape} must be alike")
    ranks = [rankdata(np.abs(each), axis=1) for each in (values, judge)]
    a, b = (each - each.mean(axis=1, keepdims=True) for each in ranks)
    norm = np.sqrt((a**2).sum(axis=1) * (b**2).sum(axis=1))
    return np.divide((a * b).sum(axis=1), norm, out=np.full(len(a), np.nan), where=norm > 0)
