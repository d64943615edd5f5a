"""The negatives are taken as a uniform sample: popular items are pushed down."""

import torch


def corrected_logits(logits, log_q, items, positive):
    rows = torch.arange(len(positive), device=logits.device)
    hits = items[None, :] == items[positive][:, None]
    hits[rows, positive] = False
    return logits.masked_fill(hits, -torch.inf)
