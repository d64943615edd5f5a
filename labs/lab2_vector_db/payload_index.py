"""Which rows match a filter, without looking at every row: one sorted order a field.

The rows that have a value, sorted by it, take 4 bytes each. The matching rows of any comparison
are one stretch of that order (several for ``In``), found by bisection; for keywords and bools,
whose values are codes, the stretch of one code is what a search engine calls a posting list.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from labs.lab2_vector_db.filters import (
    And,
    Eq,
    Exists,
    Filter,
    In,
    Not,
    Or,
    Range,
    check,
)
from labs.lab2_vector_db.payload import Column, PayloadColumns

Mask = NDArray[np.bool_]
Stretches = tuple[NDArray[np.int64], NDArray[np.int64]]  # starts and ends within the order


class PayloadIndex:
    """Answers filters over the columns. A field's order is made when a filter first asks for it.

    Parameters
    ----------
    columns
        The payload of n rows, which must not change.
    """

    def __init__(self, columns: PayloadColumns) -> None:
        self.columns = columns
        self._orders: dict[str, NDArray[np.int32]] = {}

    def __len__(self) -> int:
        return len(self.columns)

    @property
    def nbytes(self) -> int:
        """Bytes of the orders made so far: 4 a row that has a value, for each field."""
        return sum(order.nbytes for order in self._orders.values())

    def prepare(self) -> None:
        """Make all orders now, so that no query has to wait for one."""
        for name in self.columns.columns:
            self._order(name)

    def matching(self, condition: Filter) -> Mask:
        """Which rows match.

        Returns
        -------
        bool array of shape [n]
            The caller's own.

        Raises
        ------
        InputError
            When the filter does not fit the schema.
        """
        check(condition, self.columns.fields)
        return self._mask(condition)

    def count_bounds(self, condition: Filter) -> tuple[int, int]:
        """The least and the most rows that can match, from the counts of single comparisons.

        Exact for one comparison. For clauses with counts in [l_i, u_i] (Fréchet's inequalities)

            And: max(0, sum l_i - (c - 1) n) .. min u_i        Or: max l_i .. min(n, sum u_i)

        Raises
        ------
        InputError
            When the filter does not fit the schema.
        """
        check(condition, self.columns.fields)
        return self._bounds(condition)

    def _bounds(self, condition: Filter) -> tuple[int, int]:
        n = len(self)
        if isinstance(condition, Not):
            least, most = self._bounds(condition.clause)
            return n - most, n - least
        if isinstance(condition, And | Or):
            least_of, most_of = zip(*map(self._bounds, condition.clauses))
            if isinstance(condition, And):
                return max(0, sum(least_of) - (len(least_of) - 1) * n), min(most_of)
            return max(least_of), min(n, sum(most_of))
        if isinstance(condition, Exists):
            found = len(self._order(condition.field))
        else:
            starts, ends = self._stretches(condition)
            found = int((ends - starts).sum())
        return found, found

    def _mask(self, condition: Filter) -> Mask:
        match condition:
            case Not(clause):
                mask = self._mask(clause)
                return np.logical_not(mask, out=mask)
            case And(clauses):
                first, *rest = sorted(clauses, key=lambda clause: self._bounds(clause)[1])
                mask = self._mask(first)
                for clause in rest:
                    if not mask.any():
                        break
                    mask &= self._mask(clause)
                return mask
            case Or(clauses):
                mask = self._mask(clauses[0])
                for clause in clauses[1:]:
                    mask |= self._mask(clause)
                return mask
            case Exists(field):
                return np.array(self.columns.columns[field].valid)
            case _:
                return self._compare(condition)

    def _compare(self, leaf: Any) -> Mask:
        """The rows of the leaf's stretches; by way of the others where those are fewer."""
        starts, ends = self._stretches(leaf)
        order = self._order(leaf.field)
        inside = 2 * int((ends - starts).sum()) <= len(order)
        if inside:
            mask = np.zeros(len(self), np.bool_)
        else:
            mask = np.array(self.columns.columns[leaf.field].valid)
            starts, ends = np.append(0, ends), np.append(starts, len(order))
        for start, end in zip(starts.tolist(), ends.tolist()):
            mask[order[start:end]] = inside
        return mask

    def _order(self, field: str) -> NDArray[np.int32]:
        if field not in self._orders:
            column = self.columns.columns[field]
            rows = np.flatnonzero(column.valid).astype(np.int32)
            order = rows[np.argsort(column.values[rows], kind="stable")]
            self._orders[field] = order
        return self._orders[field]

    def _stretches(self, leaf: Any) -> Stretches:
        column, order = self.columns.columns[leaf.field], self._order(leaf.field)
        if isinstance(leaf, Range):
            low = leaf.gt if leaf.gt is not None else leaf.gte
            high = leaf.lt if leaf.lt is not None else leaf.lte
            start, end = np.array([0]), np.array([len(order)])
            if low is not None:
                start = _position(column, order, [low], behind=leaf.gt is not None)
            if high is not None:
                end = _position(column, order, [high], behind=leaf.lte is not None)
            return start, np.maximum(start, end)
        values: tuple[Any, ...] = (leaf.value,) if isinstance(leaf, Eq) else leaf.values
        assert isinstance(leaf, Eq | In)
        if column.words is not None:
            values = tuple(code for value in values if (code := column.words.code(value)) >= 0)
        distinct = sorted(set(values))
        starts = _position(column, order, distinct, behind=False)
        ends = _position(column, order, distinct, behind=True)
        apart = starts[1:] > ends[:-1]  # neighbouring values are one stretch
        first = np.append(starts[:1] >= 0, apart)
        last = np.append(apart, ends[:1] >= 0)
        return starts[first], ends[last]


def _position(
    column: Column, order: NDArray[np.int32], values: list[Any], *, behind: bool
) -> NDArray[np.int64]:
    """How many rows of the order have a smaller value (``behind``: or an equal one).

    As ``np.searchsorted(column.values, values, sorter=order)``, which would first copy the whole
    order as int64.
    """
    wanted = np.array(values, column.values.dtype)
    low = np.zeros(len(wanted), np.int64)
    high = np.full(len(wanted), len(order), np.int64)
    while (open_ := low < high).any():
        middle = (low + high) // 2
        found = column.values[order[np.minimum(middle, len(order) - 1)]]
        below = (found <= wanted if behind else found < wanted) & open_
        low = np.where(below, middle + 1, low)
        high = np.where(below | ~open_, high, middle)
    return low
