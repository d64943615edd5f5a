"""Fairness of the feed: does it work equally well for users, and are creators seen?

Users: NDCG@k by group, with lab 3's intervals and permutation null. Creators: the attention that
the smallest get, beside their share of the catalogue and beside their share of what people came to
next. **The creators are simulated** (:mod:`capstone.catalogue`); the users, their groups and the
films are real.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from capstone.catalogue import Catalogue
from capstone.data import Feed
from capstone.minimum_exposure import is_protected, small_creators
from capstone.rank_metrics import list_ndcg
from capstone.reranking import RerankConfig
from capstone.reranking_study import Scored, lists_of
from common.errors import require
from common.statistics import bootstrap_ci

if TYPE_CHECKING:
    from labs.lab3_fairness.group_metrics import Disparity, GroupReport

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Interval = tuple[float, float]
SHORT_HISTORY = 25
"""Films known of a user; nobody in MovieLens 100K has fewer than 19."""
LIGHT, HEAVY = 40, 110
N_SIZES = 5
SMALL_SHARE = 0.2
"""Share of the films that the protected creators hold together."""
SHARES = (0.1, 0.15, 0.2, 0.25, 0.3)
TARGET = 0.9
"""Exposure over catalogue share that the minimum is chosen for, on the validation items."""


@dataclass(frozen=True)
class UserGap:
    """NDCG by one attribute of the users.

    Attributes
    ----------
    attribute
    report
        Values and intervals of the groups (lab 3); ``figures.groups`` draws it.
    gap
        Largest minus smallest group mean, with an interval that holds for all pairs at once and
        the null of groups dealt out at random: the gap alone is biased upward.
    p_adjusted
        Benjamini-Hochberg over all attributes audited.
    """

    attribute: str
    report: GroupReport
    gap: Disparity
    p_adjusted: float


@dataclass(frozen=True)
class CreatorExposure:
    """Position-weighted exposure of the small (simulated) creators; intervals resample users.

    Attributes
    ----------
    share, share_ci95
        Of all attention, ``1 / log2(1 + rank)`` a place.
    catalogue_share, merit_share
        Share of the films, and of the held-out films, that are theirs.
    to_catalogue, to_catalogue_ci95, to_merit, to_merit_ci95
        ``share`` over each; 1 is parity.
    by_size, catalogue_by_size, merit_by_size : [N_SIZES]
        The three shares by size of the creator's audience, smallest first; each size holds about
        the same number of films.
    n_users, n_merit
        Users, and those whose held-out film is of a small creator.
    """

    share: float
    share_ci95: Interval
    catalogue_share: float
    merit_share: float
    to_catalogue: float
    to_catalogue_ci95: Interval
    to_merit: float
    to_merit_ci95: Interval
    by_size: Floats
    catalogue_by_size: Floats
    merit_by_size: Floats
    n_users: int
    n_merit: int


@dataclass(frozen=True)
class Audit:
    """One set of feeds, judged from both sides; ``ndcg`` is [n_users]."""

    ndcg: Floats
    gaps: Mapping[str, UserGap]
    creators: CreatorExposure


@dataclass(frozen=True)
class Tried:
    """One minimum on the validation items: exposure over catalogue share, and NDCG kept."""

    min_exposure: float
    to_catalogue: float
    kept: float


@dataclass(frozen=True)
class FairnessStudy:
    """The mitigation measured: test feeds before and after the minimum exposure.

    Attributes
    ----------
    before, after
    config
        The re-ranking of ``after``.
    tried
        What the minimum was chosen from.
    ndcg_lost, ndcg_lost_ci95
        NDCG@k before less after; paired bootstrap over users.
    exposure_gained, exposure_gained_ci95
        Exposure share of the small creators after less before; paired as well.
    """

    before: Audit
    after: Audit
    config: RerankConfig
    tried: tuple[Tried, ...]
    ndcg_lost: float
    ndcg_lost_ci95: Interval
    exposure_gained: float
    exposure_gained_ci95: Interval


def user_groups(feed: Feed) -> dict[str, NDArray[np.str_]]:
    """Group of every user by each audited attribute: gender, age_group, activity, history.

    Activity and history count the films known when the test item is asked for.
    """
    known = np.array([len(sequence.items) for sequence in feed.test_history])
    return {
        "gender": feed.users["gender"].to_numpy(dtype=str),
        "age_group": feed.users["age_group"].to_numpy(dtype=str),
        "activity": np.select(
            [known < LIGHT, known < HEAVY],
            [f"light: under {LIGHT} films", f"medium: {LIGHT}-{HEAVY - 1}"],
            f"heavy: {HEAVY} and more",
        ),
        "history": np.where(
            known <= SHORT_HISTORY, f"new: at most {SHORT_HISTORY} films", "known longer"
        ),
    }


def user_gaps(
    ndcg: Floats, groups: Mapping[str, NDArray[np.str_]], *, n_boot: int, seed: int
) -> dict[str, UserGap]:
    """NDCG [n_users] by each attribute's groups, p-values adjusted over the attributes."""
    from labs.lab3_fairness.multiple_testing import benjamini_hochberg
    from labs.lab3_fairness.ranking_fairness import ndcg_by_group

    reports = {
        name: ndcg_by_group(ndcg, members, n_boot=n_boot, n_permutations=n_boot, seed=seed)
        for name, members in groups.items()
    }
    adjusted = benjamini_hochberg([found.gap.p_value for found in reports.values()])
    return {
        name: UserGap(name, found.report, found.gap, float(p))
        for (name, found), p in zip(reports.items(), adjusted, strict=True)
    }


