"""The dictionary of a keyword column: distinct texts in sorted order, found by bisection.

The texts lie one after another as UTF-8 in one byte array, which can be memory-mapped: a million
distinct keywords cost their bytes and 8 each, and nothing is decoded before it is asked for.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.errors import InputError

NOT_THERE = -1


class Dictionary(Sequence[str]):
    """Distinct texts; the code of a text is its place in the order of their UTF-8 bytes.

    Parameters
    ----------
    text : uint8 array
        All texts, one after another.
    offsets : int64 array of shape [m + 1]
        Text i is ``text[offsets[i]:offsets[i + 1]]``.
    """

    def __init__(self, text: NDArray[np.uint8], offsets: NDArray[np.int64]) -> None:
        self.text, self.offsets = text, offsets

    @classmethod
    def of(cls, words: Iterable[str]) -> Dictionary:
        """The dictionary of these texts."""
        return cls._of_sorted(sorted({word.encode() for word in words}))

    @classmethod
    def _of_sorted(cls, words: list[bytes]) -> Dictionary:
        offsets = np.zeros(len(words) + 1, np.int64)
        np.cumsum([len(word) for word in words], out=offsets[1:])
        return cls(np.frombuffer(b"".join(words), np.uint8), offsets)

    @classmethod
    def encode(
        cls, name: str, values: Sequence[str | None]
    ) -> tuple[NDArray[np.int32], Dictionary]:
        """The dictionary of the values and the code of each one, 0 for None.

        Raises
        ------
        InputError
            For a text that is no valid Unicode; ``name`` is the field's, for the message.
        """
        distinct = {value for value in values if value is not None}
        try:
            # The order of code points is the order of the UTF-8 bytes.
            words = sorted(distinct)
            found = cls._of_sorted([word.encode() for word in words])
        except UnicodeEncodeError as error:
            raise InputError(f"field {name!r} holds a text that is no Unicode: {error}") from error
        codes: dict[str | None, int] = {word: code for code, word in enumerate(words)}
        codes[None] = 0
        return np.fromiter(map(codes.__getitem__, values), np.int32, len(values)), found

    @classmethod
    def merge(cls, parts: Sequence[Dictionary]) -> tuple[Dictionary, list[NDArray[np.int32]]]:
        """One dictionary for all parts, and for each part the new code of each old one."""
        lists = [part._words() for part in parts]
        words = sorted(set().union(*lists))
        codes = {word: code for code, word in enumerate(words)}
        tables = [np.fromiter(map(codes.__getitem__, each), np.int32, len(each)) for each in lists]
        return cls._of_sorted(words), tables

    def take(self, codes: NDArray[Any]) -> Dictionary:
        """The dictionary of these codes only, which are distinct and ascending."""
        return self._of_sorted([self._bytes(code) for code in codes.tolist()])

    @property
    def nbytes(self) -> int:
        """Bytes of the texts and their offsets."""
        return self.text.nbytes + self.offsets.nbytes

    def code(self, word: str) -> int:
        """The code of a text, ``NOT_THERE`` when it is not in the dictionary."""
        try:
            wanted = word.encode()
        except UnicodeEncodeError:
            return NOT_THERE  # a lone surrogate is in no dictionary
        place = bisect_left(range(len(self)), wanted, key=self._bytes)
        return place if place < len(self) and self._bytes(place) == wanted else NOT_THERE

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, code: Any) -> Any:
        return self._bytes(range(len(self))[code]).decode()

    def _bytes(self, code: int) -> bytes:
        return bytes(self.text[self.offsets[code] : self.offsets[code + 1]])

    def _words(self) -> list[bytes]:
        blob, ends = self.text.tobytes(), self.offsets.tolist()
        return [blob[start:end] for start, end in pairwise(ends)]
