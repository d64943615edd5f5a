"""Train the lab's model in about a minute: MiniLM's first layers and a head, kept in the cache."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from common.data import load
from common.data.fetch import cache_folder, locked
from common.data.labelled_texts import Part, Split
from common.errors import require
from labs.lab4_model_serving.encoder import TextClassifier, from_minilm
from labs.lab4_model_serving.export import export_onnx
from labs.lab4_model_serving.tokens import Tokens, pad

if TYPE_CHECKING:
    import torch

INPUTS = ("input_ids", "attention_mask")
OUTPUT = "logits"
VERSION = 3  # of the training: raise it when the same texts get other weights


def train(
    split: Split,
    *,
    layers: int = 2,
    epochs: int = 2,
    batch: int = 32,
    learning_rate: float = 5e-4,
    head_learning_rate: float = 5e-3,
    max_tokens: int = 32,
    seed: int = 0,
    device: str = "cpu",
    progress: Callable[[Iterable[int]], Iterable[int]] = iter,
) -> TextClassifier:
    """Fine-tune on ``split.train`` with AdamW; word and position vectors stay as they are.

    Batches hold texts of like length, so that little is computed on padding.

    Parameters
    ----------
    head_learning_rate
        The head starts from nothing and has a few hundred steps: at the layers' rate it does not
        get there. The same few steps leave no time to overfit, so the layers drop nothing out.
    progress
        Wraps the range of steps, for a progress bar.

    Returns
    -------
    TextClassifier
        On the CPU, in evaluation mode.
    """
    import torch

    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    model = from_minilm(minilm(), classes=len(split.names), layers=layers).to(device).train()
    model.words.requires_grad_(False)
    model.positions.requires_grad_(False)
    for module in model.layers.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    head = list(model.head.parameters())
    body = [
        parameter
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and not name.startswith("head.")
    ]
    groups: list[dict[str, Any]] = [
        {"params": body},
        {"params": head, "lr": head_learning_rate},
    ]
    optimizer = torch.optim.AdamW(
        groups,
        lr=learning_rate,
        weight_decay=0.01,
        fused=True,
    )
    encoded = Tokens(minilm() / "tokenizer.json", max_tokens).ids(split.train.texts)
    lengths = np.array([len(ids) for ids in encoded])
    labels = torch.tensor(split.train.labels)
    steps = -(-len(encoded) // batch)
    total = epochs * steps
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, 10 * (step + 1) / total) * (1 - step / total)
    )
    batches: list[NDArray[np.int64]] = []
    for step in progress(range(total)):
        if step % steps == 0:
            # Sorted by length with noise: like lengths together, other batches each time.
            order = np.argsort(lengths + rng.uniform(0, 3, len(lengths)))
            chunks = [order[at : at + batch] for at in range(0, len(order), batch)]
            batches = [chunks[i] for i in rng.permutation(len(chunks))]
        rows = batches[step % steps]
        inputs = pad([encoded[row] for row in rows])
        logits = model(*(torch.from_numpy(inputs[name]).to(device) for name in INPUTS))
        loss = torch.nn.functional.cross_entropy(
            logits, labels[rows].to(device), label_smoothing=0.05
        )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
    return model.cpu().eval()


def trained(
    split: Split,
    *,
    layers: int = 2,
    epochs: int = 2,
    max_tokens: int = 32,
    seed: int = 0,
    device: str = "cpu",
    progress: Callable[[Iterable[int]], Iterable[int]] = iter,
) -> TextClassifier:
    """:func:`train`, or what it gave the last time for the same texts and settings.

    The weights lie in the cache as safetensors, under a hash of all that decides them.
    """
    from safetensors.torch import load_file, save_file

    require(epochs >= 1, "epochs", epochs, "must be >= 1")
    chosen = {"layers": layers, "epochs": epochs, "max_tokens": max_tokens, "seed": seed}
    folder = cache_folder() / "lab4_model_serving"
    path = folder / f"{fingerprint(split, chosen)}.safetensors"
    with locked(folder):
        if path.is_file():
            model = from_minilm(minilm(), classes=len(split.names), layers=layers)
            model.load_state_dict(load_file(path))
            return model
        model = train(split, **chosen, device=device, progress=progress)
        partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
        try:
            save_file(model.state_dict(), partial)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
    return model


def fingerprint(split: Split, chosen: dict[str, int]) -> str:
    """A hash of the training texts, their labels, the checkpoint and the settings."""
    digest = hashlib.sha256()
    content = [VERSION, load("minilm").provenance.sha256, split.names, chosen]
    digest.update(json.dumps([*content, split.train.texts]).encode())
    digest.update(split.train.labels.tobytes())
    return digest.hexdigest()[:24]


@cache
def minilm() -> Path:
    """The folder of the checkpoint and its tokenizer."""
    return load("minilm").path("config.json").parent


def logits(
    model: torch.nn.Module, texts: Sequence[str], *, max_tokens: int = 32, batch: int = 64
) -> NDArray[np.float32]:
    """Logits of texts [n, classes] by PyTorch, in the order given."""
    import torch

    tokens = Tokens(minilm() / "tokenizer.json", max_tokens)
    with torch.inference_mode():
        rows = [
            model(*(torch.from_numpy(inputs[name]) for name in INPUTS)).numpy()
            for at in range(0, len(texts), batch)
            for inputs in [tokens(texts[at : at + batch])]
        ]
    return np.concatenate(rows)


def accuracy(found: NDArray[np.float32], part: Part) -> float:
    """Share of rows whose largest logit is the label's."""
    return float((found.argmax(axis=1) == part.labels).mean())


def export(model: torch.nn.Module, path: Path) -> Path:
    """Write a classifier as ONNX; batch and tokens are dynamic axes."""
    import torch

    example = {name: torch.ones(2, 8, dtype=torch.int64) for name in INPUTS}
    axes = {0: "batch", 1: "tokens"}
    return export_onnx(
        model, example, path, output_names=[OUTPUT], dynamic=dict.fromkeys(INPUTS, axes)
    )
