"""Students with fewer words: word vectors of pieces that the task's texts do not use are left out.

Half of a small encoder is its table of word vectors; layers and bits do nothing about it. WordPiece
takes the longest piece that begins what is left of a word, so a text whose pieces are all kept is
read as before, and any other is read in smaller pieces.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from common.errors import InputError, require
from labs.lab5_distillation.encoders import TextClassifier, clone, tokenizer_of
from labs.lab5_distillation.tokens import PADDING, Tokens

CONTINUES = "##"


@dataclass(frozen=True)
class Trimmed:
    """A model with a smaller table of word vectors, and the tokenizer that goes with it.

    Attributes
    ----------
    kept
        int64 [words]: the old id of each new one, ascending.
    tokenizer
        Text of its ``tokenizer.json``.
    """

    model: TextClassifier
    kept: NDArray[np.int64]
    tokenizer: str

    def write(self, folder: Path, max_tokens: int = 32) -> Tokens:
        """Save the encoder and its tokenizer as `encoders.folder_of` wants them, and read it."""
        self.model.encoder.save_pretrained(folder)
        (folder / "tokenizer.json").write_text(self.tokenizer, encoding="utf-8")
        return Tokens(str(folder), max_tokens)


def pieces_to_keep(tokens: Tokens, texts: Sequence[str], reserve: int = 0) -> NDArray[np.int64]:
    """Ids of the pieces that the texts use, of all single characters, and of a reserve.

    Parameters
    ----------
    texts
        Training texts: a piece that only a test text has is, to the model, new.
    reserve
        That many more pieces, in the order of the vocabulary; BERT's lists frequent ones first.

    Returns
    -------
    int64 [words]
        Ascending. Special tokens are among them; placeholders (``[unused1]``) are not.

    Raises
    ------
    InputError
        No text, or a negative reserve.
    """
    require(len(texts) > 0, "number of texts", 0, "must be at least 1")
    require(reserve >= 0, "reserve", reserve, "must be >= 0")
    tokenizer = tokenizer_of(tokens.name)
    special = {int(id) for id in tokenizer.get_added_tokens_decoder()}
    tokenizer.no_truncation()
    tokenizer.no_padding()
    used = {id for each in tokenizer.encode_batch_fast(list(texts)) for id in each.ids}
    vocabulary = tokens.vocabulary
    single = {
        id for piece, id in vocabulary.items() if len(piece.removeprefix(CONTINUES)) == 1
    }  # fmt: skip
    kept = special | used | single
    free = (
        id
        for piece, id in sorted(vocabulary.items(), key=lambda each: each[1])
        if id not in kept and not piece.startswith("[unused")
    )
    return np.array(sorted(kept | {id for id, _ in zip(free, range(reserve))}), np.int64)


def trim(model: TextClassifier, tokens: Tokens, kept: NDArray[np.int64]) -> Trimmed:
    """A copy of a model that knows the kept pieces alone, and their tokenizer.

    To be done last: the student's token ids are then no longer the teacher's.

    Parameters
    ----------
    tokens
        The tokenizer that the model was trained with.
    kept
        From `pieces_to_keep`.

    Raises
    ------
    InputError
        A tokenizer that is no WordPiece, or ids that lack a special token or are not ascending.

    Examples
    --------
    >>> small = trim(student, tokens, pieces_to_keep(tokens, split.train.texts))
    >>> test = small.write(folder, tokens.max_tokens).encode(split.test)
    """
    written: dict[str, Any] = json.loads(tokenizer_of(tokens.name).to_str())
    kind = written["model"]["type"]
    if kind != "WordPiece":
        raise InputError(
            f"{tokens.name} has a tokenizer of the kind {kind}; only WordPiece falls back to "
            "smaller pieces without other changes: choose a student of the BERT family"
        )
    if len(kept) == 0 or (np.diff(kept) <= 0).any():
        raise InputError(f"{len(kept)} ids to keep; they must be one or more, ascending")
    new = {int(old): at for at, old in enumerate(kept)}
    if lost := [each for each in written["added_tokens"] if each["id"] not in new]:
        raise InputError(f"the special token {lost[0]['content']} must be kept")
    require(new.get(PADDING) == PADDING, "first id", int(kept[0]), f"must be padding's, {PADDING}")
    vocabulary = written["model"]["vocab"]
    written["model"]["vocab"] = {
        piece: new[id] for piece, id in sorted(vocabulary.items(), key=lambda e: e[1]) if id in new
    }
    for each in written["added_tokens"]:
        each["id"] = new[each["id"]]
    for each in (written.get("post_processor") or {}).get("special_tokens", {}).values():
        each["ids"] = [new[id] for id in each["ids"]]
    student = clone(model)
    table = student.encoder.get_input_embeddings()
    assert isinstance(table, nn.Embedding)
    with torch.no_grad():
        rows = table.weight[torch.from_numpy(kept).to(table.weight.device)].clone()
    fewer = nn.Embedding.from_pretrained(
        rows, freeze=not table.weight.requires_grad, padding_idx=table.padding_idx
    )
    student.encoder.set_input_embeddings(fewer)
    student.encoder.config.vocab_size = len(kept)
    return Trimmed(student, kept, json.dumps(written, ensure_ascii=False))


def read_otherwise(tokens: Tokens, trimmed: Tokens, texts: Sequence[str]) -> float:
    """Share of texts that the trimmed tokenizer divides into other pieces than the full one."""
    require(len(texts) > 0, "number of texts", 0, "must be at least 1")
    full, fewer = (
        [[words[id] for id in ids] for ids in each.ids(texts)]
        for each in (tokens, trimmed)
        for words in [{id: piece for piece, id in each.vocabulary.items()}]
    )
    return float(np.mean([ours != theirs for ours, theirs in zip(full, fewer)]))
