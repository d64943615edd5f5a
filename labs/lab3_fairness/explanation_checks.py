"""A test for every explanation: does it add up, does it agree with the exact one, does it repeat?

None of these asks whether the explanation is *useful*, or whether the model is right. They ask
whether the numbers are what their name says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import rankdata

from common.errors import InputError, require
from labs.lab3_fairness.attribution import Attribution, Matrix, top_columns

Explain = Callable[[int], Matrix]
"""A seed to attributions [n, d] of the same rows."""


def efficiency_residual(attribution: Attribution) -> float:
    """The largest |output - base - sum of the credits| over the rows; Shapley values give 0."""
    return float(np.abs(attribution.residual).max())


@dataclass(frozen=True)
class SeedSpread:
    """The same explanation with other seeds: ``values`` of shape [seeds, n, d]."""

    values: NDArray[np.float64]

    @property
    def mean(self) -> Matrix:
        return np.asarray(self.values.mean(axis=0))

    @property
    def std(self) -> Matrix:
        """Standard deviation between seeds, [n, d]."""
        return np.asarray(self.values.std(axis=0, ddof=1))

    def top_agreement(self, k: int) -> float:
        """The share of pairs of seeds that name the same k top columns, mean over rows.

        As sets: the order among the k is not asked for.
        """
        chosen = np.sort(top_columns(self.values, k), axis=-1)
        same = (chosen[:, None] == chosen[None]).all(axis=-1).mean(axis=-1)
        first, second = np.triu_indices(len(chosen), 1)
        return float(same[first, second].mean())


def seed_spread(explain: Explain, seeds: Iterable[int]) -> SeedSpread:
    """Explain once a seed.

    Raises
    ------
    InputError
        For fewer than two seeds: one run has no scatter.
    """
    values = [explain(seed) for seed in seeds]
    require(len(values) >= 2, "seeds", len(values), "must be >= 2", "try range(10)")
    return SeedSpread(np.stack(values))


@dataclass(frozen=True)
class Agreement:
    """How near attributions are to a reference.

    ``largest_error`` is the largest absolute difference of a cell; ``rank_correlation`` Spearman's
    of the absolute credits within a row, mean over rows; ``top3`` the share of rows in which both
    name the same three columns.
    """

    largest_error: float
    rank_correlation: float
    top3: float


def agreement(values: Matrix, reference: Matrix) -> Agreement:
    """Compare attributions [n, d] with a reference of the same rows and columns.

    Raises
    ------
    InputError
        For shapes that differ or fewer than three columns.
    """
    if values.shape != reference.shape:
        raise InputError(f"values {values.shape} and reference {reference.shape} must be alike")
    require(values.shape[1] >= 3, "columns", values.shape[1], "must be >= 3 to have a top three")
    ranks = [rankdata(np.abs(each), axis=1) for each in (values, reference)]
    centred = [each - each.mean(axis=1, keepdims=True) for each in ranks]
    norm = np.sqrt((centred[0] ** 2).sum(axis=1) * (centred[1] ** 2).sum(axis=1))
    product = (centred[0] * centred[1]).sum(axis=1)
    # A row whose credits are all equal has no ranking to agree with.
    correlation = np.divide(product, norm, out=np.full(len(norm), np.nan), where=norm > 0)
    sets = [np.sort(top_columns(each, 3), axis=1) for each in (values, reference)]
    known = correlation[~np.isnan(correlation)]
    return Agreement(
        largest_error=float(np.abs(values - reference).max()),
        rank_correlation=float(known.mean()) if known.size else float("nan"),
        top3=float((sets[0] == sets[1]).all(axis=1).mean()),
    )


@dataclass(frozen=True)
class ExplanationCheck:
    """What the tests say of one explainer.

    ``spread`` is the largest standard deviation of a cell between seeds, ``top3_agreement`` the
    share of pairs of seeds with the same three top columns; the rest is of the first seed.
    """

    method: str
    efficiency_residual: float
    largest_error: float
    rank_correlation: float
    top3_with_exact: float
    spread: float
    top3_agreement: float


def check_explainers(
    explainers: Mapping[str, Explain], exact: Attribution, *, n_seeds: int = 10
) -> tuple[ExplanationCheck, ...]:
    """Test each explainer against exact values of the same rows, and against itself.

    Parameters
    ----------
    explainers
        Name to ``explain(seed) -> [n, d]``.
    exact
        By :func:`labs.lab3_fairness.shapley.exact_shapley` on the same background.
    n_seeds
        Runs of each.
    """
    checks = []
    for name, explain in explainers.items():
        seen = seed_spread(explain, range(n_seeds))
        first = Attribution(exact.columns, seen.values[0], exact.base, exact.outputs, name)
        near = agreement(first.values, exact.values)
        checks.append(
            ExplanationCheck(
                method=name,
                efficiency_residual=efficiency_residual(first),
                largest_error=near.largest_error,
                rank_correlation=near.rank_correlation,
                top3_with_exact=near.top3,
                spread=float(seen.std.max()),
                top3_agreement=seen.top_agreement(3),
            )
        )
    return tuple(checks)


def check_table(checks: Iterable[ExplanationCheck]) -> pd.DataFrame:
    """One row an explainer."""
    return pd.DataFrame([vars(check) for check in checks])
