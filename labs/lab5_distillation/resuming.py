"""Where a run stopped: the place in its epoch and the state of every generator it draws from.

A resumed run repeats the uninterrupted one to the bit when two things are right: the batches that
it has yet to see, and the random numbers that dropout draws for them.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from common.errors import RunError
from common.exercises import exercise

Generators = dict[str, Any]
"""States of the global generators: plain values and tensors."""


def generators() -> Generators:
    """States of torch's, numpy's and Python's global generators, as they are now.

    The GPU's is that of the current device, where CUDA has been used.
    """
    kind, keys, *rest = np.random.get_state(legacy=True)  # noqa: NPY002 - others draw from it
    found: Generators = {
        "torch": torch.get_rng_state(),
        "numpy": [kind, torch.from_numpy(np.asarray(keys).astype(np.int64)), *rest],
        "python": list(random.getstate()),
    }
    if torch.cuda.is_initialized():
        found["cuda"] = torch.cuda.get_rng_state()
    return found


def set_generators(states: Generators) -> None:
    """Put the global generators back into the given states."""
    torch.set_rng_state(states["torch"])
    kind, keys, *rest = states["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))  # noqa: NPY002
    version, inner, gauss = states["python"]
    random.setstate((version, tuple(inner), gauss))
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])


@dataclass(frozen=True)
class Place:
    """A place in a run.

    Attributes
    ----------
    epoch
        The epoch it is in; the first is 0.
    batches
        Batches of that epoch that the run has learnt from.
    at_start
        The generators when the epoch began, before the loader was asked for anything. None for an
        epoch that is still to begin.
    now
        The generators after the last of ``batches``. None for an epoch that is still to begin.
    """

    epoch: int
    batches: int = 0
    at_start: Generators | None = None
    now: Generators | None = None


@exercise(
    "5.3",
    points=10,
    title="Resuming where it stopped",
    hint="What does the order of the batches depend on, and when is it drawn? Whatever you do on "
    "the way to the next batch may draw random numbers: in which order must the three states be "
    "set?",
)
def rest_of_epoch(loader: Any, place: Place) -> Iterator[Any]:
    """The batches of the place's epoch that are still to come, as the stopped run had seen them.

    A loader takes its order from one of two sources. Ours (`tokens.Batches`, and PyTorch's
    ``DistributedSampler``) depend on a seed and the epoch, which they are told by
    ``set_epoch(epoch)`` before they are iterated. Others (``DataLoader(shuffle=True)``) draw it
    from the global generator when iteration begins: with ``place.at_start`` set they draw it
    again.

    Batches that were seen are passed over: the loader makes them, nobody learns from them. (What
    a loader draws for a single batch, such as an augmentation, is drawn for those too.) When the
    first of the others is asked for, the generators are as in ``place.now``: dropout goes on
    where it was.

    Parameters
    ----------
    loader
        An iterable, with ``set_epoch(epoch)`` or without.
    place
        Where to go on. With ``at_start`` and ``now`` None, the generators are left alone.

    Yields
    ------
    Any
        Batches, from number ``place.batches`` (the first is 0) to the last of the epoch.

    Raises
    ------
    RunError
        The loader ends before it has given as many as were seen.

    Examples
    --------
    >>> list(rest_of_epoch(["a", "b", "c"], Place(epoch=0, batches=1)))
    ['b', 'c']
    """
    if place.at_start is not None:
        set_generators(place.at_start)
    set_epoch = getattr(loader, "set_epoch", None)
    if set_epoch is not None:
        set_epoch(place.epoch)
    batches = iter(loader)
    for number in range(place.batches):
        if next(batches, batches) is batches:
            raise RunError(f"the loader gives {number} batches, and {place.batches} were seen")
    if place.now is not None:
        set_generators(place.now)
    yield from batches
