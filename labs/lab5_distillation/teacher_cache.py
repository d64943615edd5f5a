"""Tensors kept on disk under a fingerprint of all that made them, and a teacher's logits so kept.

A teacher that answers the same texts in every epoch of every student need be asked once. What was
kept is right for one model and one list of texts; both are in the file's name, as a hash.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from common.data.fetch import cache_folder, locked, notice
from common.errors import RunError
from common.exercises import exercise
from labs.lab5_distillation.encoders import TextClassifier
from labs.lab5_distillation.objectives import CachedTeacher
from labs.lab5_distillation.recipe import logits
from labs.lab5_distillation.tokens import TokenSet

VERSION = 1  # of how a teacher reads texts: raise it when the same weights and ids answer otherwise


def bytes_of(tensor: Tensor) -> bytes:
    """A tensor's elements in order as bytes, whatever its type, device and strides."""
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


@exercise(
    "5.16",
    points=10,
    title="A fingerprint of what made them",
    hint="Two inputs that may give other logits must not give the same bytes to the hash. Write "
    "down lengths, types and shapes before contents.",
)
def fingerprint(
    weights: Mapping[str, Tensor], ids: Sequence[Sequence[int]], settings: Mapping[str, object]
) -> str:
    """SHA-256 of a model's weights, the token ids that it reads and all else that decides.

    It is the same in every process and for equal content; it is another when a weight changes by
    one bit, type or shape, or changes names with another; when a token changes, or moves to the
    next text; when texts change places; when a setting changes. The order in which the weights or
    the settings are listed does not count.

    Parameters
    ----------
    weights
        A state dict. `bytes_of` gives a tensor's content.
    ids
        Token ids of each text, in the order of the rows.
    settings
        What JSON can hold.

    Returns
    -------
    str
        64 hexadecimal digits.
    """
    digest = hashlib.sha256()
    head = [[name, str(weights[name].dtype), list(weights[name].shape)] for name in sorted(weights)]
    digest.update(json.dumps([head, dict(settings), len(ids)], sort_keys=True).encode() + b"\n")
    for name in sorted(weights):
        digest.update(bytes_of(weights[name]))
    digest.update(np.array([len(each) for each in ids], np.int64).tobytes())
    for each in ids:
        digest.update(np.asarray(each, np.int64).tobytes())
    return digest.hexdigest()


def save_tensors(path: Path, tensors: Mapping[str, Tensor], made_of: str) -> None:
    """Write a safetensors file that says what made it and what it holds; whole or not at all.

    Parameters
    ----------
    made_of
        Fingerprint of what made the tensors.

    Raises
    ------
    RunError
        See `write_whole`.
    """
    kept = {name: tensor.detach().cpu() for name, tensor in tensors.items()}
    write_whole(path, kept, {"made_of": made_of, "content": fingerprint(kept, [], {})})


def write_whole(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Write a safetensors file beside its place and give it its name at the end.

    Parameters
    ----------
    tensors
        On any device, with any strides; no two of them in the same memory.
    metadata
        What the file says of itself.

    Raises
    ------
    RunError
        The disk is full, say: nothing is left of the new file, and an old one is as it was.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    kept = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            save_file(kept, partial, dict(metadata or {}) or None)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
    except (SafetensorError, OSError) as error:  # the first is what safetensors makes of the second
        raise RunError(f"{path} was not written: {error}") from error


def load_tensors(path: Path, made_of: str) -> dict[str, Tensor] | str:
    """The tensors of a file, or why they cannot be used.

    A file that was cut short, that other things made, or whose content is not what was written is
    no error: the caller makes it again and says so.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:  # type: ignore[no-untyped-call]
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError:
        return "not there"
    except (SafetensorError, OSError) as error:
        return f"damaged ({error})"
    if metadata.get("made_of") != made_of:
        return f"of something else ({metadata.get('made_of', 'it does not say what')[:24]})"
    if metadata.get("content") != fingerprint(tensors, [], {}):
        return "damaged (its content is not what was written)"
    return tensors


def said(path: Path, found: dict[str, Tensor] | str) -> dict[str, Tensor] | None:
    """The tensors that `load_tensors` found, or None, with a notice unless there was no file."""
    if isinstance(found, str):
        if found != "not there":
            notice(f"{path} is {found}: made again")
        return None
    return found


def logits_fingerprint(teacher: TextClassifier, texts: TokenSet) -> str:
    """What decides a teacher's logits: weights, shape of the model, label order, ids and rows.

    The tokenizer and its limit are in it through the ids that they gave; the labels of the texts
    are not, for no teacher sees them.
    """
    settings = {
        "version": VERSION,
        "names": list(teacher.names),
        "encoder": json.loads(teacher.encoder.config.to_json_string(use_diff=False)),
        "mode": "eval",
    }
    return fingerprint(teacher.state_dict(), texts.ids, settings)


def cached_logits(
    teacher: TextClassifier,
    texts: TokenSet,
    *,
    folder: Path | None = None,
    batch_size: int = 128,
) -> CachedTeacher:
    """The teacher's answers to ``texts``, computed once and kept on disk.

    Parameters
    ----------
    folder
        Where; None: ``lab5_distillation/logits`` in the cache (``LABS_CACHE``). A file holds
        ``logits`` float32 [N, C]: 9 MB for CLINC150.
    batch_size
        Of the pass through the teacher, when there is one.

    Returns
    -------
    CachedTeacher
        Right for batches whose ``rows`` are places in ``texts``, on their device.

    Notes
    -----
    For augmented texts give the augmented set itself (`augmentation.PooledBatches`).
    """
    folder = cache_folder() / "lab5_distillation" / "logits" if folder is None else folder
    made_of = logits_fingerprint(teacher, texts)
    path = folder / f"{made_of[:24]}.safetensors"
    with locked(folder):
        found = said(path, load_tensors(path, made_of))
        if found is None:
            found = {"logits": logits(teacher, texts, batch_size=batch_size)}
            save_tensors(path, found, made_of)
    return CachedTeacher(found["logits"].to(texts.device))
