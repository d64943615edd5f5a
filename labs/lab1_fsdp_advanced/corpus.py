"""Batches of a text that many ranks read: decided by the step, divided by the rank."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from common.errors import InputError


def write_corpus(texts: list[str], path: Path) -> int:
    """Write texts as UTF-8 bytes, a zero byte after each; the number of bytes."""
    content = b"\0".join(text.encode() for text in texts) + b"\0"
    path.write_bytes(content)
    return len(content)


@dataclass(frozen=True)
class ByteWindows:
    """Random windows of a file of bytes: ``windows(step, rank, world)`` -> micro-batches.

    The windows of a step are drawn from ``(seed, step)`` alone, by every rank alike, and each
    rank keeps every ``world``-th. So no rank has to be told what the others read, no window is
    read twice, and a run that goes on with another number of ranks reads the same global batch.

    Parameters
    ----------
    path
        The file; it is mapped, not read, so a rank touches only its own windows.
    context
        Tokens that a window predicts; it holds one more.
    global_batch
        Windows a step over all ranks and micro-batches.
    micro_batches
        Parts in which a rank computes its share.
    """

    path: Path
    context: int
    global_batch: int
    micro_batches: int
    seed: int
    device: torch.device | str = "cpu"

    def __call__(self, step: int, rank: int, world: int) -> list[Tensor]:
        """``micro_batches`` tensors [global_batch / world / micro_batches, context + 1] of int64.

        Raises
        ------
        InputError
            When the global batch does not divide, or the text is shorter than one window.
        """
        if self.global_batch % (world * self.micro_batches):
            raise InputError(
                f"global_batch = {self.global_batch} must be a multiple of {world} rank(s) x "
                f"{self.micro_batches} micro-batch(es); change one of them"
            )
        content = np.memmap(self.path, dtype=np.uint8, mode="r")
        if len(content) <= self.context:
            raise InputError(
                f"{self.path} has {len(content)} bytes, a window needs {self.context + 1}"
            )
        rng = np.random.default_rng((self.seed, step))
        starts = rng.integers(0, len(content) - self.context, size=self.global_batch)[rank::world]
        rows = content[starts[:, None] + np.arange(self.context + 1)]
        windows = torch.from_numpy(rows.astype(np.int64)).to(self.device)
        return list(windows.chunk(self.micro_batches))
