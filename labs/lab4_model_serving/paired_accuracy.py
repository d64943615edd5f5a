"""Did the model get worse, or is it noise? Two models, the same texts, and a gate that refuses.

Two accuracies with an interval each throw away what matters: the models answer the *same* texts,
and nearly all of them alike. Only texts that one gets right and the other wrong carry news.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil, sqrt
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from common.errors import InputError, RunError, require
from common.statistics import Z95, proportion_ci

Verdict = Literal["kept", "broken", "undecided"]
Z95_ONE_SIDED = 1.6448536269514722
MAX_DROP = 0.005  # half a percentage point


@dataclass(frozen=True)
class PairedAccuracy:
    """A candidate against a reference on the same ``n`` texts.

    ``lost`` are those that only the reference gets right, ``gained`` those that only the candidate
    does; ``agreement`` is the share of equal decisions, right or wrong.
    """

    n: int
    lost: int
    gained: int
    reference: float
    candidate: float
    agreement: float

    @property
    def drop(self) -> float:
        """Accuracy of the reference minus that of the candidate, ``(lost - gained) / n``."""
        return (self.lost - self.gained) / self.n

    @property
    def ci95(self) -> tuple[float, float]:
        """Two-sided 95 % interval of the drop."""
        return score_interval(self.lost, self.gained, self.n)

    @property
    def upper(self) -> float:
        """One-sided 95 % upper bound of the drop: what the gate looks at."""
        return score_interval(self.lost, self.gained, self.n, z=Z95_ONE_SIDED)[1]

    @property
    def p_value(self) -> float:
        """Exact McNemar test of "no difference": lost against gained, a fair coin."""
        from scipy.stats import binomtest

        n = self.lost + self.gained
        return float(binomtest(self.lost, n).pvalue) if n else 1.0

    def verdict(self, max_drop: float = MAX_DROP) -> Verdict:
        """Whether a drop of at most ``max_drop`` is shown, refuted, or neither."""
        low, high = score_interval(self.lost, self.gained, self.n, z=Z95_ONE_SIDED)
        if high <= max_drop:
            return "kept"
        return "broken" if low > max_drop else "undecided"


def paired_accuracy(
    reference: NDArray[np.float32], candidate: NDArray[np.float32], labels: ArrayLike
) -> PairedAccuracy:
    """Compare decisions.

    Parameters
    ----------
    reference, candidate : float [n, classes]
        Logits of both models on the same texts.
    labels : int [n]

    Raises
    ------
    InputError
        Shapes differ, no texts, or a logit that is not finite.
    """
    truth = np.asarray(labels)
    if reference.shape != candidate.shape or truth.shape != (len(reference),):
        raise InputError(
            f"reference {reference.shape}, candidate {candidate.shape} and labels {truth.shape} "
            "must be [n, classes], [n, classes] and [n]"
        )
    require(len(truth) >= 1, "number of texts", len(truth), "must be at least 1")
    finite = bool(np.isfinite(reference).all() and np.isfinite(candidate).all())
    require(finite, "logits", "NaN or infinity", "must be finite", "do not serve this model")
    first, second = reference.argmax(axis=1), candidate.argmax(axis=1)
    right, right_too = first == truth, second == truth
    return PairedAccuracy(
        n=len(truth),
        lost=int((right & ~right_too).sum()),
        gained=int((~right & right_too).sum()),
        reference=float(right.mean()),
        candidate=float(right_too.mean()),
        agreement=float((first == second).mean()),
    )


def score_interval(lost: int, gained: int, n: int, *, z: float = Z95) -> tuple[float, float]:
    r"""Tango's score interval of a difference of paired proportions, ``(lost - gained) / n``.

    All differences :math:`\delta` that a score test does not reject:

    .. math:: |b - c - n\delta| \le z \sqrt{n (2 q + \delta (1 - \delta))}

    with b = lost, c = gained, and q the likeliest probability of "gained" under :math:`\delta`. At
    :math:`\delta = 0` the test is McNemar's. Unlike the normal interval, it has a width when
    nothing was lost or gained: a hundred equal answers do not prove the hundred-and-first.

    Parameters
    ----------
    z
        1.96 for a two-sided 95 % interval, 1.645 for a one-sided bound.

    Raises
    ------
    InputError
        Counts that are negative or sum to more than n; n < 1.

    References
    ----------
    Tango, "Equivalence test and confidence interval for the difference in proportions for the
    paired-sample design", Statistics in Medicine 17 (1998).
    """
    require(n >= 1, "n", n, "must be >= 1")
    require(min(lost, gained) >= 0, "lost, gained", (lost, gained), "must be >= 0")
    require(lost + gained <= n, "lost + gained", lost + gained, f"must be <= n = {n}")

    def score(delta: float) -> float:
        b = (2 * n - lost + gained) * delta - lost - gained
        root = sqrt(max(0.0, b * b + 8 * n * gained * delta * (1 - delta)))
        variance = n * ((root - b) / (2 * n) + delta * (1 - delta))
        distance = lost - gained - n * delta
        return distance / sqrt(variance) if variance > 0 else float(np.sign(distance)) * np.inf

    def limit(target: float, low: float, high: float) -> float:
        for _ in range(60):  # the score falls with delta
            middle = (low + high) / 2
            low, high = (middle, high) if score(middle) > target else (low, middle)
        return (low + high) / 2

    centre = (lost - gained) / n
    return limit(z, -1.0, centre), limit(-z, centre, 1.0)


def texts_needed(measured: PairedAccuracy, max_drop: float = MAX_DROP) -> int | None:
    """About how many texts would show that the drop is within the limit; None if it is not.

    From ``drop + 1.645 sqrt(discordant share / n) = max_drop``, with the drop and the share found.
    """
    if measured.drop >= max_drop:
        return None
    share = max(measured.lost + measured.gained, 1) / measured.n
    return ceil(share * (Z95_ONE_SIDED / (max_drop - measured.drop)) ** 2)


def require_accuracy(measured: PairedAccuracy, *, max_drop: float = MAX_DROP) -> None:
    """The gate: stop unless the drop is shown to be within the limit.

    "Not significantly worse" would be the wrong question: with few texts nothing is significant,
    and every model passes. The gate asks for a non-inferiority: the 95 % upper bound of the drop
    has to be within the limit.

    Raises
    ------
    RunError
        The limit is broken, or too few texts to tell. The message says which.
    InputError
        ``max_drop`` outside [0, 1).
    """
    require(0 <= max_drop < 1, "max_drop", max_drop, "must be in [0, 1)", "0.005 is half a point")
    verdict = measured.verdict(max_drop)
    if verdict == "kept":
        return
    facts = (
        f"accuracy {measured.reference:.4f} became {measured.candidate:.4f} on {measured.n} texts "
        f"({measured.lost} lost, {measured.gained} gained); the drop may be up to "
        f"{100 * measured.upper:.2f} points, the limit is {100 * max_drop:.2f}"
    )
    if verdict == "broken":
        raise RunError(f"{facts}: it is above the limit beyond noise; do not serve this model")
    needed = texts_needed(measured, max_drop)
    fix = f"take about {needed} texts" if needed else "take more texts, or another precision"
    raise RunError(f"{facts}: too few texts to tell; {fix}")


@dataclass(frozen=True)
class PrecisionAccuracy:
    """One precision: bytes of the file, accuracy with its Wilson interval, and the pair's facts."""

    precision: str
    bytes: int
    accuracy: float
    ci95: tuple[float, float]
    against_fp32: PairedAccuracy


