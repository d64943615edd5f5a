"""What every explainer here takes and returns: numbers in, one credit a row and column out.

An explainer exchanges cells between rows. That is easiest on a matrix, so the text columns of a
table become codes on the way in and text again before the model sees them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from common.errors import InputError, require

Matrix = NDArray[np.float64]
Vector = NDArray[np.float64]
Predict = Callable[[Matrix], Vector]
"""[m, d] rows to [m] outputs."""


@dataclass(frozen=True)
class Attribution:
    """Credit for each output, shared out among the columns of its row.

    Attributes
    ----------
    columns : tuple of d names
    values : float64 array of shape [n, d]
        In units of the output: probability or log-odds.
    base : float
        The output that nobody gets credit for: the mean over the background.
    outputs : float64 array of shape [n]
        What the model said about each row.
    method : str
    """

    columns: tuple[str, ...]
    values: Matrix
    base: float
    outputs: Vector
    method: str

    def __post_init__(self) -> None:
        shape = (len(self.outputs), len(self.columns))
        if self.values.shape != shape:
            raise InputError(f"values {self.values.shape} must be [rows, columns] = {shape}")
        if not np.isfinite(self.values).all():
            row, column = (int(i) for i in np.argwhere(~np.isfinite(self.values))[0])
            raise InputError(f"values[{row}, {column}] is not finite; mend the {self.method}")

    @property
    def residual(self) -> Vector:
        """Output minus base minus the sum of the credits, [n]; 0 where efficiency holds."""
        return np.asarray(self.outputs - self.base - self.values.sum(axis=1))

    def table(self) -> pd.DataFrame:
        """The values, one column a feature."""
        return pd.DataFrame(self.values, columns=list(self.columns))


def top_columns(values: Matrix, k: int) -> NDArray[np.intp]:
    """The k columns of most absolute credit in each row, most first: [..., d] to [..., k].

    Equal credits keep the order of the columns.
    """
    require(1 <= k <= values.shape[-1], "k", k, f"must be from 1 to {values.shape[-1]} columns")
    return np.argsort(-np.abs(values), axis=-1, kind="stable")[..., :k]


@dataclass(frozen=True)
class ColumnCodes:
    """A table's columns as numbers: text becomes the position in its sorted categories."""

    columns: tuple[str, ...]
    categories: dict[str, pd.Index]

    @classmethod
    def of(cls, *tables: pd.DataFrame) -> ColumnCodes:
        """Learn the categories of every text column from all the tables together."""
        together = pd.concat(tables)
        text = together.select_dtypes(exclude="number").columns
        categories = {name: pd.Index(sorted(together[name].unique())) for name in text}
        return cls(tuple(together.columns), categories)

    def encode(self, table: pd.DataFrame) -> Matrix:
        """[n, d] numbers; InputError for a missing column or an unknown category."""
        if missing := [name for name in self.columns if name not in table]:
            raise InputError(f"the table has no column {missing[0]!r}; it needs {self.columns}")
        out = np.empty((len(table), len(self.columns)))
        for place, name in enumerate(self.columns):
            if name not in self.categories:
                out[:, place] = table[name]
                continue
            codes = self.categories[name].get_indexer(pd.Index(table[name]))
            if (codes < 0).any():
                value = table[name].iloc[int(np.argmin(codes))]
                raise InputError(f"{name} holds {value!r}, unknown to the codes; learn from it too")
            out[:, place] = codes
        return out

    def decode(self, rows: Matrix) -> pd.DataFrame:
        """The table of [n, d] numbers; text columns come back as categoricals.

        Raises
        ------
        InputError
            For a number that is no code of its column: an explainer drew between categories.
        """
        table: dict[str, Any] = {}
        for place, name in enumerate(self.columns):
            column, known = rows[:, place], self.categories.get(name)
            if known is None:
                table[name] = column
                continue
            codes = column.astype(np.int64)
            wrong = (codes != column) | (codes < 0) | (codes >= len(known))
            if wrong.any():
                raise InputError(
                    f"{name} holds {column[wrong][0]:.3g}, a code is a whole number from 0 to "
                    f"{len(known) - 1}; draw cells from real rows"
                )
            table[name] = pd.Categorical.from_codes(codes, known)
        return pd.DataFrame(table)

    def probability(self, model: Any) -> Predict:
        """The model's P(Y=1) as a function of coded rows."""
        return lambda rows: np.asarray(model.predict_proba(self.decode(rows))[:, 1])

    def log_odds(self, model: Any) -> Predict:
        """The model's log-odds as a function of coded rows."""
        return lambda rows: np.asarray(model.decision_function(self.decode(rows)))


def checked_rows(rows: Matrix, background: Matrix) -> tuple[Matrix, Matrix]:
    """Rows to explain [n, d] and background [m, d] as float64.

    Raises
    ------
    InputError
        For other shapes, no row, or a value that is not finite.
    """
    explained, others = np.asarray(rows, dtype=float), np.asarray(background, dtype=float)
    for name, values in (("rows", explained), ("background", others)):
        if values.ndim != 2 or not values.size:
            raise InputError(f"{name} has shape {values.shape}; give a matrix [n, d], n >= 1")
        if not np.isfinite(values).all():
            row, column = (int(i) for i in np.argwhere(~np.isfinite(values))[0])
            raise InputError(f"{name}[{row}, {column}] is not finite; fill it or leave the row out")
    if explained.shape[1] != others.shape[1]:
        raise InputError(
            f"rows have {explained.shape[1]} columns, background {others.shape[1]}; align them"
        )
    return explained, others
