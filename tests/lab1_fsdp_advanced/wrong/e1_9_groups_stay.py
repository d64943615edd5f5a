"""Trusts that all was filled in place: tensors were, learning rate and betas stay as built."""

from pathlib import Path

from torch import nn
from torch.optim import Optimizer


def read(folder: Path, model: nn.Module, optimizer: Optimizer | None) -> None:
    if optimizer is not None:
        initialise(model, optimizer)
    state = state_of(model, optimizer)
    state_dict_loader.load(state, storage_reader=Reader(folder), planner=Planner())
