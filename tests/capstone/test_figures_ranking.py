"""Figures show what was measured, a failed gate and a missing value included."""

from __future__ import annotations

from capstone.figures_ranking import draw_gates, draw_random_split
from capstone.gates import judge
from capstone.random_split_study import RandomSplitStudy, Scored

GOOD = {
    "ndcg_at_10": 0.1, "auc": 0.8, "ece": 0.05, "engage_log_ratio": 0.1, "tied_share": 0.0,
    "overlap_at_10": 0.7,
}  # fmt: skip


def test_a_gate_without_a_value_is_drawn_as_failed() -> None:
    broken = {name: value for name, value in GOOD.items() if name != "ece"}
    figure = draw_gates(judge(broken | {"auc": 0.5}, GOOD))
    axes = figure.axes[0]
    words = [text.get_text() for text in axes.texts]
    assert "no value" in words
    colours = {tuple(bar.get_facecolor()) for bar in axes.patches}
    assert len(colours) == 2, "what passed and what failed look alike"


def test_every_model_of_the_random_split_is_drawn_beside_the_published_one() -> None:
    scored = Scored(0.78, (0.77, 0.79), 0.56, 0.77)
    best = Scored(0.804, (0.793, 0.816), 0.53, 0.8)
    figure = draw_random_split(
        RandomSplitStudy(scored, scored, scored, best, (0.0, 1.0, 1.0), 10_000, "ab")
    )
    axes = figure.axes[0]
    assert len(axes.get_yticklabels()) == 4
    assert "0.804" in [text.get_text() for text in axes.texts]
