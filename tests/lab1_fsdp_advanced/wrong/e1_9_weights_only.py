"""Reads the weights and leaves the optimizer as it was built: moments of zero, in silence."""

from pathlib import Path

from torch import nn
from torch.optim import Optimizer


def read(folder: Path, model: nn.Module, optimizer: Optimizer | None) -> None:
    state = {"model": get_model_state_dict(model)}
    state_dict_loader.load(state, storage_reader=Reader(folder), planner=Planner())
    set_model_state_dict(model, state["model"])
