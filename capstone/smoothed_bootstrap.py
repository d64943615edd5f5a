"""As many people and items as wanted, each like a real one and none the same, without a table."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from capstone.counter_hash import signs
from capstone.data import Ints

NEIGHBOUR_SPREAD = 0.5
"""How far a generated row lies from its model, in standard deviations of all rows."""


class Neighbours:
    """Rows of ``models`` [m, d] for any number; beyond m a deviation of the same law.

    A smoothed bootstrap: ``mean + (row - mean + h * deviation) / sqrt(1 + h^2)`` keeps mean and
    variances (Silverman & Young 1987, The bootstrap: to smooth or not to smooth?, Biometrika 74).
    """

    def __init__(self, models: NDArray[np.float32]) -> None:
        mean = models.mean(axis=0)
        shrunk = np.float32(1 / np.sqrt(1 + NEIGHBOUR_SPREAD**2))
        self.models = models
        self.table = np.concatenate([models, mean + (models - mean) * shrunk])
        self.scale = NEIGHBOUR_SPREAD * shrunk * models.std(axis=0)

    def rows(self, numbers: Ints, bits: NDArray[np.uint64]) -> NDArray[np.float32]:
        """Numbers of any shape and a hash of each -> float32 [..., d]."""
        made = numbers >= len(self.models)
        if not made.any():
            return self.models[numbers]
        found = self.table[numbers % len(self.models) + len(self.models) * made]
        noise = signs(bits, self.models.shape[1])
        noise *= self.scale
        noise *= made[..., None]
        found += noise
        return found
