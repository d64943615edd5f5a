"""Does a converted model answer as the original does? Two outputs compared, and a gate."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.errors import InputError, RunError, require
from common.exercises import exercise

Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Comparison:
    """Two arrays of logits, element by element and row by row.

    ``errors`` [n, classes] are absolute, infinite where either side is NaN; ``agrees`` [n] says
    which rows keep their decision; ``worst_row`` is the first row with the largest error.
    """

    errors: NDArray[np.float64]
    agrees: NDArray[np.bool_]
    worst_row: int

    @property
    def max_abs_error(self) -> float:
        return float(self.errors.max())

    @property
    def agreement(self) -> float:
        """Share of rows that keep their decision."""
        return float(self.agrees.mean())


@exercise(
    "4.4",
    points=5,
    title="The parity of two outputs",
    hint="What is NaN > limit? What does argmax say of a row that holds a NaN? Which axis is that "
    "of the classes? In which type do you subtract? Is the worst row a row, or a place?",
)
def compare_rows(reference: NDArray[Any], candidate: NDArray[Any]) -> Comparison:
    """Compare the logits of one model before and after a conversion.

    Parameters
    ----------
    reference, candidate : array [n, classes], n >= 1, of any numeric type
        Subtracted as float64: unsigned integers would wrap around.

    Returns
    -------
    Comparison
        The error of an element is ``|reference - candidate|``; 0 where both are equal (also both
        +inf or both -inf, a masked class), infinite where either is NaN. A row agrees when both
        have their largest logit at the same class; a row in which either side has a NaN does not.

    Raises
    ------
    InputError
        The shapes differ, are not [n, classes], or hold nothing.
    """
    require(candidate.shape == reference.shape, "shape", candidate.shape, f"is {reference.shape}")
    require(reference.ndim == 2, "shape", reference.shape, "must be [n, classes]")
    require(reference.size > 0, "shape", reference.shape, "holds nothing to compare")
    # BEGIN SOLUTION
    a, b = reference.astype(np.float64), candidate.astype(np.float64)
    unknown = np.isnan(a) | np.isnan(b)
    with np.errstate(invalid="ignore"):
        errors = np.where(a == b, 0.0, np.abs(a - b))
    errors[unknown] = np.inf
    agrees = (a.argmax(axis=1) == b.argmax(axis=1)) & ~unknown.any(axis=1)
    return Comparison(errors, agrees, int(errors.max(axis=1).argmax()))
    # END SOLUTION


@dataclass(frozen=True)
class Parity:
    """How far a candidate's outputs are from the reference's.

    Errors are over every element of every output. ``argmax_agreement`` is the share of rows, over
    the outputs with a class axis, whose largest element is at the same place; None without one.
    """

    max_abs_error: float
    mean_abs_error: float
    argmax_agreement: float | None
    worst_output: str
    n: int


def parity(reference_outputs: Arrays, candidate_outputs: Arrays) -> Parity:
    """Compare two runs of one model on the same inputs.

    Parameters
    ----------
    reference_outputs, candidate_outputs
        Output name to array [n, ...]; the last axis of an array of two or more axes and more than
        one column is taken as the class axis.

    Raises
    ------
    InputError
        The names or shapes differ, or there is nothing to compare.
    """
    if set(reference_outputs) != set(candidate_outputs):
        raise InputError(
            f"the reference has outputs {sorted(reference_outputs)}, "
            f"the candidate {sorted(candidate_outputs)}"
        )
    if not reference_outputs or not all(np.size(a) for a in reference_outputs.values()):
        raise InputError("nothing to compare: no outputs, or no rows")
    worst, worst_output, total, count, agree = -1.0, "", 0.0, 0, []
    for name, array in reference_outputs.items():
        reference, candidate = np.asarray(array), np.asarray(candidate_outputs[name])
        if reference.shape != candidate.shape:
            raise InputError(f"{name!r} has shape {reference.shape}, then {candidate.shape}")
        classes = reference.shape[-1] if reference.ndim > 1 else 1
        compared = compare_rows(reference.reshape(-1, classes), candidate.reshape(-1, classes))
        total += float(compared.errors.sum())
        count += compared.errors.size
        if compared.max_abs_error > worst:
            worst, worst_output = compared.max_abs_error, name
        if classes > 1:
            agree.append(compared.agrees)
    return Parity(
        max_abs_error=worst,
        mean_abs_error=total / count,
        argmax_agreement=float(np.concatenate(agree).mean()) if agree else None,
        worst_output=worst_output,
        n=len(next(iter(reference_outputs.values()))),
    )


def require_parity(
    measured: Parity,
    *,
    max_abs_error: float | None = None,
    min_agreement: float | None = None,
) -> None:
    """The gate before serving: stop when a converted model answers something else.

    A float32 export should agree to about 1e-5. An INT8 model cannot: there the gate is the share
    of rows with the same decision, beside the task's own accuracy.

    Raises
    ------
    RunError
        A limit is not met. The message gives both values.
    InputError
        No limit is given, or agreement is asked of outputs without a class axis.
    """
    if max_abs_error is None and min_agreement is None:
        raise InputError("require_parity needs max_abs_error, min_agreement, or both")
    if max_abs_error is not None and not measured.max_abs_error <= max_abs_error:
        raise RunError(
            f"parity: output {measured.worst_output!r} differs by {measured.max_abs_error:.3g}, "
            f"the limit is {max_abs_error:.3g} ({measured.n} rows); do not serve this model"
        )
    if min_agreement is not None:
        if measured.argmax_agreement is None:
            raise InputError("min_agreement needs an output with a class axis")
        if not measured.argmax_agreement >= min_agreement:
            raise RunError(
                f"parity: {measured.argmax_agreement:.4f} of {measured.n} rows keep their largest "
                f"output, the limit is {min_agreement:.4f}; do not serve this model"
            )
