"""Is a method what it says? Thousands of simulated experiments whose truth is known.

A method of analysis is a measuring instrument, and is calibrated like one before it is used: on
A/A experiments, where every finding is false, and on experiments with a known effect.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Findings:
    """What a method says of n simulated experiments: float [n] each.

    ``effect`` is the estimate, ``low`` and ``high`` its interval at level ``1 - alpha``, ``p`` the
    two-sided p-value. A sequential method gives, of all its looks, the one at which it stopped,
    or the last; its ``p`` is the smallest so far, and its interval the intersection so far.
    """

    effect: Floats
    low: Floats
    high: Floats
    p: Floats

    @property
    def n(self) -> int:
        return len(self.p)


Simulate = Callable[[np.random.Generator, int, float], Findings]


@dataclass(frozen=True)
class Method:
    """A method of analysis with the world it is tried in.

    Attributes
    ----------
    name
        As in the metrics ``aa.<name>.fpr`` and ``ab.<name>.coverage``: lower case, underscores.
    simulate
        ``simulate(rng, n, effect)``: n independent experiments in which the treatment's true
        effect, in the units of ``Findings.effect``, is ``effect``, each analysed at alpha = 0.05.
    effect
        A true effect for coverage and power.
    power
        What the formula promises at ``effect``, or None where there is no formula.
    sequential
        Looked at many times: the false-positive rate must be at most alpha, not equal to it, and
        coverage at least 94 % with no upper limit.
    """

    name: str
    simulate: Simulate
    effect: float
    power: float | None = None
    sequential: bool = False
