"""Checkpoints that survive a kill, a full disk, and a change of the number of ranks.

A function that says *a collective* is called by all ranks, and fails on all of them or on none
(``agreement.py``). ``checkpoint_files.py`` is the disk's side; ``async_checkpoint.py`` saves while
training goes on.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, replace
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
from torch.utils._pytree import tree_leaves

from common.errors import InputError, RunError, require
from common.exercises import exercise
from labs.lab1_fsdp_advanced import checkpoint_files as disk
from labs.lab1_fsdp_advanced.agreement import on_main, together
from labs.lab1_fsdp_advanced.checkpoint_files import Manifest, Planner, Reader, Writer, latest

__all__ = ["Loaded", "export_weights", "latest", "load", "read", "save"]

State = dict[str, Any]
ENTRY_BYTES = 2048  # of the file around each piece of a tensor, and of the index
NAMED = 3


@dataclass(frozen=True)
class Loaded:
    """What a checkpoint held beside weights and optimizer state, and where it is."""

    step: int
    extra: dict[str, Any]
    folder: Path
    world: int


@dataclass(frozen=True)
class Draft:
    """A checkpoint between :func:`begin` and :func:`commit`: what to write, and where."""

    state: State
    manifest: Manifest
    final: Path
    writer: Writer
    keep: int

    @property
    def partial(self) -> Path:
        return self.final.with_name(self.final.name + disk.PARTIAL)


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
        The same folder for every rank (a shared file system when there are several nodes), and
        for one run at a time.
    step
        Steps done, >= 0.
    extra
        JSON values; those of rank 0 are kept.
    keep
        Complete checkpoints that stay, >= 1; older ones are removed afterwards, so there must be
        room for one more.

    Returns
    -------
    Path
        The complete checkpoint.

    Raises
    ------
    RunError
        On every rank: no room (found before anything is written, or by the disk in the middle of
        it), or a folder that one of them cannot write. The checkpoints before are untouched.
    """
    draft = begin(directory, model, optimizer, step, extra, keep=keep)
    write(draft)
    return commit(draft)


def load(
    directory: Path,
    model: nn.Module,
    optimizer: Optimizer | None = None,
    *,
    verify: bool = False,
) -> Loaded | None:
    """Read the newest complete checkpoint into model and optimizer, in place. A collective.

    The number of ranks and the strategy may differ from those that saved it.

    Parameters
    ----------
    optimizer
        None reads the weights alone.
    verify
        Names and sizes of the files are always compared with the manifest. True also reads every
        byte and compares checksums, the files shared out between the ranks: without it a byte
        that changed on the disk becomes a weight.

    Returns
    -------
    Loaded or None
        None when ``directory`` has no complete checkpoint; nothing was changed then.

    Raises
    ------
    RunError
        On every rank: a file is missing or damaged (and which checkpoint can be read instead), or
        the checkpoint is of another model or optimizer (and the parameters that differ). The model
        is as it was, unless the damage was found while reading: do not go on with it then.
    """

    def choose() -> tuple[Path, Manifest] | None:
        folder = latest(directory)
        if folder is None:
            return None
        try:
            return folder, disk.check(folder)
        except RunError as error:
            raise RunError(f"{error}; {disk.advice(directory, folder)}") from error

    found = on_main(choose)  # one rank looks, so that all read the same checkpoint
    if found is None:
        return None
    folder, manifest = found
    if verify:
        verify_files(folder, manifest)
    if optimizer is not None:
        initialise(model, optimizer)
    together(lambda: _require_fit(folder, manifest, model, optimizer))
    try:
        read(folder, model, optimizer)
    except CheckpointException as error:
        verify_files(folder, manifest)  # names the file, if that was the reason
        raise RunError(f"{folder} could not be read: {causes(error)}") from error
    return Loaded(manifest.step, manifest.extra, folder, manifest.world)


