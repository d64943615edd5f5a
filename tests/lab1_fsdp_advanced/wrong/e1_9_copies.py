"""Fills a gathered copy of the model's state and never gives it back."""

from pathlib import Path

from torch import nn
from torch.optim import Optimizer


def read(folder: Path, model: nn.Module, optimizer: Optimizer | None) -> None:
    whole = StateDictOptions(full_state_dict=True)
    state = {"model": get_model_state_dict(model, options=whole)}
    if optimizer is not None:
        initialise(model, optimizer)
        state["optimizer"] = get_optimizer_state_dict(model, optimizer)
    state_dict_loader.load(state, storage_reader=Reader(folder), planner=Planner())
    if optimizer is not None:
        set_optimizer_state_dict(model, optimizer, state["optimizer"])
