"""A candidate sees the history but not itself, so its own embedding reaches only the residual."""

import torch


def isolation_mask(history, n_candidates):
    length = history.shape[1]
    position = torch.arange(length + n_candidates, device=history.device)
    query, key = position[:, None], position[None, :]
    real = torch.nn.functional.pad(history != 0, (0, n_candidates))
    earlier = real[:, None, :] & (key <= query)
    return (earlier | ((query == key) & (query < length)))[:, None]
