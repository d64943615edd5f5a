"""A byte-level BPE tokenizer: trained once, kept as JSON, the same ids in every process."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import tokenizers
from numpy.typing import NDArray
from tokenizers import decoders, models, pre_tokenizers, trainers

from common.errors import RunError, require

END_OF_DOCUMENT = "<|endoftext|>"
BYTES = 256
SMALLEST = BYTES + 1
LARGEST = 65_536
"""So that a token id fits in 16 bits on disk."""


class Tokenizer:
    """Text to token ids and back, without loss: its alphabet is the 256 bytes.

    Byte-pair encoding begins with single bytes and, again and again, makes a token of the pair of
    neighbours that is most frequent in the training text, until the vocabulary is full (Sennrich
    et al. 2016, "Neural Machine Translation of Rare Words with Subword Units"). Over bytes no text
    is out of vocabulary (GPT-2). Text is first cut at GPT-2's word borders, which no token crosses.
    """

    def __init__(self, inner: tokenizers.Tokenizer) -> None:
        # A document that happens to contain the characters of the special token must not end there.
        inner.encode_special_tokens = True
        self._inner = inner

    @classmethod
    def train(cls, texts: Iterable[str], vocabulary: int) -> Tokenizer:
        """Learn the merges from texts; the same texts give the same tokenizer.

        Parameters
        ----------
        vocabulary
            Number of tokens, 257 (the bytes and the end of a document) to 65,536. Little text
            gives fewer: a pair that occurs once is not merged.

        Raises
        ------
        InputError
            When ``vocabulary`` is out of range.
        """
        require(
            SMALLEST <= vocabulary <= LARGEST,
            "vocabulary",
            vocabulary,
            f"must be between {SMALLEST} ({BYTES} bytes and the end of a document) and {LARGEST:,}",
            "try 4096",
        )
        inner = tokenizers.Tokenizer(models.BPE())
        inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        inner.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=vocabulary,
            min_frequency=2,
            special_tokens=[END_OF_DOCUMENT],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        inner.train_from_iterator(texts, trainer)
        return cls(inner)

    @classmethod
    def load(cls, path: Path) -> Tokenizer:
        """A tokenizer that :meth:`save` wrote; `RunError` when the file is not one."""
        try:
            inner = tokenizers.Tokenizer.from_str(path.read_text(encoding="utf-8"))
        # The library raises a bare Exception.
        except Exception as error:
            raise RunError(f"{path} is no tokenizer ({error}): delete it and train anew") from error
        if inner.token_to_id(END_OF_DOCUMENT) is None:
            raise RunError(f"{path} has no token {END_OF_DOCUMENT}: it is not one of this lab")
        return cls(inner)

    def save(self, path: Path) -> None:
        """Write merges and vocabulary as JSON."""
        path.write_text(self._inner.to_str(), encoding="utf-8")

    @property
    def vocabulary(self) -> int:
        """Number of tokens, the end of a document included; ids are below it."""
        return self._inner.get_vocab_size()

    @property
    def end_of_document(self) -> int:
        """The id that stands after every document."""
        found = self._inner.token_to_id(END_OF_DOCUMENT)
        assert found is not None, "train and load see to it"
        return found

    def encode(self, texts: Sequence[str]) -> list[NDArray[np.int64]]:
        """The ids of each text, without the end of a document; all cores work on a batch."""
        return [
            np.array(encoding.ids, dtype=np.int64)
            for encoding in self._inner.encode_batch_fast(list(texts))
        ]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids. Ids cut in the middle of a character give U+FFFD at the cut."""
        return self._inner.decode([int(i) for i in ids], skip_special_tokens=False)
