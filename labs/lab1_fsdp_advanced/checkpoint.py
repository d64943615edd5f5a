"""Distributed checkpoints: saved by N ranks, resumed by M, and never half there.

A checkpoint is a folder ``<directory>/step-<number>``. It is written as ``.partial`` by all ranks
and renamed by one when every rank is done, so a rank that is killed in the middle of a save leaves
the earlier checkpoint the newest complete one.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from safetensors.torch import save_file
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_state_dict,
    set_state_dict,
)
from torch.optim import Optimizer

from common.errors import RunError

EXTRA = "extra.json"


def save(
    directory: Path, model: nn.Module, optimizer: Optimizer, step: int, extra: dict[str, Any]
) -> Path:
    """Write ``step-<step>``; every rank calls it, each writes its own shards.

    ``extra`` is what else a resumed run needs, as JSON can hold it (a loss, a seed).
    """
    final = directory / f"step-{step:08d}"
    partial = final.with_suffix(".partial")
    if dist.get_rank() == 0:
        directory.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
    dist.barrier()
    model_state, optimizer_state = get_state_dict(model, optimizer)
    dcp.save({"model": model_state, "optimizer": optimizer_state}, checkpoint_id=partial)
    if dist.get_rank() == 0:
        (partial / EXTRA).write_text(json.dumps({"step": step, **extra}), encoding="utf-8")
        shutil.rmtree(final, ignore_errors=True)
        os.replace(partial, final)
    dist.barrier()
    return final


def latest(directory: Path) -> Path | None:
    """The newest complete checkpoint, or None."""
    complete = [path for path in directory.glob("step-????????") if (path / EXTRA).exists()]
    return max(complete, default=None, key=lambda path: path.name)


def load(directory: Path, model: nn.Module, optimizer: Optimizer) -> dict[str, Any] | None:
    """Load the newest complete checkpoint into ``model`` and ``optimizer``, on any number of ranks.

    Returns
    -------
    dict or None
        What was saved as ``extra``, with ``step``; None when there is no checkpoint.

    Raises
    ------
    RunError
        When the checkpoint does not fit the model.
    """
    found = latest(directory)
    if found is None:
        return None
    model_state, optimizer_state = get_state_dict(model, optimizer)
    state = {"model": model_state, "optimizer": optimizer_state}
    try:
        dcp.load(state, checkpoint_id=found)
    except dcp.api.CheckpointException as error:
        raise RunError(f"{found} does not fit this model or is damaged: {error}") from error
    set_state_dict(
        model,
        optimizer,
        model_state_dict=state["model"],
        optim_state_dict=state["optimizer"],
    )
    extra: dict[str, Any] = json.loads((found / EXTRA).read_text(encoding="utf-8"))
    return extra


def export_weights(model: nn.Module, path: Path) -> None:
    """Gather the whole model on rank 0 and write it as safetensors; every rank calls it."""
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    state = get_model_state_dict(model, options=options)
    if dist.get_rank() == 0:
        partial = path.with_name(f".{path.name}.partial")
        save_file({name: tensor.contiguous().clone() for name, tensor in state.items()}, partial)
        os.replace(partial, path)
    dist.barrier()
