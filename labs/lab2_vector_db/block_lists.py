"""Merge fast-scan inverted lists without overrunning them.

``faiss.BlockInvertedLists.add_entries`` (1.15.1), which ``merge_from`` calls, means to copy whole
blocks where a list ends with a full one. It asks whether the list's *length* is a multiple of the
block's *bytes*, and then copies as many blocks as the merged list has, from a source that holds
fewer and to a place where there is room for fewer. Lists of other lengths are merged correctly.
"""

from __future__ import annotations

from typing import Any

import faiss


def merge_lists(target: Any, source: Any, add_id: int) -> None:
    """``target.merge_from(source, add_id)`` for inverted files, safe for fast-scan ones.

    Parameters
    ----------
    target, source
        Two :class:`faiss.IndexIVF` that are copies of one trained index, downcast; ``source`` is
        empty afterwards.
    add_id
        Added to every id of ``source``.
    """
    move_to_full_blocks(target, source, add_id)
    target.merge_from(source, add_id)


def move_to_full_blocks(target: Any, source: Any, add_id: int) -> None:
    """Move the lists that faiss would overrun; a later ``merge_from`` finds them empty.

    ``ntotal`` of both is left to that call.
    """
    into: Any = faiss.downcast_InvertedLists(target.invlists)
    if not isinstance(into, faiss.BlockInvertedLists):  # type: ignore[attr-defined]
        return
    out_of: Any = faiss.downcast_InvertedLists(source.invlists)
    for number in range(target.nlist):
        held, new = into.list_size(number), out_of.list_size(number)
        if held and new and held % into.block_size == 0:
            # A multiple of the block's bytes is one of its 32 codes as well: blocks fit whole.
            start = held // into.n_per_block * into.block_size
            size = -(-new // into.n_per_block) * into.block_size
            into.resize(number, held + new)
            ids = faiss.rev_swig_ptr(into.get_ids(number), held + new)
            ids[held:] = faiss.rev_swig_ptr(out_of.get_ids(number), new) + add_id
            codes = faiss.rev_swig_ptr(into.get_codes(number), start + size)
            codes[start:] = faiss.rev_swig_ptr(out_of.get_codes(number), size)
            out_of.resize(number, 0)
