"""The figures of retrieval show every source, every objective, and the numbers they were given."""

from __future__ import annotations

import numpy as np
import pytest

from capstone.figures_retrieval import draw_log_q, draw_sources
from capstone.item_to_item import Neighbours
from capstone.retrieval_study import RetrievalStudy, Share, SourceResult
from capstone.source_choice import Chosen
from capstone.sources import SOURCE_NAMES, Quotas, SourceTables
from capstone.two_tower import OBJECTIVES, LogQStudy, ObjectiveResult


def study() -> RetrievalStudy:
    nothing = Neighbours(np.zeros((3, 1), np.int32), np.zeros((3, 1), np.float32))
    ids = np.zeros(0, np.int32)
    tables = SourceTables(nothing.ids, nothing.weights, ids, ids, Quotas(5, 3, 1, 1))
    shares = [Share(value, (value - 0.1, value + 0.1)) for value in (0.7, 0.6, 0.4, 0.1)]
    results = tuple(
        SourceResult(name, share, Share(0.02, (0.0, 0.04)), 0.5, quota)
        for name, share, quota in zip(SOURCE_NAMES, shares, (5, 3, 1, 1), strict=False)
    )
    return RetrievalStudy(
        10, Chosen(tables, (), (), ()), results, Share(0.8, (0.7, 0.9)), shares[0],
        Share(0.1, (0.0, 0.2)), 0.9, 0.8, 0.1, 0.2, np.zeros((1, 10), np.int64),
    )  # fmt: skip


def test_the_sources_are_drawn_at_their_recall_with_their_quota() -> None:
    recall, contribution = draw_sources(study()).axes
    labels = [label.get_text() for label in recall.get_yticklabels()]
    assert labels == ["all, merged (10)", "fresh (1)", "popular (1)", "item to item (3)",
                      "nearest (5)"]  # fmt: skip
    points = [line.get_xdata()[0] for line in recall.lines if len(line.get_xdata()) == 1]
    assert points == pytest.approx([0.8, 0.1, 0.4, 0.6, 0.7])
    assert next(label.get_text() for label in contribution.get_yticklabels()) == "fresh"


def test_every_objective_has_a_curve_of_its_deciles() -> None:
    curves = [tuple(np.linspace(0, top, 10)) for top in (0.6, 0.5, 0.1)]
    results = tuple(
        ObjectiveResult(name, 0.5, (0.5,), curve, (0.1,) * 10, 100.0)
        for name, curve in zip(OBJECTIVES, curves, strict=True)
    )
    recall, recommended = draw_log_q(LogQStudy(50, (1,) * 10, results)).axes
    assert [line.get_label() for line in recall.lines] == list(OBJECTIVES)
    for line, curve in zip(recall.lines, curves, strict=True):
        assert line.get_ydata() == pytest.approx(curve)
    assert len(recommended.lines) == len(OBJECTIVES) + 1, "and the share of the interactions"
