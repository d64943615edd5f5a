"""Checkpoints that survive a kill and a change of the number of ranks.

Layout below one directory::

    step-00000100/           complete: data of each rank (DCP), extra.json
    step-00000200.partial/   being written, or left by a run that was killed; never read
    latest                   the name of the newest complete checkpoint
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch.distributed as dist
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.distributed.checkpoint import state_dict_loader, state_dict_saver
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.optim import Optimizer

from common.errors import RunError, require

POINTER = "latest"
EXTRA = "extra.json"
PARTIAL = ".partial"


@dataclass(frozen=True)
class Loaded:
    """What a checkpoint held beside weights and optimizer state."""

    step: int
    extra: dict[str, Any]


def save(
    directory: Path,
    model: nn.Module,
    optimizer: Optimizer | None,
    step: int,
    extra: dict[str, Any] | None = None,
    *,
    keep: int = 2,
) -> Path:
    """Write a checkpoint from all ranks, whole or not at all. A collective.

    Every rank writes its own shards beside the final place; when all have, rank 0 renames the
    folder and only then moves the ``latest`` pointer. A kill at any moment leaves the previous
    checkpoint as it was.

    Parameters
    ----------
    directory
        The same folder for every rank (a shared file system when there are several nodes).
    step
        Steps done, >= 0.
    extra
        JSON values.
    keep
        Complete checkpoints that stay, >= 1; older ones are removed.

    Returns
    -------
    Path
        The complete checkpoint.
    """
    require(step >= 0, "step", step, "must be >= 0")
    require(keep >= 1, "keep", keep, "must be >= 1")
    final = directory / f"step-{step:08d}"
    partial = final.with_name(final.name + PARTIAL)
    if dist.get_rank() == 0:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
    dist.barrier()
    # The state dicts name every tensor by its path in the model, not by rank: that is what lets
    # another number of ranks read them.
    state_dict_saver.save(_state(model, optimizer), checkpoint_id=partial)
    dist.barrier()
    if dist.get_rank() == 0:
        _write(partial / EXTRA, json.dumps({"step": step, "extra": extra or {}}))
        if final.exists():
            shutil.rmtree(final)
        partial.rename(final)
        _sync(directory)
        _write(directory / POINTER, final.name)
        _prune(directory, final, keep)
    dist.barrier()
    return final


def latest(directory: Path) -> Path | None:
    """The newest complete checkpoint, or None; incomplete ones are ignored."""
    pointer = directory / POINTER
    if pointer.is_file():
        named = directory / pointer.read_text(encoding="utf-8").strip()
        if (named / EXTRA).is_file():
            return named
    complete = _complete(directory)
    return complete[-1] if complete else None


def load(directory: Path, model: nn.Module, optimizer: Optimizer | None = None) -> Loaded | None:
    """Read the newest complete checkpoint into model and optimizer, in place. A collective.

    The number of ranks and the strategy may differ from those that saved it: each rank reads the
    parts of the files that overlap its own shards.

    Returns
    -------
    Loaded or None
        None when ``directory`` has no complete checkpoint; nothing was changed then.

    Raises
    ------
    RunError
        When the checkpoint lacks a tensor of the model or has it in another shape.
    """
    # One rank looks, so that all of them read the same checkpoint.
    chosen = [latest(directory) if dist.get_rank() == 0 else None]
    dist.broadcast_object_list(chosen, src=0)
    folder = chosen[0]
    if folder is None:
        return None
    state = _state(model, optimizer)
    try:
        state_dict_loader.load(state, checkpoint_id=folder)
    except CheckpointException as error:
        causes = "; ".join(sorted({str(cause) for cause, _ in error.failures.values()}))
        raise RunError(f"{folder} does not fit this model: {causes}") from error
    set_model_state_dict(model, state["model"])
    if optimizer is not None:
        set_optimizer_state_dict(model, optimizer, state["optimizer"])
    kept = json.loads((folder / EXTRA).read_text(encoding="utf-8"))
    return Loaded(kept["step"], kept["extra"])


def export_weights(model: nn.Module, path: Path) -> None:
    """Gather the whole model and write it as safetensors, by rank 0. A collective.

    The names are those of the model before sharding: ``load_file`` and ``load_state_dict`` on an
    unsharded copy read it. The file is either whole or absent. Rank 0 needs memory for the whole
    model.
    """
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    whole = get_model_state_dict(model, options=options)
    if dist.get_rank() == 0:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(path.name + PARTIAL)
        # Tied weights share memory, which safetensors refuses.
        copies = {k: v.contiguous().clone() for k, v in whole.items() if isinstance(v, Tensor)}
        save_file(copies, partial)
        partial.replace(path)
    dist.barrier()


def _state(model: nn.Module, optimizer: Optimizer | None) -> dict[str, Any]:
    state: dict[str, Any] = {"model": get_model_state_dict(model)}
    if optimizer is not None:
        state["optimizer"] = get_optimizer_state_dict(model, optimizer)
    return state


def _complete(directory: Path) -> list[Path]:
    found = [path.parent for path in directory.glob(f"step-*/{EXTRA}")]
    return sorted(path for path in found if path.suffix != PARTIAL)


def _prune(directory: Path, newest: Path, keep: int) -> None:
    older = [path for path in _complete(directory) if path < newest]
    for path in older[: max(0, len(older) - keep + 1)]:
        shutil.rmtree(path)


def _write(path: Path, text: str) -> None:
    partial = path.with_name(path.name + PARTIAL)
    with partial.open("w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    partial.replace(path)


def _sync(directory: Path) -> None:
    """Make a rename last through a power cut."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
