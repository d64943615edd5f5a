"""What diversity and creator decay cost and bring: NDCG against the make-up of whole feeds.

Every setting is measured on the validation items, one is chosen there, and only what was chosen is
judged on the test items. The creators are simulated (:mod:`capstone.catalogue`); the embeddings and
the films that people came to next are real.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from capstone.catalogue import Catalogue
from capstone.diversity import intra_list_diversity
from capstone.rank_metrics import list_ndcg
from capstone.reranking import Diversity, RerankConfig, rerank
from common.errors import InputError, require
from common.statistics import bootstrap_ci

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Interval = tuple[float, float]
METHODS: Mapping[str, Diversity] = {"MMR": "mmr", "DPP": "dpp"}
WEIGHTS = (0.05, 0.1, 0.2, 0.3, 0.4, 0.6)
FACTORS = (0.97, 0.9, 0.7, 0.5)
LEAST_KEPT = 0.99
"""Share of NDCG that a setting must keep on the validation items to be chosen."""


@dataclass(frozen=True)
class Scored:
    """Candidates of every user with their values, and what the user came to next.

    Attributes
    ----------
    value : [n_users, C]
    ids : [n_users, C]
    target : [n_users]
        Item id; users whose target is not among the candidates count with an NDCG of 0.
    """

    value: Floats
    ids: Ints
    target: Ints

    def __post_init__(self) -> None:
        if self.value.shape != self.ids.shape or len(self.target) != len(self.ids):
            raise InputError(
                f"value {self.value.shape}, ids {self.ids.shape} and target {self.target.shape} "
                "must be [n_users, C] twice and [n_users]"
            )


@dataclass(frozen=True)
class Outcome:
    """One setting on one set of held-out items.

    Attributes
    ----------
    name
        Of the method: "by value", "MMR", "DPP", "creator decay", "together".
    config
    ndcg
        Mean NDCG@k.
    kept
        NDCG over that of the sort by value.
    lost_ci95
        Paired bootstrap interval of the NDCG lost, over users; above 0 is a loss.
    ild
        Mean ``1 - cos`` of the pairs of a list, in the vectors that diversity uses.
    genre_ild
        The same in genres, which re-ranking does not see: is the diversity real?
    top_creator
        Mean share of a feed that its most frequent (simulated) creator has.
    creator_gini
        Gini coefficient of places over all (simulated) creators: 0 equal, towards 1 one has all.
    coverage
        Share of the catalogue that stands in at least one feed.
    """

    name: str
    config: RerankConfig
    ndcg: float
    kept: float
    lost_ci95: Interval
    ild: float
    genre_ild: float
    top_creator: float
    creator_gini: float
    coverage: float


@dataclass(frozen=True)
class RerankingStudy:
    """What was measured.

    Attributes
    ----------
    k
        Places of a feed.
    validation
        The sort by value first, then every setting.
    test
        The sort by value, and the setting that was chosen on the validation items.
    chosen
        That setting.
    """

    k: int
    validation: tuple[Outcome, ...]
    test: tuple[Outcome, Outcome]
    chosen: RerankConfig


def lists_of(
    scored: Scored,
    catalogue: Catalogue,
    vectors: NDArray[np.floating],
    config: RerankConfig,
    *,
    k: int,
    seed: int,
) -> Ints:
    """Re-ranked feeds of all users, item ids [n_users, k], each from a generator of its own."""
    feeds = np.empty((len(scored.ids), k), dtype=np.int64)
    for user, (value, ids) in enumerate(zip(scored.value, scored.ids, strict=True)):
        rng = np.random.default_rng((seed, user))
        rows = rerank(value, ids, catalogue, vectors, config, k, rng).rows
        require(len(rows) == k, "items that may be shown", len(rows), f"must be >= {k}")
        feeds[user] = ids[rows]
    return feeds


def study_reranking(
    validation: Scored,
    test: Scored,
    catalogue: Catalogue,
    vectors: NDArray[np.floating],
    genres: NDArray[np.floating],
    *,
    k: int = 10,
    n_boot: int = 1000,
    seed: int = 0,
) -> RerankingStudy:
    """Trade-off of NDCG against diversity, with the setting that validation chooses.

    MMR and the DPP at each of ``WEIGHTS`` and creator decay at each of ``FACTORS`` are measured
    alone. Of MMR and DPP the most diverse that keeps ``LEAST_KEPT`` of NDCG is chosen, and with it
    the strongest creator decay that together with it still keeps so much, if there is one.

    Parameters
    ----------
    validation, test
        As scored by the ranker; histories of ``test`` hold the validation item.
    vectors : [n_items + 1, D]
        Item embeddings.
    genres : [n_items + 1, n_genres]
        Multi-hot.
    """
    bench = _Bench(catalogue, vectors, genres, k, n_boot, seed)
    plain = RerankConfig()
    base = bench.per_user(validation, plain)
    by_value = bench.outcome("by value", plain, validation, base)
    diverse = [
        bench.outcome(name, RerankConfig(kind, weight), validation, base)
        for name, kind in METHODS.items()
        for weight in WEIGHTS
    ]
    decayed = [
        bench.outcome("creator decay", RerankConfig(creator_factor=factor), validation, base)
        for factor in FACTORS
    ]
    best = most_diverse([by_value, *diverse])
    together = []
    for factor in sorted(FACTORS):
        config = replace(best.config, creator_factor=factor)
        together.append(bench.outcome("together", config, validation, base))
        if together[-1].kept >= LEAST_KEPT:
            best = together[-1]
            break
    test_base = bench.per_user(test, plain)
    return RerankingStudy(
        k,
        (by_value, *diverse, *decayed, *together),
        (
            bench.outcome("by value", plain, test, test_base),
            bench.outcome(best.name, best.config, test, test_base),
        ),
        best.config,
    )


def most_diverse(outcomes: Sequence[Outcome]) -> Outcome:
    """Of those that keep ``LEAST_KEPT`` of NDCG, the one with the greatest ILD; first of ties."""
    return max((each for each in outcomes if each.kept >= LEAST_KEPT), key=lambda each: each.ild)


def top_share(creators: Ints) -> Floats:
    """Share of the most frequent creator in each list: [n_users, k] -> [n_users]."""
    ordered = np.sort(creators, axis=1)
    place = np.arange(ordered.shape[1])
    new = np.ones(ordered.shape, dtype=bool)
    new[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    start = np.maximum.accumulate(np.where(new, place, 0), axis=1)
    return np.asarray((place - start + 1).max(axis=1) / ordered.shape[1])


def gini(counts: NDArray[np.integer]) -> float:
    """Gini coefficient of counts [n], >= 0 with a positive sum: 0 equal, (n - 1) / n one has all.

    With counts rising and i from 1: ``sum (2 i - n - 1) x_i / (n sum x)``.
    """
    rising = np.sort(counts)
    n = len(rising)
    return float((2 * np.arange(1, n + 1) - n - 1) @ rising / (n * rising.sum()))


@dataclass(frozen=True)
class _Bench:
    catalogue: Catalogue
    vectors: NDArray[np.floating]
    genres: NDArray[np.floating]
    k: int
    n_boot: int
    seed: int

    def lists(self, scored: Scored, config: RerankConfig) -> Ints:
        return lists_of(scored, self.catalogue, self.vectors, config, k=self.k, seed=self.seed)

    def per_user(self, scored: Scored, config: RerankConfig) -> Floats:
        return list_ndcg(self.lists(scored, config), scored.target)

    def outcome(self, name: str, config: RerankConfig, scored: Scored, base: Floats) -> Outcome:
        lists = self.lists(scored, config)
        ndcg = list_ndcg(lists, scored.target)
        creators = self.catalogue.creator[lists]
        places = np.bincount(creators.ravel(), minlength=int(self.catalogue.creator.max()) + 1)
        return Outcome(
            name,
            config,
            ndcg=float(ndcg.mean()),
            kept=float(ndcg.mean() / base.mean()),
            lost_ci95=bootstrap_ci(base - ndcg, n_boot=self.n_boot, seed=self.seed),
            ild=float(intra_list_diversity(lists, self.vectors).mean()),
            genre_ild=float(intra_list_diversity(lists, self.genres).mean()),
            top_creator=float(top_share(creators).mean()),
            creator_gini=gini(places[1:]),
            coverage=len(np.unique(lists)) / self.catalogue.n_items,
        )
