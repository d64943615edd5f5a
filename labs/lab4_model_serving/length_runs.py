"""A batch as a few runs of texts of like length, so that little is computed on padding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from labs.lab4_model_serving.predictor import Answer, Predictor

RUN_SIZE = {"cpu": 16, "cuda": 256}
"""On a CPU a larger run is hardly cheaper a row, and its longest text costs every row more. On a
GPU a run costs its start, and padding next to nothing."""


def predict_in_runs(
    predictor: Predictor, texts: Sequence[str], *, run_size: int | None = None
) -> list[Answer]:
    """Answers of texts [n], in their order: one tokenizer call, then runs sorted by length.

    Parameters
    ----------
    run_size
        Texts of one run, padded to the longest among themselves; None takes what suits the
        predictor's device.
    """
    run_size = run_size or RUN_SIZE[predictor.device]
    ids = predictor.encode(texts)
    order = sorted(range(len(ids)), key=lambda row: len(ids[row]))
    answers: dict[int, Answer] = {}
    for first in range(0, len(order), run_size):
        rows = order[first : first + run_size]
        found = predictor.predict_ids([ids[row] for row in rows])
        answers.update(zip(rows, found, strict=True))
    return [answers[row] for row in range(len(ids))]
