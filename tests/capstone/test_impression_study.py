"""The study's measures: the world as the best possible model, and rows that stay in order."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from capstone import calibration, figures_training, impression_study
from capstone.impression_batches import ReadingPlan, cached_shard
from capstone.impressions import ImpressionConfig, Impressions
from capstone.target_ranker import HEADS, SIZES, TargetRanker
from common.errors import InputError

CONFIG = ImpressionConfig(
    n_users=1000, n_items=1700, n_impressions=24_000, history_length=8, shard_lists=1200, n_days=2
)  # fmt: skip
PLAN = ReadingPlan(CONFIG, train_shards=1, lanes=1)


@pytest.fixture(scope="module")
def rows() -> Impressions:
    return cached_shard(CONFIG, 1)


@pytest.fixture(scope="module")
def model() -> TargetRanker:
    torch.manual_seed(0)
    return TargetRanker(SIZES["tiny"], PLAN.vocabulary)


def test_the_true_probabilities_are_calibrated_and_better_than_the_rate(rows: Impressions) -> None:
    """The oracle is the ceiling of every table, so it must be the law that drew the labels."""
    truth = impression_study.oracle(CONFIG, rows)
    for head in HEADS:
        found = calibration.measure(truth[head], getattr(rows, head))
        assert found.ece <= 1.5 * found.chance_95, (head, found)
        assert found.normalised_entropy < 1, (head, found)
    assert impression_study.auc(rows.click, truth["click"]) > 0.85


def test_predictions_come_in_the_order_of_the_rows(rows: Impressions, model: TargetRanker) -> None:
    """Scored in blocks of lists; a shift by one list would look like a bad model."""
    few, many = (impression_study.predict(model, rows, lists=n) for n in (7, 5000))
    for head in HEADS:
        np.testing.assert_allclose(few[head], many[head], atol=1e-6, err_msg=head)
    assert len(few["click"]) == rows.n


def test_no_score_depends_on_its_neighbours(rows: Impressions, model: TargetRanker) -> None:
    part = impression_study.take(rows, slice(0, 200))
    assert impression_study.isolation_difference(model, part) <= 1e-6


def test_serving_asks_for_every_item_at_the_top(rows: Impressions, model: TargetRanker) -> None:
    logged = impression_study.predict(model, rows)["click"]
    served = impression_study.predict(model, rows, at_the_top=True)["click"]
    top = rows.position == 0
    np.testing.assert_allclose(served[top], logged[top], atol=1e-6)
    assert np.abs(served[~top] - logged[~top]).max() > 1e-4


def test_every_scale_has_rows_left_to_calibrate_and_to_test() -> None:
    for scale in ("smoke", "standard", "full"):
        size = impression_study.study_size(scale)
        assert size.calibration_shards >= 1, scale
        assert size.test_shards >= 1, scale
    assert impression_study.study_size("full").size == "full"
    with pytest.raises(InputError, match="shards of training"):
        replace(impression_study.study_size("smoke"), test_shards=99)


def test_the_figures_show_every_curve(rows: Impressions) -> None:
    truth = impression_study.oracle(CONFIG, rows)["click"]
    curve = calibration.reliability(truth, rows.click)
    odds = np.linspace(1, 0.3, 10)
    given = SimpleNamespace(
        curves={"as trained": curve, "corrected": curve, "corrected and Platt": curve},
        trained=SimpleNamespace(losses=tuple(np.linspace(2, 1, 30)), first_step=0),
        position=SimpleNamespace(logged=odds, learnt=odds, true=odds),
    )
    drawn = {
        "reliability": figures_training.draw_reliability(given),  # type: ignore[arg-type]
        "loss": figures_training.draw_loss(given),  # type: ignore[arg-type]
        "position": figures_training.draw_position(given),  # type: ignore[arg-type]
    }
    entries = {
        name: len(figure.axes[0].get_legend_handles_labels()[1]) for name, figure in drawn.items()
    }
    assert entries == {"reliability": 4, "loss": 2, "position": 3}
