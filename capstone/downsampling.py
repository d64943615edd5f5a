"""Train on every reaction and a share of what nobody reacted to, and put the probabilities right.

Most impressions end in nothing. Leaving out most of those makes training cheaper by almost the
same factor and costs little accuracy, but the model now learns the odds of the *sample*: every
probability is too high, by a factor that differs from score to score.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray

from common.errors import InputError, require
from common.exercises.marker import exercise

Floats = NDArray[np.float64]
ANY = "any"
"""The head for "any reaction at all", by which rows are kept."""


def uniform_of(row_ids: ArrayLike, seed: int = 0) -> Floats:
    """A number from [0, 1) for each id [n]: the same wherever and whenever the row is read."""
    from labs.lab2_vector_db.partitioning import splitmix64

    mixed = splitmix64(np.asarray(row_ids).astype(np.int64) ^ np.int64(seed * 1_000_003 + 1))
    return np.asarray((mixed >> np.uint64(11)) * 2.0**-53, dtype=np.float64)


def kept(row_ids: ArrayLike, positive: ArrayLike, share: float, seed: int = 0) -> NDArray[np.bool_]:
    """Which rows to train on: every positive one, and ``share`` of the others.

    The choice is ``uniform_of(row_ids, seed) < share``: a function of the row, not of where it
    stands, so that another order, another number of readers or a resumed run keeps the same rows.

    Parameters
    ----------
    row_ids : int [n]
    positive : [n]
        True (or 1) where there was a reaction.
    share
        In (0, 1].

    Returns
    -------
    bool [n]

    Raises
    ------
    InputError
        For a share outside (0, 1].
    """
    check_share(share)
    return np.asarray(positive).astype(bool) | (uniform_of(row_ids, seed) < share)


def corrected(p: ArrayLike, share: float) -> Floats:
    """The probability in the full data, of a probability learnt where ``share`` of negatives stay.

    Among the rows with some features let P be the chance of a positive. The sample keeps all
    positives and each negative with chance r, so it sees the odds

        p / (1 - p) = P / (r (1 - P)),        hence        P = p r / (1 - p + r p).

    Parameters
    ----------
    p : array
        Probabilities of a model that was trained on the rows that :func:`kept` keeps.
    share
        The same r, in (0, 1].

    Returns
    -------
    float64, the shape of ``p``; 0 and 1 stay what they are.

    Raises
    ------
    InputError
        For a share outside (0, 1].

    References
    ----------
    He et al., *Practical Lessons from Predicting Clicks on Ads at Facebook* (2014), section 6.3:
    ``q = p / (p + (1 - p) / w)``, the same with w = r.
    """
    check_share(share)
    scores = np.asarray(p, dtype=np.float64)
    return scores * share / (1 - scores + share * scores)


def logit_offset(share: float) -> float:
    """``log r``: what :func:`corrected` adds to a logit, so that it can be a bias of the export.

    From the odds above, ``logit P = logit p + log r``: the Platt map with a = 1 and b = log r.
    """
    check_share(share)
    return float(np.log(share))


@exercise(
    "7.6",
    points=8,
    title="The correction of negative downsampling, for several heads",
    hint="Which part of all impressions with these features is kept? A reaction of any kind is "
    "always among them, so its count is the same before and after: only the denominator changes.",
)
def corrected_heads(probabilities: Mapping[str, ArrayLike], share: float) -> dict[str, Floats]:
    """Probabilities in the full data, where a row was kept because it had *any* reaction.

    A row without a click may have been hidden, and is then kept for certain. So the negatives of
    one head are not all kept with chance r, and :func:`corrected` of that head alone is too low.
    For impressions with the same features:

    1. the full data has a reaction of any kind with P(any), which is ``corrected(p(any), r)``;
    2. the sample keeps the part ``s = P(any) + r (1 - P(any))`` of them;
    3. every reaction implies "any", so all rows with it are kept, and ``P(head) = p(head) s``.

    For the head "any" itself that is :func:`corrected` again. A head's estimate may exceed that of
    "any" by a little; a probability may not exceed 1, and is cut there.

    Parameters
    ----------
    probabilities
        Of each head, learnt from the kept rows; all of one shape; among them ``ANY``.
    share
        The r of :func:`kept`, whose ``positive`` was "any".

    Returns
    -------
    dict
        The same heads, ``ANY`` included, float64.

    Raises
    ------
    InputError
        Without the head ``ANY``, or for a share outside (0, 1].

    Examples
    --------
    >>> found = corrected_heads({"any": [0.5], "click": [0.4]}, 0.1)
    >>> [round(float(found[head][0]), 4) for head in ("any", "click")]
    [0.0909, 0.0727]
    """
    check_share(share)
    if ANY not in probabilities:
        raise InputError(f"heads {sorted(probabilities)} lack {ANY!r}, by which rows were kept")
    anything = corrected(probabilities[ANY], share)
    part = anything + share * (1 - anything)
    return {
        head: np.minimum(np.asarray(p, dtype=np.float64) * part, 1.0)
        for head, p in probabilities.items()
    }


def check_share(share: float) -> None:
    """Refuse a share of negatives outside (0, 1]."""
    require(
        0 < share <= 1, "share of negatives", share, "must be in (0, 1]",
        "at 0 the base rate cannot be recovered",
    )  # fmt: skip
