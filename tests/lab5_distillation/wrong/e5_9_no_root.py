"""Leaves out the root of the head's width: the softmax is far too sharp."""

import torch
import torch.nn.functional as F


def relation_loss(student, teacher, mask, *, heads):
    real = mask.bool()

    def log_relation(pair):
        one, other = (each.float().unflatten(-1, (heads, -1)).transpose(1, 2) for each in pair)
        scores = one @ other.transpose(-1, -2)
        scores = scores.masked_fill(~real[:, None, None, :], torch.finfo(scores.dtype).min)
        return F.log_softmax(scores, dim=-1)

    ours = log_relation(student)
    theirs = log_relation(tuple(each.detach() for each in teacher))
    divergence = F.kl_div(ours, theirs, reduction="none", log_target=True).sum(-1)
    return divergence.mean(1)[real].mean()
