"""INT8 of the student whose scores are the same in any company.

Dynamic INT8 takes an activation's scale from whatever is in the batch, so a user's score depends on
who else asks in the same millisecond. Static scales come from calibration, once, before the model
is served (lab 4). Calibration reads training interactions only.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from capstone.data import Feed, Ints, Sequence, histories
from common.errors import require
from labs.lab4_model_serving.static_quantization import quantize_static_int8

Inputs = dict[str, NDArray[np.int64]]
BEFORE_TRAINING_ENDS = 3
"""Interactions left out of a calibration history: test, validation, and the newest training one."""


def calibration_inputs(
    feed: Feed,
    candidates: Ints,
    *,
    length: int,
    users: int = 256,
    batch: int = 16,
    seed: int = 0,
) -> list[Inputs]:
    """Batches of the ranker's inputs for calibration, of ``users`` users drawn by ``seed``.

    Parameters
    ----------
    candidates : [n_users, C]
        What retrieval gives for the training histories (the *validation* candidates): the item
        vectors that the model will meet, by far the most of them no held-out item.
    length
        Items of a history that the model reads.

    Raises
    ------
    InputError
        For no users, more than there are, or a batch below 1.
    """
    require(0 < users <= feed.n_users, "users", users, f"must be from 1 to {feed.n_users}")
    require(batch >= 1, "batch", batch, "must be >= 1")
    chosen = np.random.default_rng(seed).permutation(feed.n_users)[:users]
    known: tuple[Sequence, ...] = tuple(
        feed.sequences[user].before(BEFORE_TRAINING_ENDS) for user in chosen
    )
    history, ratings = histories(known, length)
    return [
        {
            "history": history[at : at + batch],
            "ratings": ratings[at : at + batch],
            "candidates": candidates[chosen[at : at + batch]],
        }
        for at in range(0, users, batch)
    ]


def quantize_student(fp32_path: Path, int8_path: Path, inputs: list[Inputs]) -> Path:
    """Write the static INT8 version of a ranker: products and embedding tables, per channel.

    Softmax, norms and the mask of the attention stay float32: they are few bytes, and a mask of
    -inf or -1e9 among the values of a tensor leaves no steps for the others.

    Parameters
    ----------
    fp32_path
        The ONNX model of :class:`capstone.models.RankCandidates`.
    inputs
        :func:`calibration_inputs`.
    """
    return quantize_static_int8(fp32_path, int8_path, inputs)
