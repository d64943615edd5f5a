"""The sign is turned round: what is drawn often is pushed down twice."""

import torch


def corrected_logits(logits, log_q, items, positive):
    rows = torch.arange(len(positive), device=logits.device)
    hits = items[None, :] == items[positive][:, None]
    hits[rows, positive] = False
    return (logits + log_q[None, :]).masked_fill(hits, -torch.inf)
