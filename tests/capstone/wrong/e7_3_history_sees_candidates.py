"""Only the block of candidates is masked: through the history news of one reaches the others."""

import torch


def isolation_mask(history, n_candidates):
    length = history.shape[1]
    position = torch.arange(length + n_candidates, device=history.device)
    query, key = position[:, None], position[None, :]
    real = torch.nn.functional.pad(history != 0, (0, n_candidates))
    earlier = real[:, None, :] & (key <= query)
    leak = (query < length) & (key >= length)
    return (earlier | leak | (query == key))[:, None]
