"""Offline against online, on the world fitted to MovieLens."""

from __future__ import annotations

import numpy as np
import pytest

from common.data import load
from labs.lab6_online_eval import offline_online
from labs.lab6_online_eval.interleaving_sensitivity import study_interleaving
from labs.lab6_online_eval.world import Interactions, World, build_world, read_interactions


@pytest.fixture(scope="module")
def ml():
    data = read_interactions(load("ml-100k"))
    return data, build_world(data), offline_online.ranker_lists(data)


@pytest.fixture(scope="module")
def result(ml):
    return offline_online.study_offline_online(*ml, sessions=30_000, seed=0)


def test_the_offline_winner_loses_online(result) -> None:
    """The best ranker by NDCG has fewer true clicks than two others, and the worst but one by NDCG
    has the most: offline metrics reward what people would have found anyway."""
    rows = {row.name: row for row in result.rows}
    assert result.best("ndcg") == "discovery_20"
    assert result.best("clicks") == "discovery_70"
    assert rows["discovery_70"].offline.ndcg.high < rows["discovery_20"].offline.ndcg.low
    assert result.tau["ndcg"] < 0.5
    assert result.tau["novel_dcg"] > result.tau["ndcg"]


def test_estimates_that_are_not_refused_are_near_the_truth(result) -> None:
    """For rankers that the log covers; for the others it says that it cannot."""
    rows = {row.name: row for row in result.rows}
    covered = [row for row in result.rows if row.off_policy["ips"].refused is None]
    assert {row.name for row in covered} == {"ease", "discovery_05", "discovery_10", "discovery_20"}
    for row in covered:
        for name in ("ips", "snips", "position_based", "doubly_robust"):
            found = row.off_policy[name]
            assert found.clicks == pytest.approx(row.clicks, rel=0.07), f"{row.name}: {found}"
    assert rows["discovery_70"].off_policy["ips"].clicks < 0.5 * rows["discovery_70"].clicks


def test_the_parts_add_up_to_the_difference(result) -> None:
    ease = next(row for row in result.rows if row.name == "ease")
    for row in result.rows:
        assert row.parts.total == pytest.approx(row.clicks - ease.clicks, abs=1e-9)
    best = result.rows[-1].parts
    assert best.awareness > 0 > best.appeal


def test_the_parts_by_hand() -> None:
    """One user, one place: (appeal, novelty) from (.5, .2) to (.4, .6), so .1 to .24."""
    world = World(
        np.array([[0.5, 0.4]]), np.array([0.8, 0.4]), np.ones(1), np.zeros((1, 2), dtype=bool)
    )
    parts = offline_online.decompose(world, np.array([[0]]), np.array([[1]]))
    assert parts.appeal == pytest.approx(-0.1 * 0.4)
    assert parts.awareness == pytest.approx(0.4 * 0.45)
    assert parts.joint == pytest.approx(0, abs=1e-12)


def test_position_bias_and_interleaving_of_the_real_rankers_can_be_drawn(ml, result) -> None:
    """The figures of the run, on 200 users; the small difference takes far fewer sessions
    interleaved."""
    from labs.lab6_online_eval import figures_offline

    data, world, rankers = ml
    data = Interactions(data.seen[:200], data.held_out[:200])
    world = World(world.appeal[:200], world.awareness, world.visits[:200], world.seen[:200])
    lists = {name: each[:200] for name, each in rankers.lists.items()}
    rankers = offline_online.Rankers(lists, rankers.ease_scores[:200])
    bias = offline_online.study_position_bias(data, world, rankers, sessions=15_000)
    assert bias.em.worst_error(bias.truth) < 0.15 < bias.click_through.worst_error(bias.truth)
    chosen = {name: lists[name] for name in ("popularity", "ease", "discovery_05")}
    study = study_interleaving(
        world, chosen, small=(("ease", "discovery_05"),), drafts=20, experiments=200
    )
    assert study.small[0].ratio_low > 5
    assert study.agreement.share == 1
    figures = [
        figures_offline.draw_offline_online(result),
        figures_offline.draw_decomposition(result),
        figures_offline.draw_position_bias(bias),
        figures_offline.draw_sensitivity(study),
        figures_offline.draw_agreement(study),
    ]
    assert all(figure.axes[0].has_data() for figure in figures)