@exercise(
    "1.9",
    points=10,
    title="A checkpoint that another number of ranks can read",
    hint="DCP fills the tensors of the dict that you give it, in place, each rank its own part. "
    "Which entries of that dict are no tensors, and so cannot have been filled in place?",
)
def read(folder: Path, model: nn.Module, optimizer: Optimizer | None) -> None:
    """Read weights and optimizer state of a complete checkpoint, in place. A collective.

    The checkpoint was saved from ``{"model": ..., "optimizer": ...}``, the state dicts of
    ``torch.distributed.checkpoint.state_dict``. They call every tensor by its path in the model
    (``blocks.0.weight``; the optimizer's too, whose own ``state_dict()`` numbers its parameters),
    and a sharded tensor knows which part of the whole this rank has. DCP stored each piece with
    its offset. So it can fill the shards of any number of ranks, from the pieces of any other:

    1. build the same state dict from the live model and optimizer: its tensors say which parts
       this rank needs;
    2. ``state_dict_loader.load(state, storage_reader=Reader(folder), planner=Planner())`` reads
       the pieces that overlap them (``Reader`` and ``Planner`` are DCP's, but unpickle nothing);
    3. give the state dict back to model and optimizer. Afterwards the optimizer has the moments,
       the step counts *and* the parameter groups (learning rate, betas) of the one that was saved.

    What DCP does not find in the dict of step 1, it leaves out in silence: an optimizer that has
    not stepped yet has no moments to fill, until :func:`initialise` has made them.

    Parameters
    ----------
    folder
        A complete checkpoint that fits this model: ``load`` has made sure of that.
    model
        As returned by ``shard``, or a plain module in a world of one.
    optimizer
        An optimizer of ``model``'s parameters; None reads the weights alone.

    Raises
    ------
    torch.distributed.checkpoint.api.CheckpointException
        On every rank, when a piece cannot be read.

    Examples
    --------
    >>> read(Path("checkpoints/step-00000100"), model, optimizer)
    """
    if optimizer is not None:
        initialise(model, optimizer)
    state = state_of(model, optimizer)
    state_dict_loader.load(state, storage_reader=Reader(folder), planner=Planner())
    set_model_state_dict(model, state["model"])
    if optimizer is not None:
        set_optimizer_state_dict(model, optimizer, state["optimizer"])


def export_weights(model: nn.Module, path: Path) -> None:
    """Gather the whole model and write it as safetensors, by rank 0. A collective.

    The names are those of the model before sharding: ``load_file`` and ``load_state_dict`` on an
    unsharded copy read it. The file is either whole or absent. Rank 0 needs memory for the whole
    model.
    """
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    whole = get_model_state_dict(model, options=options)

    def write() -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(path.name + disk.PARTIAL)
        # Tied weights share memory, which safetensors refuses.
        copies = {k: v.contiguous().clone() for k, v in whole.items() if isinstance(v, Tensor)}
        save_file(copies, partial)
        partial.replace(path)

    on_main(write)


def begin(
    directory: Path,
    model: nn.Module,
    optimizer: Optimizer | None,
    step: int,
    extra: dict[str, Any] | None = None,
    *,
    keep: int = 2,
    copy_ahead: int = disk.COPY_AHEAD,
) -> Draft:
    """Make the folder to write in, if there is room for it. A collective; see :func:`save`.

    ``Draft.state`` refers to the live tensors.
    """
    require(step >= 0, "step", step, "must be >= 0")
    require(keep >= 1, "keep", keep, "must be >= 1")
    if optimizer is not None:
        initialise(model, optimizer)
    state = state_of(model, optimizer)
    manifest = Manifest(
        step=step,
        world=dist.get_world_size(),
        model=disk.describe(state["model"]),
        optimizer=None if optimizer is None else disk.describe_optimizer(optimizer),
        extra=extra or {},
        files={},
    )
    final = disk.step_folder(directory, step)
    partial = final.with_name(final.name + disk.PARTIAL)

    def prepare() -> int:
        if dist.get_rank() == 0:
            try:
                json.dumps(extra)
            except TypeError as error:
                raise InputError(
                    f"extra = {extra!r} must hold JSON values only: {error}"
                ) from error
            try:
                directory.mkdir(parents=True, exist_ok=True)
                disk.clear(directory)
                partial.mkdir()
            except OSError as error:
                raise RunError(f"checkpoints cannot be written to {directory}: {error}") from error
            needed, free = size(state), shutil.disk_usage(directory).free
            if needed > free:
                partial.rmdir()
                raise RunError(
                    f"no room for the checkpoint of step {step}: it needs {needed:,} bytes, and "
                    f"{directory} has {free:,} free; make room or give another directory"
                )
        return step

    if len(steps := set(together(prepare))) > 1:
        raise RunError(f"the ranks save different steps: {sorted(steps)}")
    return Draft(state, manifest, final, Writer(partial, copy_ahead=copy_ahead), keep)


