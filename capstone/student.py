"""The student as it is served: INT8 whose scores are the same in any company, fp32, or fp16.

Dynamic INT8 takes an activation's scale from whatever is in the batch, so a user's score depends on
who else asks in the same millisecond. Static scales come from calibration, once, before the model
is served (lab 4). Calibration reads training interactions only.

INT8 is made for CPUs. ONNX Runtime has no CUDA kernels for its nodes: they would run on the CPU,
with a copy before and after each. And a student of one layer, 64 wide, leaves a GPU waiting for
kernels to start, of which fp16 has as many as fp32: on a GPU fp32 is served unless told otherwise.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from capstone.data import Feed, Ints, Sequence, histories
from common.errors import require
from labs.lab4_model_serving.static_quantization import quantize_static_int8

Inputs = dict[str, NDArray[np.int64]]
Precision = Literal["int8", "fp32", "fp16"]
FILES: dict[Precision, str] = {
    "int8": "student.int8.onnx",
    "fp32": "student.onnx",
    "fp16": "student.fp16.onnx",
}
"""The student's file of each precision in the export stage's folder."""
BEFORE_TRAINING_ENDS = 3
"""Interactions left out of a calibration history: test, validation, and the newest training one."""


def served_precision(asked: Precision | Literal["auto"], device: str) -> Precision:
    """What the served student computes in on ``device`` (``cpu`` or ``cuda``)."""
    if asked != "auto":
        return asked
    return "fp32" if device == "cuda" else "int8"


def halve_student(fp32_path: Path, fp16_path: Path) -> Path:
    """Write the fp16 version of a ranker, with inputs and outputs of the original's types (lab 4).

    Parameters
    ----------
    fp32_path
        The ONNX model of :class:`capstone.models.RankCandidates`.
    """
    from labs.lab4_model_serving.half_precision import half_precision

    with warnings.catch_warnings():
        # The -1e9 of a mask becomes -10,000, which masks as well, and the smallest weights 1e-7.
        warnings.filterwarnings("ignore", message="the float32 number")
        return half_precision(fp32_path, fp16_path)


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
