"""Save while training goes on: copy now, write in the background, publish later.

A synchronous save stops training for as long as the disk takes. Here it stops for a copy of this
rank's shards in host memory; a thread writes the copy. The rename that makes a checkpoint count
stays on the main thread, at a point that all ranks reach.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any, Self

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint import state_dict_saver
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions
from torch.optim import Optimizer
from torch.torch_version import TorchVersion
from torch.utils._pytree import tree_leaves

from labs.lab1_fsdp_advanced import checkpoint
from labs.lab1_fsdp_advanced.agreement import on_main, together
from labs.lab1_fsdp_advanced.checkpoint import Draft
from labs.lab1_fsdp_advanced.checkpoint_files import COPY_AHEAD

REUSABLE = TorchVersion(torch.__version__) >= "2.13"
"""torch 2.11 empties a stager after its first use, and the second fails with a KeyError: there each
save gets a new one, and pins its memory again."""


@dataclass(frozen=True)
class Timing:
    """What one checkpoint cost this rank.

    Attributes
    ----------
    bytes
        Written by this rank.
    stalled_s
        Seconds in which training stood still: copying, and what was left to wait for when it was
        published. The whole save, when it is synchronous.
    written_s
        Seconds from the call of ``save`` until every rank's files were on the disk.
    """

    step: int
    bytes: int
    stalled_s: float
    written_s: float


@dataclass(frozen=True)
class Stalls:
    """Medians of the slowest rank, for checkpoints of ``bytes`` on all ranks together.

    Attributes
    ----------
    synchronous_s, asynchronous_s
        Seconds in which training stood still for one checkpoint.
    written_s
        Seconds that an asynchronous one took to be written beside training.
    """

    bytes: int
    synchronous_s: float
    asynchronous_s: float
    written_s: float


@dataclass
class _Pending:
    """A checkpoint that a thread is writing."""

    draft: Draft
    future: Future[Any]
    began: float
    stalled_s: float
    written_at: float = 0.0


class Saver:
    """Saves the checkpoints of one run, and keeps the time. Built and called by all ranks.

    A checkpoint saved asynchronously counts once it is published: by the next :meth:`save`, by
    :meth:`wait` (so at the end of the ``with`` block), or by the first :meth:`poll` after every
    rank has written its part. A run that is killed before goes on from the one before.

    Parameters
    ----------
    directory, keep
        See ``checkpoint.save``.
    asynchronous
        Return from :meth:`save` once this rank's shards are copied. The copy takes as much host
        memory as the rank's weights and optimizer state (12 bytes a parameter with Adam in fp32,
        divided by the ranks that share a replica), and stays for the next save until
        :meth:`close`.

    Examples
    --------
    >>> with Saver(Path("checkpoints"), asynchronous=True) as saver:
    ...     for step in range(1, 1001):
    ...         train_step(...)
    ...         if step % 100 == 0:
    ...             saver.save(model, optimizer, step)
    ...         else:
    ...             saver.poll()
    """

    def __init__(self, directory: Path, *, keep: int = 2, asynchronous: bool = False) -> None:
        self.directory = directory
        self.keep = keep
        self.asynchronous = asynchronous
        self.timings: list[Timing] = []
        self._pending: _Pending | None = None
        self._stager: DefaultStager | None = None
        # The thread's collectives need a group of their own: in one shared with training, the two
        # threads of a rank could enter them in another order than those of the next rank. Gloo,
        # because what is written is in host memory.
        self._group = dist.new_group(backend="gloo") if asynchronous else None

    def save(
        self,
        model: nn.Module,
        optimizer: Optimizer | None,
        step: int,
        extra: dict[str, Any] | None = None,
    ) -> None:
        """Save, or begin to; publish the checkpoint before it first. A collective.

        What changes after this returns does not reach the checkpoint.

        Raises
        ------
        RunError
            See ``checkpoint.save``; also when the checkpoint before could not be written.
        """
        self.wait()
        began = time.perf_counter()
        draft = checkpoint.begin(
            self.directory,
            model,
            optimizer,
            step,
            extra,
            keep=self.keep,
            # What is copied already needs no copying ahead, which in another thread than the
            # main one would open a context on the first GPU, from every rank.
            copy_ahead=0 if self.asynchronous else COPY_AHEAD,
        )
        if self.asynchronous:
            self._start(draft, began)
            return
        checkpoint.write(draft)
        written = time.perf_counter()
        checkpoint.commit(draft)
        self._record(draft, time.perf_counter() - began, written - began)

    def poll(self) -> bool:
        """Publish the pending checkpoint if all ranks have written it. A collective; cheap."""
        if self._pending is None:
            return False
        done = torch.tensor(int(self._pending.future.done()))
        dist.all_reduce(done, op=dist.ReduceOp.MIN)
        if not done:
            return False
        self.wait()
        return True

    def wait(self) -> None:
        """Let the pending checkpoint be written, and publish it. A collective.

        Raises
        ------
        RunError
            When a rank could not write its part; the checkpoints before are untouched.
        """
        pending, self._pending = self._pending, None
        if pending is None:
            return
        began = time.perf_counter()
        try:
            pending.future.result()
        except CheckpointException as error:
            raise checkpoint.abandoned(pending.draft, error) from error
        checkpoint.commit(pending.draft)
        stalled_s = pending.stalled_s + time.perf_counter() - began
        self._record(pending.draft, stalled_s, pending.written_at - pending.began)

    def close(self) -> None:
        """Give back the copy's memory and the group. A collective."""
        if self._stager is not None:
            self._stager.close()
            self._stager = None
        if self._group is not None:
            dist.destroy_process_group(self._group)
            self._group = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        # After an error the other ranks may be elsewhere: to meet them here could wait for ever.
        if kind is None:
            self.wait()
            self.close()

    def _start(self, draft: Draft, began: float) -> None:
        on_gpu = any(leaf.is_cuda for leaf in tree_leaves(draft.state) if isinstance(leaf, Tensor))
        if self._stager is None or not REUSABLE:
            options = StagingOptions(
                use_pinned_memory=on_gpu,
                use_shared_memory=False,
                use_async_staging=False,
                use_non_blocking_copy=on_gpu,
            )
            self._stager = DefaultStager(options)
        started: list[Future[Any]] = []

        def start() -> None:
            future = state_dict_saver.async_save(
                draft.state,
                storage_writer=draft.writer,
                process_group=self._group,
                async_stager=self._stager,
            )
            assert isinstance(future, Future)
            started.append(future)

        together(start)
        stalled_s = time.perf_counter() - began
        pending = _Pending(replace(draft, state={}), started[0], began, stalled_s)

        def written(_: Future[Any]) -> None:
            pending.written_at = time.perf_counter()

        pending.future.add_done_callback(written)
        self._pending = pending

    def _record(self, draft: Draft, stalled_s: float, written_s: float) -> None:
        size = sum(file.bytes for file in draft.writer.files.values())
        self.timings.append(Timing(draft.manifest.step, size, stalled_s, written_s))