def logits(
    path: Path, ids: Sequence[Sequence[int]], *, batch: int = 32, device: str = "cpu"
) -> NDArray[np.float32]:
    """Logits [n, classes] of rows of token ids, in batches in the order given, as served."""
    from labs.lab4_model_serving.export import session
    from labs.lab4_model_serving.tokens import pad

    require(len(ids) >= 1, "number of texts", len(ids), "must be at least 1")
    opened = session(path, device=device)
    return np.concatenate(
        [opened.run(["logits"], pad(ids[at : at + batch]))[0] for at in range(0, len(ids), batch)]
    )


def compare_accuracy(
    models: Mapping[str, Path],
    ids: Sequence[Sequence[int]],
    labels: ArrayLike,
    *,
    batch: int = 32,
    device: str = "cpu",
) -> list[PrecisionAccuracy]:
    """Accuracy beside size of every precision, each paired with the first, the float32 model.

    Parameters
    ----------
    models
        Precision to ONNX file; the first is the reference.
    batch
        As served: dynamic INT8 answers depend on it.
    device
        ``"cpu"`` or ``"cuda"``, where all of them run.
    """
    require(len(models) >= 1, "models", len(models), "must be at least 1")
    reference, rows = None, []
    for precision, path in models.items():
        found = logits(path, ids, batch=batch, device=device)
        reference = found if reference is None else reference
        pair = paired_accuracy(reference, found, labels)
        right = round(pair.candidate * pair.n)
        interval = proportion_ci(right, pair.n)
        rows.append(
            PrecisionAccuracy(precision, path.stat().st_size, pair.candidate, interval, pair)
        )
    return rows
