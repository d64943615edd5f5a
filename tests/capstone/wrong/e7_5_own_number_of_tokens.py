"""Divides by the tokens of its own rank, so interactions beside short histories weigh more."""

import torch.nn.functional as F


def multi_task_loss(engage, reactions, nexts, labels, *, tokens):
    real = nexts > 0
    total = F.cross_entropy(engage[real], nexts[real], reduction="sum")
    total = total + F.binary_cross_entropy_with_logits(
        reactions[real], labels[real], reduction="sum"
    )
    return total / real.sum()
