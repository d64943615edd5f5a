"""Ranks that fail together: what one of them cannot do is an error on all.

A rank that raises alone leaves the others in their next collective, waiting for a rank that will
not come: half an hour of silence, and then a message about a timeout. So whatever may fail on one
rank (a file, a disk, memory) is followed by an exchange of who failed, and why.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch.distributed as dist

from common.errors import InputError, RunError

T = TypeVar("T")


def together(work: Callable[[], T]) -> list[T]:
    """What ``work()`` returns on each rank; if it raises on any, raise on all. A collective.

    ``work`` itself must not communicate: a rank that fails in it skips what the others wait for.

    Raises
    ------
    RunError, InputError
        That of the lowest rank that failed, in the same words on every rank.
    """
    answer: T | None = None
    failure: Exception | None = None
    try:
        answer = work()
    except Exception as error:
        failure = error
    every: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(every, (answer, None if failure is None else _in_words(failure)))
    for _, said in every:
        if said is not None:
            kind, text = said
            raise (InputError if kind == "input" else RunError)(text) from failure
    return [answer for answer, _ in every]


def on_main(work: Callable[[], T]) -> T:
    """What ``work()`` returns on rank 0, on every rank; so for what it raises. A collective."""
    return together(lambda: work() if dist.get_rank() == 0 else None)[0]  # type: ignore[return-value]


def _in_words(failure: Exception) -> tuple[str, str]:
    if isinstance(failure, InputError):
        return "input", str(failure)
    if isinstance(failure, RunError):
        return "run", str(failure)
    return "run", f"rank {dist.get_rank()}: {type(failure).__name__}: {failure}"
