"""The value a feed maximises: a weighted sum of probabilities, its weights outside the model.

A weight is a product decision. It can change without training, and a wrong sign turns a product
upside down without an error, so signs are part of the contract and are checked.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from common.errors import require

Floats = NDArray[np.floating]
ENGAGE = "engage"
"""P(next = item), normalised over the whole catalogue."""
REACTIONS = ("like", "love", "dislike")
"""Heads that are conditional on watching: P(rating >= 4), P(rating = 5), P(rating <= 2)."""
HEADS = (ENGAGE, *REACTIONS)
Scores = Mapping[str, Floats]
"""Head to probabilities of the same shape; every head of :data:`HEADS` is there."""


@dataclass(frozen=True)
class ValueWeights:
    """``value = P(engage) * (engage + like * P(like) + love * P(love) + dislike * P(dislike))``.

    What we want has a positive weight (``engage`` must be above 0), what we do not want a negative
    one.

    Raises
    ------
    InputError
        For a weight of the wrong sign.
    """

    engage: float = 1.0
    like: float = 1.0
    love: float = 0.0
    dislike: float = 0.0

    def __post_init__(self) -> None:
        require(self.engage > 0, "weight of engage", self.engage, "must be > 0: it is wanted")
        for name in ("like", "love"):
            weight = getattr(self, name)
            require(weight >= 0, f"weight of {name}", weight, "must be >= 0: it is wanted")
        require(
            self.dislike <= 0, "weight of dislike", self.dislike, "must be <= 0: it is not wanted"
        )

    def as_json(self) -> dict[str, float]:
        return asdict(self)

    def value(self, scores: Scores) -> Floats:
        """Expected value of showing an item; same shape as each of ``scores``."""
        given = sum((getattr(self, head) * scores[head] for head in REACTIONS), 0.0)
        return scores[ENGAGE] * (self.engage + given)
