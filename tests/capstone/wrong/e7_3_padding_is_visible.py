"""Forgets the padding: a short history is diluted by items that nobody has watched."""

import torch


def isolation_mask(history, n_candidates):
    length = history.shape[1]
    position = torch.arange(length + n_candidates, device=history.device)
    query, key = position[:, None], position[None, :]
    mask = (key < length) & (key <= query) | (query == key)
    return mask.expand(len(history), 1, -1, -1)
