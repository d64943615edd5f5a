"""The audit on made feeds whose unfairness is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from capstone import fairness_audit as audits
from capstone.catalogue import Catalogue, simulated_creators
from capstone.data import Feed
from capstone.minimum_exposure import is_protected, small_creators
from capstone.reranking import RerankConfig
from capstone.reranking_study import Scored

N_USERS = 240


@pytest.fixture(scope="module")
def few(feed: Feed) -> Feed:
    """The first users only: an audit of all takes its time in lists, not in what is tested."""
    return replace(feed, sequences=feed.sequences[:N_USERS], users=feed.users[:N_USERS])


@pytest.fixture(scope="module")
def catalogue(feed: Feed) -> Catalogue:
    n = feed.n_items + 1
    nothing = np.zeros(n, np.int64)
    return Catalogue(("",) * n, ((),) * n, simulated_creators(n - 1), nothing, np.arange(n) > 0)


def scored(feed: Feed, held_out: int, seed: int) -> Scored:
    """Popular films a little better than chance; the held-out film is always a candidate."""
    rng = np.random.default_rng(seed)
    audience = audits.train_audience(feed)
    target = np.array([sequence.items[-held_out] for sequence in feed.sequences])
    ids, value = np.empty((feed.n_users, 60), np.int64), np.empty((feed.n_users, 60))
    for user in range(feed.n_users):
        others = np.setdiff1d(rng.permutation(feed.n_items)[:90] + 1, target[user])[:59]
        ids[user] = np.append(others, target[user])
        value[user] = audience[ids[user]] * rng.exponential(size=60)
    return Scored(value, ids, target)


def test_everybody_is_in_one_group_of_each_attribute(few: Feed) -> None:
    """Groups are of what is known when the test item is asked for."""
    groups = audits.user_groups(few)
    assert list(groups) == ["gender", "age_group", "activity", "history"]
    assert {len(members) for members in groups.values()} == {N_USERS}
    short = groups["history"] == "new: at most 25 films"
    assert all(len(s.items) <= 25 for s, new in zip(few.test_history, short) if new)
    assert (groups["activity"][short] == "light: under 40 films").all()


def test_a_gap_that_was_put_in_is_found_and_chance_is_not() -> None:
    """One attribute separates the users, the other was dealt out; both have a max-min gap."""
    rng = np.random.default_rng(0)
    first = np.repeat(["a", "b"], 300)
    ndcg = np.where(rng.random(600) < np.where(first == "a", 0.3, 0.1), 0.6, 0.0)
    groups = {"real": first, "dealt": rng.permutation(first)}
    found = audits.user_gaps(ndcg, groups, n_boot=300, seed=0)
    assert found["real"].p_adjusted < 0.01
    assert found["real"].gap.difference_ci95[0] > 0.02
    assert found["dealt"].gap.difference > 0
    assert found["dealt"].p_adjusted > 0.05
    assert found["dealt"].gap.difference_ci95[0] == 0
    assert found["real"].p_adjusted >= found["real"].gap.p_value


def test_exposure_counts_places_by_their_attention() -> None:
    """First of two places: 1 against 1 / log2(3), so the first has 61 % of the attention."""
    member = np.array([False, True, False])
    found = audits.exposure_shares(member, np.array([[1, 2], [2, 1], [2, 2]]))
    first = 1 / (1 + 1 / np.log2(3))
    assert np.allclose(found, [first, 1 - first, 0])


def test_sizes_cut_the_films_into_equal_parts_by_audience(catalogue: Catalogue, few: Feed) -> None:
    """The smallest class is what is protected, up to the creator on the edge."""
    audience = audits.train_audience(few)
    size = audits.creator_sizes(catalogue, audience)
    assert size[0] == -1
    share = np.bincount(size[1:], minlength=audits.N_SIZES) / catalogue.n_items
    assert np.abs(share - 1 / audits.N_SIZES).max() < 0.08
    protected = is_protected(catalogue.creator, small_creators(catalogue, audience))
    assert (size[protected & catalogue.visible] == 0).all()


def test_feeds_of_nothing_but_large_creators_have_no_exposure_for_the_small(
    catalogue: Catalogue, few: Feed
) -> None:
    """And feeds that are drawn at random have their share of the films: parity."""
    audience = audits.train_audience(few)
    protected = small_creators(catalogue, audience)
    member = is_protected(catalogue.creator, protected) & catalogue.visible
    rng = np.random.default_rng(0)
    shares = []
    for pool in (np.flatnonzero(~member)[1:], np.arange(1, catalogue.n_items + 1)):
        lists = np.stack([rng.choice(pool, 10, replace=False) for _ in range(N_USERS)])
        shares.append(
            audits.creator_exposure(
                lists, few.test_items, catalogue, audience, protected, n_boot=200, seed=0
            )
        )
    nothing, parity = shares
    assert nothing.share == 0
    assert nothing.to_catalogue_ci95 == (0, 0)
    assert parity.to_catalogue_ci95[0] < 1 < parity.to_catalogue_ci95[1]
    assert parity.by_size.sum() == pytest.approx(1)
    assert parity.by_size[0] == pytest.approx(parity.share, abs=0.02)
    assert parity.merit_share == member[few.test_items].mean()


def test_the_minimum_is_chosen_on_validation_and_its_cost_is_paired(
    catalogue: Catalogue, few: Feed
) -> None:
    """The smallest that reaches the target; the test feeds before and after are of the same
    people, so the interval of the cost is that of a difference."""
    study = audits.study_fairness(
        scored(few, 2, 0), scored(few, 1, 1), few, catalogue,
        np.ones((few.n_items + 1, 2)), RerankConfig(exploration_slots=2), n_boot=200,
    )  # fmt: skip
    assert study.config.exploration_slots == 0
    assert study.tried[0].min_exposure == 0
    assert study.tried[0].kept == 1
    reached = [each.min_exposure for each in study.tried[1:] if each.to_catalogue >= audits.TARGET]
    assert study.config.min_exposure == min(reached)
    assert study.after.creators.to_catalogue > study.before.creators.to_catalogue
    assert study.exposure_gained_ci95[0] > 0
    assert study.exposure_gained == pytest.approx(
        study.after.creators.share - study.before.creators.share
    )
    assert study.ndcg_lost == pytest.approx(study.before.ndcg.mean() - study.after.ndcg.mean())
    assert study.ndcg_lost_ci95[0] <= study.ndcg_lost <= study.ndcg_lost_ci95[1]
    from capstone.figures_fairness import draw_creator_exposure, draw_user_groups

    assert len(draw_creator_exposure(study).axes) == 2
    labels = [text.get_text() for text in draw_user_groups(study.after).axes[0].get_yticklabels()]
    assert len(labels) == 2 + 4 + 3 + 2
