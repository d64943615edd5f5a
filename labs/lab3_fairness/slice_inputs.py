"""What a search for bad slices looks at: conditions on the features, and a loss for each row."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from common.errors import InputError, require

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Literals:
    """A table whose every cell is a number of a literal: a condition on one column.

    Attributes
    ----------
    columns : tuple of d names
    codes : int64 array of shape [n, d]
        Which value, or which bin, each row has in each column.
    names : tuple of d tuples
        The literal of each code: ``"education = Masters"`` or ``"35 < age <= 47"``.
    """

    columns: tuple[str, ...]
    codes: Ints
    names: tuple[tuple[str, ...], ...]

    def __len__(self) -> int:
        return len(self.codes)


def bin_features(features: pd.DataFrame, *, bins: int = 4) -> Literals:
    """Text columns by value, numeric columns with more than ``bins`` values by quantile.

    The cuts look at the features only, never at the loss, so they cost no test. A column that is
    mostly 0 has fewer distinct quantiles, and so fewer bins.

    Parameters
    ----------
    features : DataFrame of n rows
        Sensitive columns included: what is left out cannot be found.
    bins
        Bins of a numeric column, at most.

    Raises
    ------
    InputError
        For no rows or columns, two columns of one name, or a missing value.
    """
    require(len(features) > 0, "number of rows", len(features), "must be at least 1")
    require(features.shape[1] > 0, "number of columns", 0, "must be at least 1")
    require(bins >= 2, "bins", bins, "must be >= 2", "try 4")
    twice = features.columns[features.columns.duplicated()]
    require(twice.empty, "columns", list(twice), "are there twice", "rename them")
    codes, names = [], []
    for column in features:
        values = features[column]
        if values.isna().any():
            raise InputError(
                f"column {column!r} is missing in {int(values.isna().sum())} rows; give them a "
                "value of their own, such as 'unknown': missing is a slice too"
            )
        numeric = pd.api.types.is_numeric_dtype(values) and values.nunique() > bins
        code, name = _quantile_bins(values, bins) if numeric else _values(values)
        codes.append(code)
        names.append(tuple(name))
    return Literals(tuple(map(str, features.columns)), np.stack(codes, axis=1), tuple(names))


def _values(values: pd.Series) -> tuple[Ints, list[str]]:
    codes, found = pd.factorize(values, sort=True)
    return codes.astype(np.int64), [f"{values.name} = {value}" for value in found]


def _quantile_bins(values: pd.Series, bins: int) -> tuple[Ints, list[str]]:
    numbers = values.to_numpy(dtype=np.float64)
    require(bool(np.isfinite(numbers).all()), f"column {values.name!r}", "inf", "must be finite")
    inner = np.linspace(0, 1, bins + 1)[1:-1]
    cuts = np.unique(np.quantile(numbers, inner, method="lower"))
    cuts = cuts[cuts < numbers.max()]
    if not len(cuts):  # more than three quarters sit on the largest value: split it from the rest
        cuts = np.array([np.max(numbers[numbers < numbers.max()])])
    names = [f"{values.name} <= {cuts[0]:.10g}"]
    names += [f"{low:.10g} < {values.name} <= {high:.10g}" for low, high in pairwise(cuts)]
    names.append(f"{values.name} > {cuts[-1]:.10g}")
    return np.searchsorted(cuts, numbers, side="left").astype(np.int64), names


@dataclass(frozen=True)
class RowLoss:
    """What each row costs, and which rows count: a false positive can only happen to a negative.

    ``values`` is float64 of shape [n], ``counted`` bool of shape [n].
    """

    name: str
    values: Floats
    counted: Mask

    def __post_init__(self) -> None:
        if self.values.shape != self.counted.shape or self.values.ndim != 1:
            raise InputError(
                f"values {self.values.shape} and counted {self.counted.shape} must both be [n]"
            )
        bad = np.flatnonzero(self.counted & ~np.isfinite(self.values))
        if bad.size:
            raise InputError(f"{self.name} of row {bad[0]} is {self.values[bad[0]]}, not finite")

    @property
    def binary(self) -> bool:
        """Whether every row that counts costs 0 or 1."""
        return bool(np.isin(self.values[self.counted], (0.0, 1.0)).all())

    def on(self, rows: Mask) -> RowLoss:
        """The same loss, counting only the rows of a mask of shape [n]."""
        return RowLoss(self.name, self.values, self.counted & rows)


LOSSES = ("error", "false_positive", "false_negative", "log_loss", "residual")


def row_loss(name: str, y_true: ArrayLike, score: ArrayLike, *, threshold: float = 0.5) -> RowLoss:
    """The loss of each row of a binary classifier; larger is worse.

    ==============  =======================================  ==================
    name            value                                    rows that count
    ==============  =======================================  ==================
    error           1 if the decision is wrong               all
    false_positive  1 if selected                            Y = 0
    false_negative  1 if not selected                        Y = 1
    log_loss        -log P(the label), P at least 1e-12      all
    residual        y - p: the score is too low on average   all
    ==============  =======================================  ==================

    Parameters
    ----------
    name
        One of ``LOSSES``.
    y_true : array of shape [n]
        0 or 1.
    score : array of shape [n]
        P(Y=1), 0 to 1.
    threshold
        A score above it is a positive decision.

    Raises
    ------
    InputError
        For an unknown name, labels other than 0 and 1, scores outside 0 to 1, lengths that
        differ, or no row that counts.
    """
    require(name in LOSSES, "loss", name, f"must be one of {', '.join(LOSSES)}")
    truth, p = np.asarray(y_true, dtype=np.float64), np.asarray(score, dtype=np.float64)
    if truth.shape != p.shape or truth.ndim != 1:
        raise InputError(f"y_true {truth.shape} and score {p.shape} must both be [n]")
    for label, bad in (
        ("y_true", truth[~np.isin(truth, (0, 1))]),
        ("score", p[~((p >= 0) & (p <= 1))]),
    ):
        if bad.size:
            raise InputError(f"{label} holds {bad[0]}; labels are 0 or 1, scores from 0 to 1")
    chosen = (p > threshold).astype(np.float64)
    everybody = np.ones(len(truth), dtype=bool)
    values, counted = {
        "error": (np.abs(chosen - truth), everybody),
        "false_positive": (chosen, truth == 0),
        "false_negative": (1 - chosen, truth == 1),
        "log_loss": (-np.log(np.maximum(np.where(truth == 1, p, 1 - p), 1e-12)), everybody),
        "residual": (truth - p, everybody),
    }[name]
    require(bool(counted.any()), f"rows that count for {name}", 0, "must be at least 1")
    return RowLoss(name, values, counted)