def compare(
    directory: Path,
    model: nn.Module,
    optimizer: Optimizer,
    work: Callable[[], object],
    *,
    saves: int = 3,
) -> Stalls:
    """Time synchronous saves against asynchronous ones. A collective; leaves no checkpoint.

    Parameters
    ----------
    directory
        An empty or absent folder on the disk in question.
    work
        What the ranks do between two saves, such as training steps: long enough to be worth a
        checkpoint, or the asynchronous save has nothing to hide behind.
    saves
        Counted, of each kind. One more comes first, because it allocates what the others reuse.
    """
    kinds: list[list[Timing]] = []
    for asynchronous in (False, True):
        with Saver(directory, keep=1, asynchronous=asynchronous) as saver:
            for step in range(saves + 1):
                saver.save(model, optimizer, step)
                work()
                saver.poll()
        kinds.append(saver.timings[1:])
    on_main(lambda: shutil.rmtree(directory))
    ranks = together(lambda: kinds)

    def slowest(kind: int, value: Callable[[Timing], float]) -> float:
        return max(median(value(timing) for timing in rank[kind]) for rank in ranks)

    return Stalls(
        bytes=sum(rank[0][-1].bytes for rank in ranks),
        synchronous_s=slowest(0, lambda timing: timing.stalled_s),
        asynchronous_s=slowest(1, lambda timing: timing.stalled_s),
        written_s=slowest(1, lambda timing: timing.written_s),
    )
