"""Text to token ids, the same for training and for every server."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from common.errors import InputError, require

PADDING = 0  # [PAD] of BERT's vocabulary


class Tokens:
    """A WordPiece tokenizer that cuts at ``max_tokens``, [CLS] and [SEP] included.

    Raises
    ------
    InputError
        No tokenizer file, or ``max_tokens`` outside 3 to 512.
    """

    def __init__(self, path: Path, max_tokens: int = 32) -> None:
        require(3 <= max_tokens <= 512, "max_tokens", max_tokens, "must be from 3 to 512")
        if not path.is_file():
            raise InputError(f"no tokenizer at {path}")
        self.max_tokens = max_tokens
        self._tokenizer = Tokenizer.from_file(str(path))
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(max_tokens)

    def ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text; no padding."""
        return [each.ids for each in self._tokenizer.encode_batch_fast(list(texts))]

    def __call__(self, texts: Sequence[str]) -> dict[str, NDArray[np.int64]]:
        """Model inputs ``input_ids`` and ``attention_mask``, padded to the longest text."""
        return pad(self.ids(texts))


def pad(ids: Sequence[Sequence[int]], to: int = 0) -> dict[str, NDArray[np.int64]]:
    """Rows of token ids to two int64 arrays [n, t]; t is the longest row, or ``to`` if more."""
    lengths = np.fromiter((len(row) for row in ids), np.int64, len(ids))
    longest = max(int(lengths.max(initial=0)), to)
    mask = (np.arange(longest) < lengths[:, None]).astype(np.int64)
    padded = np.full(mask.shape, PADDING, np.int64)
    padded[mask.astype(bool)] = np.concatenate([np.asarray(row, np.int64) for row in ids])
    return {"input_ids": padded, "attention_mask": mask}
