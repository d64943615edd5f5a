"""Groups without rows are a gap of 0: a batch that cannot compare reports equality."""

import torch


def soft_gaps(logits, labels, codes, *, constraint, temperature=0.1):
    decisions = torch.sigmoid(logits / temperature)
    everybody = torch.ones_like(labels, dtype=torch.bool)
    counted = [labels == 0, labels == 1] if constraint == "eo" else [everybody]
    gaps = []
    for rows in counted:
        members = [rows & (codes == code) for code in codes[rows].unique()]
        rates = [decisions[group].mean() for group in members]
        if len(rates) >= 2:
            gaps.append(torch.stack(rates).max() - torch.stack(rates).min())
        else:
            gaps.append(logits.new_zeros(()))
    return torch.stack(gaps)
