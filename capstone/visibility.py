"""The late filter: what must not be shown, whatever its value, and what comes in its place.

Candidates are filtered early because scoring costs. It is done again on the ordered list, since
between the two an item may be withdrawn, hidden, or seen in another tab. A feed that then shows
nine of ten items has a hole; the next best item fills it.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from capstone.catalogue import Catalogue

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


def visible(
    ids: Ints, catalogue: Catalogue, *, hidden: Iterable[int] = (), seen: Iterable[int] = ()
) -> Bools:
    """Whether each candidate may be shown to this user: [n].

    Parameters
    ----------
    ids : [n]
        Item ids, 1 to n_items; anything else may not be shown.
    hidden, seen
        Item ids that the user hid, and has seen.
    """
    known = (ids > 0) & (ids <= catalogue.n_items)
    shown = known & catalogue.visible[np.where(known, ids, 0)]
    barred = np.fromiter({*hidden, *seen}, dtype=np.int64)
    if len(barred):
        shown &= ~np.isin(ids, barred)
    return np.asarray(shown)


def backfill(order: NDArray[np.intp], allowed: Bools, k: int) -> tuple[NDArray[np.intp], Bools]:
    """The first k of an order that may be shown, and which of them fill a hole.

    Parameters
    ----------
    order : [n]
        Row numbers of the candidates, best first.
    allowed : [n]
        Whether each *candidate* (not place) may be shown.

    Returns
    -------
    rows : [n_allowed]
        The order without the others; it goes on past k, for who needs a reserve.
    filled : [n_allowed]
        True for an item that stands among the first k only because another was taken out.
    """
    kept = np.flatnonzero(allowed[order])
    filled = (kept >= k) & (np.arange(len(kept)) < k)
    return order[kept], filled
