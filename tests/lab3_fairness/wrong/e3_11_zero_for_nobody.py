"""A rate among nobody is 0, so a batch without a group shows the largest gap."""

import torch


def soft_gaps(logits, labels, codes, *, constraint, temperature=0.1):
    decisions = torch.sigmoid(logits / temperature)
    everybody = torch.ones_like(labels, dtype=torch.bool)
    counted = [labels == 0, labels == 1] if constraint == "eo" else [everybody]
    gaps = []
    for rows in counted:
        members = [rows & (codes == code) for code in codes.unique()]
        rates = [decisions[group].sum() / group.sum().clamp(min=1) for group in members]
        if len(rates) >= 2:
            gaps.append(torch.stack(rates).max() - torch.stack(rates).min())
        else:
            gaps.append(logits.new_full((), float("nan")))
    return torch.stack(gaps)
