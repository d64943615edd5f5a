"""Only the negatives are corrected, since the target was not sampled."""

import torch


def corrected_logits(logits, log_q, items, positive):
    rows = torch.arange(len(positive), device=logits.device)
    hits = items[None, :] == items[positive][:, None]
    hits[rows, positive] = False
    corrected = logits - log_q[None, :]
    corrected[rows, positive] = logits[rows, positive]
    return corrected.masked_fill(hits, -torch.inf)