def write(draft: Draft) -> None:
    """Write this rank's pieces, and the index by rank 0. A collective."""
    try:
        state_dict_saver.save(draft.state, storage_writer=draft.writer)
    except CheckpointException as error:
        raise abandoned(draft, error) from error


def commit(draft: Draft) -> Path:
    """Publish a checkpoint that every rank has finished writing. A collective."""
    files = {
        name: file for each in together(lambda: draft.writer.files) for name, file in each.items()
    }
    manifest = replace(draft.manifest, files=files)

    def publish() -> None:
        try:
            disk.publish(draft.partial, draft.final, manifest, draft.keep)
        except OSError:
            shutil.rmtree(draft.partial, ignore_errors=True)
            raise

    on_main(publish)
    return draft.final


def abandoned(draft: Draft, error: CheckpointException) -> RunError:
    """Remove what was written when a rank could not write its part. A collective."""
    on_main(lambda: shutil.rmtree(draft.partial, ignore_errors=True))
    return RunError(
        f"the checkpoint of step {draft.manifest.step} was not written: {causes(error)}; "
        "the checkpoints before it are as they were"
    )


def initialise(model: nn.Module, optimizer: Optimizer) -> None:
    """Give an optimizer that has not stepped yet its state: moments of 0 after 0 steps.

    ``get_optimizer_state_dict`` would do so by a step with gradients of 0 and a learning rate of
    0, but count that step, so that Adam's bias correction went on from the second; and where a
    parameter has a gradient it would not, so that moments were neither saved nor loaded.
    """
    if optimizer.state:
        return
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    gradients = [parameter.grad for parameter in parameters]
    for parameter in parameters:
        parameter.grad = None
    state_of(model, optimizer)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient
        if "step" in (state := optimizer.state.get(parameter, {})):
            state["step"] *= 0


def state_of(model: nn.Module, optimizer: Optimizer | None) -> State:
    """The state dicts that a checkpoint is made of: every tensor by its path in the model.

    The model's comes first: asking for it makes FSDP show the shards again, if an evaluation has
    left whole weights in their place.
    """
    state: State = {"model": get_model_state_dict(model)}
    if optimizer is not None:
        state["optimizer"] = get_optimizer_state_dict(model, optimizer)
    return state


def size(state: State) -> int:
    """Bytes on the disk that a state dict of all ranks needs at most."""
    leaves = tree_leaves(state)
    tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
    whole = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    return whole + ENTRY_BYTES * (len(leaves) + len(tensors) * dist.get_world_size())


def verify_files(folder: Path, manifest: Manifest) -> None:
    """Read every byte and compare the checksums, the files shared out. A collective."""
    mine = sorted(manifest.files)[dist.get_rank() :: dist.get_world_size()]
    found = together(lambda: disk.mismatched(folder, manifest, mine))
    if damaged := sorted(name for names in found for name in names):
        raise RunError(
            f"{folder / damaged[0]} does not have the checksum in {disk.MANIFEST}: its bytes have "
            f"changed since it was saved; {on_main(lambda: disk.advice(folder.parent, folder))}"
        )


def causes(error: CheckpointException) -> str:
    """What the ranks that failed died of, in one line."""
    failures = sorted(error.failures.items())
    said = [f"rank {rank}: {cause[0]}" for rank, cause in failures[:NAMED]]
    return "; ".join(said).replace("\n", " ")


def _require_fit(
    folder: Path, manifest: Manifest, model: nn.Module, optimizer: Optimizer | None
) -> None:
    found = disk.differences(manifest.model, disk.describe(get_model_state_dict(model)))
    if found:
        more = f", and {len(found) - NAMED} more" if len(found) > NAMED else ""
        raise RunError(
            f"{folder} does not fit this model: {'; '.join(found[:NAMED])}{more}; build the model "
            "as it was when it was saved, or give another directory"
        )
    if optimizer is None:
        return
    mine = disk.describe_optimizer(optimizer)
    if manifest.optimizer != mine:
        raise RunError(
            f"{folder} does not fit this optimizer: it was saved with "
            f"{manifest.optimizer or 'none'}, and this one is {mine}; build the optimizer as it "
            "was, or load the weights alone"
        )
