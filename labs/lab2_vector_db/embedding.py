"""Text to vectors: MiniLM with mean pooling, in batches of like length, cached by block.

torch and transformers are imported when a text is embedded, not before.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from common.data import load
from common.data.fetch import cache_folder, locked
from common.errors import require
from labs.lab2_vector_db.durable import disk_errors, sync, write_beside

if TYPE_CHECKING:
    import torch

DIMENSION = 384
LONGEST = 512  # positions the model was made with; it was tuned on 256
VERSION = 1  # of pooling and batching: raise it when the same text gets another vector
Precision = Literal["float32", "bfloat16"]
Storage = Literal["float16", "float32"]
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Encoder:
    """The tokenizer and the weights, on one device in one precision."""

    model: Any
    tokenizer: Any
    device: torch.device
    precision: Precision


def precision_for(device: str) -> Precision:
    """bfloat16 where the hardware multiplies in it (GPUs, newer CPUs), else float32.

    A CPU without the instructions emulates them, and is slower in bfloat16 than in float32.
    """
    if device.startswith("cuda"):
        return "bfloat16"
    info = Path("/proc/cpuinfo")
    words = set(info.read_text().split()) if info.is_file() else set()
    return "bfloat16" if words & {"avx512_bf16", "amx_bf16", "bf16"} else "float32"


def embed(
    texts: Sequence[str],
    *,
    device: str = "auto",
    max_tokens: int = 64,
    batch: int = 64,
    precision: Precision | None = None,
) -> NDArray[np.float32]:
    """The unit vectors of texts: the mean of the tokens' last states, scaled to length 1.

    ``v = Σ_t m_t h_t / Σ_t m_t``, then ``v / |v|``; m is 1 for a token and 0 for padding, so a
    vector does not depend on what shares its batch. Texts are sorted by length first: a batch is
    as wide as its longest text, and padding is computed like everything else.

    Parameters
    ----------
    texts
        n texts, none of them blank.
    device
        ``"cpu"``, ``"cuda"``, ``"cuda:1"``; auto takes a GPU when there is one.
    max_tokens
        What is longer is cut, silently: the vector speaks of the beginning. From 3 to 512.
    batch
        Texts computed together.
    precision
        Of the matrix products; None asks `precision_for`. Pooling is always float32.

    Returns
    -------
    float32 array of shape [n, 384]

    Raises
    ------
    InputError
        No texts, a blank one, a number out of range, a GPU that is not there.

    References
    ----------
    Reimers, Gurevych: Sentence-BERT, EMNLP 2019, section 3 (mean pooling). Wang et al.: MiniLM,
    NeurIPS 2020. The model is all-MiniLM-L6-v2.

    Examples
    --------
    >>> vectors = embed(["sort an array", "order the elements of a list"])
    >>> float(vectors[0] @ vectors[1])  # the cosine
    """
    _check(texts, max_tokens, batch)
    import torch

    encoder = load_encoder(_device(device), precision)
    encoder.tokenizer.no_padding()
    encoder.tokenizer.enable_truncation(max_tokens)
    tokens = [encoding.ids for encoding in encoder.tokenizer.encode_batch(list(texts))]
    lengths = np.array([len(ids) for ids in tokens])
    order = np.argsort(lengths, kind="stable")
    vectors = np.empty((len(texts), DIMENSION), dtype=np.float32)
    with torch.inference_mode():
        for start in range(0, len(order), batch):
            rows = order[start : start + batch]
            padded = np.zeros((len(rows), lengths[rows[-1]]), dtype=np.int64)
            for place, row in enumerate(rows):
                padded[place, : lengths[row]] = tokens[row]
            mask = np.arange(padded.shape[1]) < lengths[rows, None]
            vectors[rows] = _forward(encoder, padded, mask)
    return vectors


def cached_embeddings(
    texts: Sequence[str],
    *,
    device: str = "auto",
    max_tokens: int = 64,
    batch: int = 64,
    precision: Precision | None = None,
    storage: Storage = "float16",
    block: int = 2048,
    folder: Path | None = None,
    progress: Progress | None = None,
) -> NDArray[np.float32]:
    """`embed`, from the cache where the same texts were embedded in the same way before.

    The key is a hash of the texts in their order, the weights' hash and the settings that change
    a vector. Each block is written when it is done: an interrupted call goes on there, and a
    damaged block is computed again.

    Parameters
    ----------
    texts, device, max_tokens, batch, precision
        As for `embed`.
    storage
        On disk: float16 takes 768 bytes a vector and moves a cosine by less than 0.001; what is
        returned is scaled to length 1 again.
    block
        Texts in a file.
    folder
        Where the cache is; None for ``embeddings`` in the labs' cache (``LABS_CACHE``).
    progress
        Called with (texts done, texts in all) after each block.

    Returns
    -------
    float32 array of shape [n, 384]

    Raises
    ------
    InputError
        As for `embed`, and for a block below 1.
    RunError
        When the cache cannot be written.
    """
    _check(texts, max_tokens, batch)
    require(block >= 1, "block", block, "must be >= 1", "try 2048")
    require(storage in ("float16", "float32"), "storage", storage, "must be float16 or float32")
    chosen = _device(device)
    precision = precision or precision_for(chosen)
    key = fingerprint(texts, max_tokens=max_tokens, precision=precision)
    place = (folder or cache_folder() / "embeddings") / f"{key}-{storage}-{block}"
    vectors = np.empty((len(texts), DIMENSION), dtype=np.float32)
    with locked(place):
        for number, start in enumerate(range(0, len(texts), block)):
            part = texts[start : start + block]
            path = place / f"{number:05d}.npy"
            stored = _read(path, len(part), storage)
            if stored is None:
                fresh = embed(
                    part, device=chosen, max_tokens=max_tokens, batch=batch, precision=precision
                )
                stored = fresh.astype(storage)
                _write(path, stored)
            wide = stored.astype(np.float32)
            vectors[start : start + block] = wide / np.linalg.norm(wide, axis=1, keepdims=True)
            if progress:
                progress(min(start + block, len(texts)), len(texts))
    return vectors


def fingerprint(texts: Sequence[str], *, max_tokens: int, precision: Precision) -> str:
    """A hash of all that decides the vectors: texts, weights, length limit, precision."""
    digest = hashlib.sha256()
    digest.update(f"{VERSION} {load('minilm').provenance.sha256} {max_tokens} {precision}".encode())
    for text in texts:
        content = text.encode()
        digest.update(f" {len(content)} ".encode())  # or "ab", "c" and "a", "bc" would be one key
        digest.update(content)
    return digest.hexdigest()[:24]


@cache
def load_encoder(device: str, precision: Precision | None = None) -> Encoder:
    """The model on a device, loaded once a process; safetensors, nothing unpickled."""
    import torch
    from tokenizers import Tokenizer
    from transformers import BertModel
    from transformers.utils import logging

    dataset = load("minilm")
    precision = precision or precision_for(device)
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    model = BertModel.from_pretrained(
        dataset.path("config.json").parent,
        local_files_only=True,
        use_safetensors=True,
        attn_implementation="sdpa",
        dtype=getattr(torch, precision),
    )
    if shown:
        logging.enable_progress_bar()
    target = torch.device(device)
    tokenizer = Tokenizer.from_file(str(dataset.path("tokenizer.json")))
    return Encoder(model.eval().to(target), tokenizer, target, precision)


def _forward(
    encoder: Encoder, padded: NDArray[np.int64], mask: NDArray[np.bool_]
) -> NDArray[np.float32]:
    import torch

    ids = torch.from_numpy(padded).to(encoder.device)
    real = torch.from_numpy(mask).to(encoder.device)
    states = encoder.model(input_ids=ids, attention_mask=real.long()).last_hidden_state.float()
    sums = (states * real.unsqueeze(-1)).sum(dim=1)  # scaled to length 1, the mean is the sum
    vectors: NDArray[np.float32] = torch.nn.functional.normalize(sums, dim=1).cpu().numpy()
    return vectors


def _check(texts: Sequence[str], max_tokens: int, batch: int) -> None:
    require(not isinstance(texts, str), "texts", texts, "must be a list", "put it into brackets")
    require(len(texts) > 0, "number of texts", 0, "must be at least 1")
    blank = next((row for row, text in enumerate(texts) if not text.strip()), None)
    require(blank is None, "texts", f"blank at {blank}", "must hold words", "drop it before")
    require(3 <= max_tokens <= LONGEST, "max_tokens", max_tokens, f"must be from 3 to {LONGEST}")
    require(batch >= 1, "batch", batch, "must be >= 1", "try 64")


def _device(name: str) -> str:
    import torch

    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        return "cuda" if gpus else "cpu"
    known = ["cpu", *(["cuda"] if gpus else []), *(f"cuda:{gpu}" for gpu in range(gpus))]
    require(name in known, "device", name, f"must be auto or one of {', '.join(known)}")
    return name


def _write(path: Path, vectors: NDArray[Any]) -> None:
    """The array, and behind it its hash, in one file that is there whole or not at all."""
    buffer = BytesIO()
    np.save(buffer, vectors, allow_pickle=False)
    content = buffer.getvalue()
    with disk_errors("writing", path):
        write_beside(path, content + hashlib.sha256(content).digest())
        sync(path.parent)


def _read(path: Path, rows: int, storage: Storage) -> NDArray[Any] | None:
    """The block, or None when it is missing, damaged or not this one."""
    if not path.is_file():
        return None
    content = path.read_bytes()
    body, seal = content[:-32], content[-32:]
    if hashlib.sha256(body).digest() != seal:
        os.unlink(path)
        return None
    vectors: NDArray[Any] = np.load(BytesIO(body), allow_pickle=False)
    return vectors if vectors.shape == (rows, DIMENSION) and vectors.dtype == storage else None
