"""Causal over the whole sequence, so a candidate sees the candidates that stand before it."""

import torch


def isolation_mask(history, n_candidates):
    length = history.shape[1]
    position = torch.arange(length + n_candidates, device=history.device)
    query, key = position[:, None], position[None, :]
    real = torch.nn.functional.pad(history != 0, (0, n_candidates), value=True)
    earlier = real[:, None, :] & (key <= query)
    return (earlier | (query == key))[:, None]
