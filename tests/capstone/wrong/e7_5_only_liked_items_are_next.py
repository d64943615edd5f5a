"""Learns the next item from liked ones alone: engagement, which is any watching, is confused."""

import torch.nn.functional as F


def multi_task_loss(engage, reactions, nexts, labels, *, tokens):
    real = nexts > 0
    liked = real & (labels[..., 0] > 0)
    total = F.cross_entropy(engage[liked], nexts[liked], reduction="sum")
    total = total + F.binary_cross_entropy_with_logits(
        reactions[real], labels[real], reduction="sum"
    )
    return total / tokens
