"""Adds the reactions at padding too, where no film was watched."""

import torch.nn.functional as F


def multi_task_loss(engage, reactions, nexts, labels, *, tokens):
    total = F.cross_entropy(engage.flatten(0, 1), nexts.flatten(), ignore_index=0, reduction="sum")
    total = total + F.binary_cross_entropy_with_logits(reactions, labels, reduction="sum")
    return total / tokens
