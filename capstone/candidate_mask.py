"""Candidate isolation: who may look at whom, when candidates are tokens behind the history.

A transformer that reads history and candidates in one sequence is accurate, and dangerous: what an
item scores may depend on the items that happen to be scored with it. Such a score cannot be
cached, batched, compared across requests or calibrated. The mask forbids it.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from common.exercises.marker import exercise


@exercise(
    "7.3",
    points=10,
    title="The mask that isolates candidates",
    hint="Write down the four answers for a query and a key, each either history or candidate. One "
    "comparison of positions is right for three of them; which one does it get wrong?",
)
def isolation_mask(history: Tensor, n_candidates: int) -> Tensor:
    """Which positions a position may look at, for the sequence [history, candidates].

    ==================  =============================  ===============================
    query               keys among the history         keys among the candidates
    ==================  =============================  ===============================
    history item        real items up to itself        none
    candidate           every real item                itself alone
    ==================  =============================  ===============================

    A padding position looks at itself alone: a row without any True would be NaN after softmax.

    Parameters
    ----------
    history : int64 [B, L]
        Items, oldest first, right-aligned; 0 is padding.
    n_candidates
        C, at least 1.

    Returns
    -------
    bool [B, 1, L + C, L + C]
        True where the query (second last axis) may look at the key (last axis); for
        ``scaled_dot_product_attention(..., attn_mask=mask)``. The axis of 1 is for the heads.

    Examples
    --------
    >>> isolation_mask(torch.tensor([[0, 7]]), 2)[0, 0].int()
    tensor([[1, 0, 0, 0],
            [0, 1, 0, 0],
            [0, 1, 1, 0],
            [0, 1, 0, 1]], dtype=torch.int32)
    """
    length = history.shape[1]
    position = torch.arange(length + n_candidates, device=history.device)
    query, key = position[:, None], position[None, :]
    real = torch.nn.functional.pad(history != 0, (0, n_candidates))  # no candidate is a key
    earlier = real[:, None, :] & (key <= query)
    return (earlier | (query == key))[:, None]


def isolation_rule(history: Tensor) -> Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]:
    """The same mask as a rule (batch, head, query, key) -> bool, for PyTorch's FlexAttention.

    ``create_block_mask(isolation_rule(history), B, None, S, S)`` finds the blocks of keys that a
    block of queries can skip: most of candidates x candidates. The dense mask computes these
    products and throws them away, so with C candidates it wastes C² of (L + C)².
    """
    length = history.shape[1]

    def rule(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        in_history = key < length
        real = history[batch, key.clamp(max=length - 1)] != 0
        return (in_history & real & (key <= query)) | (query == key)

    return rule