def exposure_shares(member: NDArray[np.bool_], lists: Ints) -> Floats:
    """Share of each user's attention that items of a group get: [n_users].

    ``member`` is [n_items + 1], ``lists`` [n_users, k] item ids. Attention by lab 3's
    ``position_weights``, scaled to sum to 1 over a feed.
    """
    from labs.lab3_fairness.ranking_fairness import position_weights

    weights = position_weights(lists.shape[1])
    return np.asarray(member[lists] @ (weights / weights.sum()))


def creator_sizes(catalogue: Catalogue, audience: Ints) -> Ints:
    """Size class of each item's creator, 0 (smallest audience) to N_SIZES - 1: [n_items + 1].

    Creators in the order of their audience are cut where the films reach 1 / N_SIZES, 2 / N_SIZES,
    ...; items that are not visible have -1.
    """
    shown = catalogue.visible
    films = np.bincount(catalogue.creator[shown], minlength=int(catalogue.creator.max()) + 1)
    fans = np.bincount(catalogue.creator[shown], audience[shown], len(films))
    order = np.argsort(fans, kind="stable")
    middle = np.cumsum(films[order]) - films[order] / 2
    size = np.empty(len(films), dtype=np.int64)
    size[order] = np.minimum(N_SIZES * middle // films.sum(), N_SIZES - 1)
    return np.where(shown, size[catalogue.creator], -1)


def creator_exposure(
    lists: Ints,
    targets: Ints,
    catalogue: Catalogue,
    audience: Ints,
    protected: tuple[int, ...],
    *,
    n_boot: int,
    seed: int,
) -> CreatorExposure:
    """Exposure of the protected creators in feeds [n_users, k], item ids.

    Parameters
    ----------
    targets : [n_users]
        What each user came to next: the merit that can be observed.
    audience : [n_items + 1]
        Training interactions of each item.
    """
    member = is_protected(catalogue.creator, protected) & catalogue.visible
    share, merit = exposure_shares(member, lists), member[targets].astype(float)
    catalogue_share = float(member.sum() / catalogue.visible.sum())
    require(bool(merit.any()), "held-out films of protected creators", 0, "must be >= 1")
    low, high = bootstrap_ci(share, n_boot=n_boot, seed=seed)

    def per_merit(rows: Floats, axis: int = -1) -> Floats:
        users = rows.astype(np.int64)
        return np.asarray(share[users].mean(axis=axis) / merit[users].mean(axis=axis))

    size = creator_sizes(catalogue, audience)
    return CreatorExposure(
        share=float(share.mean()),
        share_ci95=(low, high),
        catalogue_share=catalogue_share,
        merit_share=float(merit.mean()),
        to_catalogue=float(share.mean()) / catalogue_share,
        to_catalogue_ci95=(low / catalogue_share, high / catalogue_share),
        to_merit=float(share.mean() / merit.mean()),
        # Both shares are of the same users, who are resampled together.
        to_merit_ci95=bootstrap_ci(np.arange(len(share)), per_merit, n_boot=n_boot, seed=seed),
        by_size=np.array([exposure_shares(size == n, lists).mean() for n in range(N_SIZES)]),
        catalogue_by_size=np.bincount(size[size >= 0], minlength=N_SIZES) / catalogue.visible.sum(),
        merit_by_size=np.array([(size[targets] == n).mean() for n in range(N_SIZES)]),
        n_users=len(lists),
        n_merit=int(merit.sum()),
    )


def audit(
    lists: Ints,
    feed: Feed,
    catalogue: Catalogue,
    protected: tuple[int, ...],
    *,
    n_boot: int = 1000,
    seed: int = 0,
) -> Audit:
    """Both sides of the feeds [n_users, k] that are shown where the test items came next.

    Users are those of ``feed``, in its order; intervals are 95 %.
    """
    ndcg = list_ndcg(lists, feed.test_items)
    return Audit(
        ndcg,
        user_gaps(ndcg, user_groups(feed), n_boot=n_boot, seed=seed),
        creator_exposure(
            lists, feed.test_items, catalogue, train_audience(feed), protected,
            n_boot=n_boot, seed=seed,
        ),
    )  # fmt: skip


def train_audience(feed: Feed) -> Ints:
    """Training interactions of each item, [n_items + 1]."""
    items = np.concatenate([sequence.items for sequence in feed.train])
    return np.bincount(items, minlength=feed.n_items + 1)


def study_fairness(
    validation: Scored,
    test: Scored,
    feed: Feed,
    catalogue: Catalogue,
    vectors: NDArray[np.floating],
    config: RerankConfig,
    *,
    k: int = 10,
    n_boot: int = 1000,
    seed: int = 0,
) -> FairnessStudy:
    """Audit the feeds of a re-ranking without and with a minimum exposure of small creators.

    The minimum is the smallest of ``SHARES`` with which, on the validation items, the exposure of
    the small creators reaches ``TARGET`` of their share of the films; the largest if none does.
    Exploration is off: it would add its own exposure.

    Parameters
    ----------
    validation, test
        As for :func:`capstone.reranking_study.study_reranking`.
    vectors : [n_items + 1, D]
        Item embeddings.
    config
        The rest of the re-ranking; its minimum exposure and protected creators are replaced.
    """
    protected = small_creators(catalogue, train_audience(feed), SMALL_SHARE)
    plain = replace(config, min_exposure=0.0, protected_creators=protected, exploration_slots=0)
    member = is_protected(catalogue.creator, protected) & catalogue.visible
    films = float(member.sum() / catalogue.visible.sum())

    def feeds(scored: Scored, share: float) -> Ints:
        setting = replace(plain, min_exposure=share)
        return lists_of(scored, catalogue, vectors, setting, k=k, seed=seed)

    tried: list[Tried] = []
    base = float("nan")
    for share in (0.0, *SHARES):
        lists = feeds(validation, share)
        ndcg = float(list_ndcg(lists, validation.target).mean())
        base = ndcg if share == 0 else base
        tried.append(
            Tried(share, float(exposure_shares(member, lists).mean()) / films, ndcg / base)
        )
    enough = [each for each in tried[1:] if each.to_catalogue >= TARGET]
    chosen = replace(plain, min_exposure=(enough or tried[-1:])[0].min_exposure)
    unchanged, mended = feeds(test, 0.0), feeds(test, chosen.min_exposure)
    before, after = (
        audit(lists, feed, catalogue, protected, n_boot=n_boot, seed=seed)
        for lists in (unchanged, mended)
    )
    lost = before.ndcg - after.ndcg
    gained = exposure_shares(member, mended) - exposure_shares(member, unchanged)
    return FairnessStudy(
        before,
        after,
        chosen,
        tuple(tried),
        float(lost.mean()),
        bootstrap_ci(lost, n_boot=n_boot, seed=seed),
        float(gained.mean()),
        bootstrap_ci(gained, n_boot=n_boot, seed=seed),
    )
