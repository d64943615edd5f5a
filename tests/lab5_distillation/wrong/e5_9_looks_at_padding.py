"""Tokens look at padding."""

import torch
import torch.nn.functional as F


def relation_loss(student, teacher, mask, *, heads):
    real = mask.bool()

    def log_relation(pair):
        one, other = (each.float().unflatten(-1, (heads, -1)).transpose(1, 2) for each in pair)
        scores = one @ other.transpose(-1, -2) / one.shape[-1] ** 0.5
        return F.log_softmax(scores, dim=-1)

    ours = log_relation(student)
    theirs = log_relation(tuple(each.detach() for each in teacher))
    divergence = F.kl_div(ours, theirs, reduction="none", log_target=True).sum(-1)
    return divergence.mean(1)[real].mean()
