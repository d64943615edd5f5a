"""Averages over the reactions, so each new head slows down the others."""

import torch.nn.functional as F


def multi_task_loss(engage, reactions, nexts, labels, *, tokens):
    real = nexts > 0
    total = F.cross_entropy(engage[real], nexts[real], reduction="sum")
    reacted = F.binary_cross_entropy_with_logits(reactions[real], labels[real], reduction="sum")
    return (total + reacted / reactions.shape[-1]) / tokens
