"""Rates of hard decisions: the gap is right, and its gradient is none."""

import torch


def soft_gaps(logits, labels, codes, *, constraint, temperature=0.1):
    decisions = (logits > 0).to(logits.dtype)
    everybody = torch.ones_like(labels, dtype=torch.bool)
    counted = [labels == 0, labels == 1] if constraint == "eo" else [everybody]
    gaps = []
    for rows in counted:
        members = [rows & (codes == code) for code in codes[rows].unique()]
        rates = [decisions[group].mean() for group in members]
        if len(rates) >= 2:
            gaps.append(torch.stack(rates).max() - torch.stack(rates).min())
        else:
            gaps.append(logits.new_full((), float("nan")))
    return torch.stack(gaps)
