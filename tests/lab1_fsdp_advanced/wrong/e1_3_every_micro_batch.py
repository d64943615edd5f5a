"""Exchanges gradients after every micro-batch; the gradient is right all the same."""

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
        bucket.waiting.discard(id(parameter))
        while self.launched < len(self.buckets) and not self.buckets[self.launched].waiting:
            self._launch()
        if self.launched == len(self.buckets):
            self.finish()

    def _launch(self):
        bucket = self.buckets[self.launched]
        gradients = [p.grad for p in bucket.parameters]
        parts = [
            torch.zeros_like(p).flatten() if gradient is None else gradient.flatten()
            for p, gradient in zip(bucket.parameters, gradients)
        ]
        had_one = [float(gradient is not None) for gradient in gradients]
        bucket.message = torch.cat([*parts, parts[0].new_tensor(had_one)])
        bucket.work = dist.all_reduce(bucket.message, group=self.group, async_op=True)
        self.launched += 1

    @torch.no_grad()
    def finish(self):
        while self.launched < len(self.buckets):
            self._launch()
        world = dist.get_world_size(self.group)
        for bucket in self.buckets:
            bucket.work.wait()
            sizes = [p.numel() for p in bucket.parameters]
            *means, had_one = (bucket.message / world).split([*sizes, len(sizes)])
            for parameter, mean, shared in zip(bucket.parameters, means, had_one):
                if parameter.grad is not None:
                    parameter.grad.copy_(mean.view_as(parameter))
                elif shared > 0:
                    parameter.grad = mean.view_as(parameter).clone()
            bucket.reset()
        self.launched = 0
