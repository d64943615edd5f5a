"""Equalized odds from means over the whole group: demographic parity, twice."""

import torch


def soft_gaps(logits, labels, codes, *, constraint, temperature=0.1):
    decisions = torch.sigmoid(logits / temperature)
    everybody = torch.ones_like(labels, dtype=torch.bool)
    counted = [everybody] * (2 if constraint == "eo" else 1)
    gaps = []
    for rows in counted:
        members = [rows & (codes == code) for code in codes[rows].unique()]
        rates = [decisions[group].mean() for group in members]
        if len(rates) >= 2:
            gaps.append(torch.stack(rates).max() - torch.stack(rates).min())
        else:
            gaps.append(logits.new_full((), float("nan")))
    return torch.stack(gaps)
