"""Keeps the moments of all weights on every rank: the right weights, no memory saved."""

import torch
import torch.distributed as dist
from torch import nn


class ZeroOneOptimizer:
    def __init__(self, params, optimizer_class, *, group=None, **options):
        self.params = check_params([each for each in params if each.requires_grad])
        self.group = group
        self.rank, self.world = dist.get_rank(group), dist.get_world_size(group)
        length = -(-sum(each.numel() for each in self.params) // self.world)
        self.flat = torch.zeros(self.world * length, device=self.params[0].device)
        offset = 0
        for each in self.params:
            view = self.flat[offset : offset + each.numel()].view_as(each)
            each.data = view.copy_(each.detach())
            offset += each.numel()
        dist.broadcast(self.flat, group_src=0, group=group)
        self.shard = nn.Parameter(self.flat[self.rank * length : (self.rank + 1) * length])
        self.whole = nn.Parameter(self.flat)
        self.optimizer = optimizer_class([self.whole], **options)

    @torch.no_grad()
    def step(self):
        gradients = torch.zeros_like(self.flat)
        offset = 0
        for each in self.params:
            if each.grad is not None:
                gradients[offset : offset + each.numel()] = each.grad.flatten()
            offset += each.numel()
        mine = torch.empty_like(self.shard)
        reduce_scatter(mine, gradients, group=self.group)
        self.whole.grad = torch.empty_like(self.flat)
        all_gather(self.whole.grad, mine / self.world, group=self.group)
        self.optimizer.step()

    def zero_grad(self):
        for each in self.params:
            each.grad = None

    def state_bytes(self):
        return state_bytes(self.optimizer)

    def state_dict(self):
        return {"optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state):
        self.optimizer.load_state_dict(state["optimizer"])
