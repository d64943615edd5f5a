"""Every column with the target's item is masked, the target's own column too."""

import torch


def corrected_logits(logits, log_q, items, positive):
    hits = items[None, :] == items[positive][:, None]
    return (logits - log_q[None, :]).masked_fill(hits, -torch.inf)
