"""Leaves a parameter without a gradient out of the message, so another takes its place."""

from contextlib import contextmanager
from functools import partial

import torch
import torch.distributed as dist
from torch import nn


class BucketedDataParallel(nn.Module):
    def __init__(self, module, *, bucket_bytes=25 * 2**20, group=None):
        super().__init__()
        self.module = module
        self.group = group
        self.syncing = True
        self.buckets = assign_buckets(module.parameters(), bucket_bytes)
        self.launched = 0
        broadcast_weights(module, group)
        for bucket in self.buckets:
            for parameter in bucket.parameters:
                parameter.register_post_accumulate_grad_hook(partial(self._on_gradient, bucket))

    def forward(self, *args, **kwargs):
        return self.module(*args, **kwargs)

    @contextmanager
    def no_sync(self):
        before, self.syncing = self.syncing, False
        try:
            yield
        finally:
            self.syncing = before

    def _on_gradient(self, bucket, parameter):
        if not self.syncing:
            return
        bucket.waiting.discard(id(parameter))
        while self.launched < len(self.buckets) and not self.buckets[self.launched].waiting:
            self._launch()

    def _launch(self):
        bucket = self.buckets[self.launched]
        gradients = [p.grad.flatten() for p in bucket.parameters if p.grad is not None]
        bucket.message = torch.cat(gradients) if gradients else torch.zeros(1)
        bucket.work = dist.all_reduce(bucket.message, group=self.group, async_op=True)
        self.launched += 1

    @torch.no_grad()
    def finish(self):
        while self.launched < len(self.buckets):
            self._launch()
        world = dist.get_world_size(self.group)
        for bucket in self.buckets:
            bucket.work.wait()
            offset = 0
            for parameter in bucket.parameters:
                if parameter.grad is not None:
                    part = bucket.message[offset : offset + parameter.numel()]
                    parameter.grad.copy_(part.view_as(parameter) / world)
                    offset += parameter.numel()
            bucket.reset()
        self.launched = 0
