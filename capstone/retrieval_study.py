"""Retrieval measured: recall of each source, what only it finds, and what the merge gains.

Options are chosen on the validation item (``source_choice``); here the test item is looked at,
once, to report.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from capstone import source_choice
from capstone.baselines import popularity
from capstone.catalogue import Catalogue
from capstone.data import Feed, Ints
from capstone.source_choice import Chosen, Moment
from capstone.sources import SOURCE_NAMES, Candidates, Quotas
from common.statistics import bootstrap_ci

Floats = NDArray[np.floating]
COLD = 5
"""An item with fewer training interactions is cold."""


@dataclass(frozen=True)
class Share:
    """A mean over users with its 95 % bootstrap interval."""

    value: float
    ci95: tuple[float, float]


@dataclass(frozen=True)
class SourceResult:
    """One source on the test item.

    Attributes
    ----------
    recall
        Of the source's own list, cut at the number of candidates.
    contribution
        Recall of the merge minus that of the merge without the source, paired by user: what only
        this source finds, its slots given to the others. Below 0 when they would do better.
    offered
        Share of the merged candidates that it offers.
    quota
        Slots it may place.
    """

    name: str
    recall: Share
    contribution: Share
    offered: float
    quota: int


@dataclass(frozen=True)
class RetrievalStudy:
    """Everything that is reported of retrieval.

    Attributes
    ----------
    merged, nearest
        Recall of the test item among ``limit`` candidates: all sources, and the index alone.
    gain
        merged minus nearest, paired by user.
    coverage, nearest_coverage
        Share of the visible items that are a candidate of at least one user.
    cold_share, cold_catalogue
        Share of the candidates, and of the visible items, with fewer than 5 interactions.
    candidates : int64 [n_users, limit]
        The merged candidates at test time, for the ranker's offline evaluation.
    """

    limit: int
    chosen: Chosen
    sources: tuple[SourceResult, ...]
    merged: Share
    nearest: Share
    gain: Share
    coverage: float
    nearest_coverage: float
    cold_share: float
    cold_catalogue: float
    candidates: Ints


def study_retrieval(
    feed: Feed,
    interactions: pd.DataFrame,
    catalogue: Catalogue,
    validation_scores: Floats,
    test_scores: Floats,
    *,
    limit: int = 200,
    regularisation: float = 500.0,
    n_boot: int = 1000,
    seed: int,
) -> RetrievalStudy:
    """Choose the sources on validation, then measure them on the test item.

    Parameters
    ----------
    interactions
        The ``ml-100k`` table.
    validation_scores, test_scores : [n_users, n_items + 1]
        ``measure.encoder_scores`` from ``feed.train`` and from ``feed.test_history``.
    limit
        Candidates of a request.
    regularisation
        Of EASE.
    """
    chosen = source_choice.choose(
        feed, interactions, catalogue, source_choice.before_validation(feed, validation_scores),
        limit=limit, regularisation=regularisation,
    )  # fmt: skip
    at = source_choice.before_test(feed, test_scores)
    counts = popularity(feed.matrix(feed.train))
    return measure(at, chosen, catalogue, counts, limit=limit, n_boot=n_boot, seed=seed)


def measure(
    at: Moment,
    chosen: Chosen,
    catalogue: Catalogue,
    counts: Floats,
    *,
    limit: int,
    n_boot: int,
    seed: int,
) -> RetrievalStudy:
    """Recall, contributions, coverage and cold items at one moment.

    Parameters
    ----------
    counts : [n_items + 1]
        Training interactions of each item.
    """
    visible, quotas = catalogue.visible, chosen.tables.quotas
    offered = source_choice.offers_of_all(at, chosen.tables, visible, limit=limit)

    def share(values: NDArray[np.float64]) -> Share:
        return Share(float(values.mean()), bootstrap_ci(values, n_boot=n_boot, seed=seed))

    def merged_with(each: list[list[Ints]], slots: Quotas) -> list[Candidates]:
        return list(source_choice.merge_all(each, at, visible, slots, limit=limit))

    def hits(lists: list[Candidates]) -> NDArray[np.float64]:
        return source_choice.found(iter(lists), at.targets)

    everything = merged_with(offered, quotas)
    found = hits(everything)
    masks = np.concatenate([each.source for each in everything])
    results = []
    for bit, name in enumerate(SOURCE_NAMES[:-1]):
        pairs = zip(offered, at.targets, strict=True)
        alone = np.array([float((lists[bit] == target).any()) for lists, target in pairs])
        without = [[*lists[:bit], lists[bit][:0], *lists[bit + 1 :]] for lists in offered]
        lost = found - hits(merged_with(without, replace(quotas, **{name: 0})))
        offered_by = float((masks >> bit & 1).mean())
        results.append(
            SourceResult(name, share(alone), share(lost), offered_by, asdict(quotas)[name])
        )
    ids = np.concatenate([each.ids for each in everything])
    nearest = np.concatenate([lists[0] for lists in offered])
    nearest_found = hits(merged_with(offered, Quotas(limit)))
    cold = counts < COLD
    return RetrievalStudy(
        limit=limit,
        chosen=chosen,
        sources=tuple(results),
        merged=share(found),
        nearest=share(nearest_found),
        gain=share(found - nearest_found),
        coverage=float(len(np.unique(ids)) / visible.sum()),
        nearest_coverage=float(len(np.unique(nearest)) / visible.sum()),
        cold_share=float(cold[ids].mean()),
        cold_catalogue=float(cold[visible].mean()),
        candidates=np.stack([each.ids for each in everything]),
    )
