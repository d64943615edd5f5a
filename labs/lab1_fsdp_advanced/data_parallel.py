"""Data parallelism by hand: every rank has the whole model and its own part of each batch.

With R ranks whose losses are means over equally many examples, the gradient of the whole batch is

    g = (g_0 + g_1 + ... + g_{R-1}) / R

so ranks that begin with equal weights and exchange gradients once a step compute the training of
one process. :func:`average_gradients` says just that. :class:`BucketedDataParallel` says it the
way torch's ``DistributedDataParallel`` does (Li et al., 2020, arXiv 2006.15704, section 3.2):
few large messages instead of many small ones, sent while the backward pass still computes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from common.errors import RunError, require
from common.exercises import exercise


def broadcast_weights(module: nn.Module, group: dist.ProcessGroup | None = None) -> None:
    """Give every rank of ``group`` the parameters and buffers of its first rank, in place."""
    for tensor in (*module.parameters(), *module.buffers()):
        dist.broadcast(tensor.detach(), group_src=0, group=group)


def average_gradients(
    parameters: Iterable[nn.Parameter], group: dist.ProcessGroup | None = None
) -> None:
    """Replace each gradient by its mean over the ranks: one all-reduce for each parameter.

    Call it between the backward pass and the step. A parameter without a gradient counts as zero,
    because the other ranks may have one and wait.

    What it costs. A collective takes about :math:`\\alpha + \\beta \\cdot bytes`: a latency, then
    the bandwidth. One for each parameter pays the latency of hundreds of small messages (a norm's
    weight is a few kilobytes), and as they all come after the backward pass, the network idles
    while the ranks compute and the ranks idle while it works.
    """
    world = dist.get_world_size(group)
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        dist.all_reduce(parameter.grad, group=group)
        parameter.grad /= world


@dataclass
class Bucket:
    """Parameters whose gradients travel in one message.

    Attributes
    ----------
    parameters
        Of one dtype, on one device, in the order of the message.
    waiting
        ``id`` of those whose gradient this backward pass has yet to compute.
    message, work
        What was sent and its handle, from the launch to :meth:`BucketedDataParallel.finish`.
    """

    parameters: list[nn.Parameter]
    waiting: set[int] = field(default_factory=set)
    message: Tensor | None = None
    work: dist.Work | None = None

    def reset(self) -> None:
        """Ready for the next backward pass."""
        self.waiting = {id(parameter) for parameter in self.parameters}
        self.message = self.work = None


def assign_buckets(parameters: Iterable[nn.Parameter], bucket_bytes: int) -> list[Bucket]:
    """Cut the parameters, last first, into buckets of at most ``bucket_bytes``.

    The backward pass computes the gradients of the last layers first, so in reverse order the
    first bucket is complete while most of the pass is still to come. A parameter larger than the
    limit has a bucket of its own; a change of dtype or device begins a new one.
    """
    require(bucket_bytes > 0, "bucket_bytes", bucket_bytes, "must be > 0", "try 25 * 2**20")
    buckets: list[Bucket] = []
    room, kind = 0, None
    for parameter in reversed([each for each in parameters if each.requires_grad]):
        size = parameter.numel() * parameter.element_size()
        if size > room or kind != (parameter.dtype, parameter.device):
            buckets.append(Bucket([]))
            room, kind = bucket_bytes, (parameter.dtype, parameter.device)
        buckets[-1].parameters.append(parameter)
        room -= size
    for bucket in buckets:
        bucket.reset()
    return buckets


@exercise(
    "1.3",
    points=10,
    title="Data parallelism by hand",
    hint="Every rank must launch the same buckets in the same order, whatever order its gradients "
    "come in: a bucket is launched when it is complete and all before it are. What is left for "
    "finish() to launch when a parameter took no part in the backward pass?",
)
class BucketedDataParallel(nn.Module):
    """Data parallelism with bucketed all-reduces that overlap with the backward pass.

    A step::

        model = BucketedDataParallel(model)
        with model.no_sync():                    # all micro-batches but the last
            (loss_fn(model, first) / 2).backward()
        (loss_fn(model, last) / 2).backward()    # launches the buckets as they fill
        model.finish()                           # p.grad is now the mean over ranks
        optimizer.step()
        optimizer.zero_grad()

    Afterwards ``p.grad`` is what one process would have: the mean over ranks of what each rank
    had in ``p.grad``, where a rank without a gradient counts as zero. A parameter that *no* rank
    used keeps ``grad = None``: with a gradient of zero, AdamW would decay it.

    Parameters
    ----------
    module
        Equal in structure on every rank; it is given the weights of the group's first rank.
    bucket_bytes
        Largest message, apart from parameters that are larger alone. 25 MiB as in torch.
    group
        Ranks that train together; None for all.
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        bucket_bytes: int = 25 * 2**20,
        group: dist.ProcessGroup | None = None,
    ) -> None:
        super().__init__()
        self.module = module
        self.group = group
        self.syncing = True
        self.buckets = assign_buckets(module.parameters(), bucket_bytes)
        # Buckets before this one are on their way.
        self.launched = 0
        broadcast_weights(module, group)
        for bucket in self.buckets:
            for parameter in bucket.parameters:
                parameter.register_post_accumulate_grad_hook(partial(self._on_gradient, bucket))

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.module(*args, **kwargs)

    @contextmanager
    def no_sync(self) -> Iterator[None]:
        """Backward passes inside only add to ``p.grad``; nothing is sent."""
        before, self.syncing = self.syncing, False
        try:
            yield
        finally:
            self.syncing = before

    def _on_gradient(self, bucket: Bucket, parameter: nn.Parameter) -> None:
        """Autograd calls this once ``parameter.grad`` is complete in a backward pass.

        Nothing happens inside ``no_sync``. Otherwise the parameter waits no more, and every bucket
        that is now complete *and whose predecessors are all launched* is launched: ranks whose
        gradients come in another order, or not at all, still send the same buckets in turn.

        Raises
        ------
        RunError
            For a second backward pass before ``finish``: its gradient would miss the message.
        """
        # BEGIN SOLUTION
        if not self.syncing:
            return
        if id(parameter) not in bucket.waiting:
            raise RunError("backward() ran twice before finish(); run all but the last in no_sync")
        bucket.waiting.remove(id(parameter))
        while self.launched < len(self.buckets) and not self.buckets[self.launched].waiting:
            self._launch()
        # END SOLUTION

    def _launch(self) -> None:
        """Start the all-reduce of ``self.buckets[self.launched]`` and go on to the next bucket.

        ``dist.all_reduce(message, group=..., async_op=True)`` returns a handle at once; it is kept
        in ``bucket.work``, and the message in ``bucket.message``, until :meth:`finish`.

        The message is one flat tensor: the gradients in the bucket's order, zeros for a parameter
        without one, then for each parameter 1 if this rank has a gradient for it and else 0. Summed
        over the ranks, those last numbers tell everybody whether anybody had one.
        """
        # BEGIN SOLUTION
        bucket = self.buckets[self.launched]
        gradients = [parameter.grad for parameter in bucket.parameters]
        parts = [
            torch.zeros_like(parameter).flatten() if gradient is None else gradient.flatten()
            for parameter, gradient in zip(bucket.parameters, gradients)
        ]
        had_one = [float(gradient is not None) for gradient in gradients]
        bucket.message = torch.cat([*parts, parts[0].new_tensor(had_one)])
        bucket.work = dist.all_reduce(bucket.message, group=self.group, async_op=True)
        self.launched += 1
        # END SOLUTION

    @torch.no_grad()
    def finish(self) -> None:
        """Launch what is left, wait for every bucket and write the means into ``p.grad``.

        A bucket is left when one of its parameters took no part in the last backward pass; and so
        is every bucket after it. Afterwards all buckets are reset and ``self.launched`` is 0.
        """
        # BEGIN SOLUTION
        while self.launched < len(self.buckets):
            self._launch()
        world = dist.get_world_size(self.group)
        for bucket in self.buckets:
            assert bucket.work is not None
            assert bucket.message is not None
            bucket.work.wait()
            sizes = [parameter.numel() for parameter in bucket.parameters]
            *means, had_one = (bucket.message / world).split([*sizes, len(sizes)])
            for parameter, mean, shared in zip(bucket.parameters, means, had_one):
                if parameter.grad is not None:
                    parameter.grad.copy_(mean.view_as(parameter))
                elif shared > 0:
                    parameter.grad = mean.view_as(parameter).clone()
            bucket.reset()
        self.launched = 0
        # END SOLUTION
