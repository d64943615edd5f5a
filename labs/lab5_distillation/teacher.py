"""The fine-tuned teacher, kept in the cache: minutes the first time, a second afterwards."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import torch

from common.data.fetch import cache_folder, locked, notice, sha256_of
from common.data.labelled_texts import Split
from common.errors import RunError
from labs.lab5_distillation.distiller import OnStep
from labs.lab5_distillation.distiller_checkpoint import read
from labs.lab5_distillation.encoders import (
    TextClassifier,
    classifier,
    folder_of,
    freeze_embeddings,
)
from labs.lab5_distillation.recipe import Recipe, supervised, train
from labs.lab5_distillation.teacher_cache import fingerprint, load_tensors, said, save_tensors
from labs.lab5_distillation.tokens import Tokens, TokenSet

WEIGHTS = "model.safetensors"
VERSION = 1  # of the training: raise it when the same texts and recipe give other weights


def made_of(
    names: tuple[str, ...], texts: TokenSet, recipe: Recipe, name: str, dropout: float
) -> str:
    """Fingerprint of all that decides a fine-tuned teacher's weights, 64 hexadecimal digits.

    The encoder counts by the SHA-256 of its files, not by its name: a checkpoint of the same name
    may be another one. The tokenizer and its limit count by the ids that they gave. The device is
    left out; it moves the weights by rounding, and a teacher trained on a GPU may be used where
    there is none.
    """
    folder = folder_of(name)
    settings = {
        "version": VERSION,
        "encoder": {file: sha256_of(folder / file) for file in ("config.json", WEIGHTS)},
        "names": list(names),
        "labels": texts.labels.tolist(),
        "recipe": asdict(recipe),
        "dropout": dropout,
    }
    return fingerprint({}, texts.ids, settings)


def usable(checkpoint: Path) -> Path:
    """The place of a checkpoint, without the file where it is damaged."""
    if checkpoint.is_file():
        try:
            read(checkpoint)
        except RunError as error:
            notice(f"{error}: removed, the training starts anew")
            checkpoint.unlink()
    return checkpoint


def fine_tuned(
    split: Split,
    tokens: Tokens,
    recipe: Recipe,
    *,
    name: str = "minilm",
    dropout: float = 0.1,
    device: str | torch.device = "cpu",
    progress: OnStep | None = None,
    folder: Path | None = None,
    every: int = 250,
) -> TextClassifier:
    """An encoder fine-tuned on ``split.train``, or what that gave the last time.

    Word and position vectors stay as they are.

    Parameters
    ----------
    tokens
        The encoder's own tokenizer, with the limit to train at.
    name
        See `encoders.folder_of`.
    progress
        ``progress(steps done, loss)`` after each step; not called when nothing is trained.
    folder
        Where weights are kept; None: ``lab5_distillation`` in the cache (``LABS_CACHE``).
    every
        Steps between two checkpoints (weights and moments, 180 MB for MiniLM). A run that was
        stopped goes on from the last; the checkpoint is removed when the weights are whole.

    Returns
    -------
    TextClassifier
        On ``device``, in evaluation mode.
    """
    folder = cache_folder() / "lab5_distillation" if folder is None else folder
    texts = tokens.encode(split.train, device)
    key = made_of(split.names, texts, recipe, name, dropout)
    path = folder / f"{key[:24]}.safetensors"
    torch.manual_seed(recipe.seed)  # draws the head
    model = classifier(name, split.names, dropout=dropout).to(device)
    freeze_embeddings(model)
    with locked(folder):
        weights = said(path, load_tensors(path, key))
        if weights is not None:
            model.load_state_dict(weights)
            return model.eval()
        checkpoint = usable(folder / f"{key[:24]}.checkpoint")
        train(
            supervised(model), texts, recipe,
            on_step=progress, checkpoint=checkpoint, every=every,
        )  # fmt: skip
        save_tensors(path, model.state_dict(), key)
        checkpoint.unlink(missing_ok=True)
    return model.eval()
