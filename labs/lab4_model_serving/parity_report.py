"""The parity report: every artefact, at several shapes and on the task itself, before it is served.

Every artefact between the trained model and the server (a trace, a script, an exported program, an
ONNX file, an INT8 file) is a function from token ids to logits. The report asks each the same
questions, and the gate stops the release with the first rows that differ.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.errors import RunError, require
from common.statistics import mean_ci, proportion_ci
from labs.lab4_model_serving.parity import Arrays, compare_rows

Predict = Callable[[Arrays], NDArray[Any]]
"""``input_ids`` and ``attention_mask`` [n, t] to logits [n, classes]."""

SHOWN = 3  # offending rows in a message


@dataclass(frozen=True)
class Limits:
    """What an artefact must keep; None is no limit.

    ``max_accuracy_loss`` is a margin of non-inferiority: the 95 % interval of the change in
    accuracy, paired by text, must lie above its negative.
    """

    max_abs_error: float | None = 1e-4
    min_agreement: float = 1.0
    max_accuracy_loss: float | None = 0.01


QUANTIZED = Limits(max_abs_error=None, min_agreement=0.97)
"""For INT8 and float16: logits move, decisions must not."""


@dataclass(frozen=True)
class Artefact:
    """Something that can be served: how to call it, the file it lies in, what it must keep."""

    name: str
    predict: Predict
    path: Path | None = None
    limits: Limits = Limits()


@dataclass(frozen=True)
class CaseParity:
    """One artefact on one batch. ``refused`` holds its exception, if it raised one."""

    case: str
    shape: tuple[int, ...]
    max_abs_error: float
    agreement: float
    offending: tuple[str, ...] = ()
    refused: str = ""


@dataclass(frozen=True)
class ArtefactParity:
    """One row of the report. ``failures`` say which limits are not met; empty is a pass.

    ``accuracy_change`` is (mean, low, high) against the reference, paired by text.
    """

    name: str
    bytes: int | None
    max_abs_error: float
    agreement: float
    accuracy: float
    accuracy_interval: tuple[float, float]
    accuracy_change: tuple[float, float, float]
    cases: tuple[CaseParity, ...]
    failures: tuple[str, ...]

    @property
    def passed(self) -> bool:
        return not self.failures


def shape_cases(vocabulary: int, *, max_tokens: int = 32, seed: int = 0) -> dict[str, Arrays]:
    """Batches of random token ids in the shapes that conversions break on, by name.

    One row, odd lengths, the longest length, ragged rows padded at the end, those same rows padded
    further, as they are when a long text shares their batch, and rows padded in front.
    """
    require(vocabulary >= 2, "vocabulary", vocabulary, "must be >= 2")
    require(max_tokens >= 8, "max_tokens", max_tokens, "must be >= 8")
    rng = np.random.default_rng(seed)

    def full(n: int, t: int) -> Arrays:
        ids = rng.integers(1, vocabulary, (n, t), dtype=np.int64)
        return {"input_ids": ids, "attention_mask": np.ones((n, t), np.int64)}

    ragged = full(8, max_tokens // 2 + 1)
    lengths = rng.integers(1, max_tokens // 2 + 2, 8)
    lengths[0] = max_tokens // 2 + 1
    mask = (np.arange(max_tokens // 2 + 1) < lengths[:, None]).astype(np.int64)
    ragged = {"input_ids": ragged["input_ids"] * mask, "attention_mask": mask}
    further = ((0, 0), (0, max_tokens - mask.shape[1]))
    return {
        "one row, one token": full(1, 1),
        "one row, 7 tokens": full(1, 7),
        "five rows, odd length": full(5, max_tokens // 2 - 1),
        "longest": full(4, max_tokens),
        "ragged": ragged,
        "ragged, padded further": {name: np.pad(a, further) for name, a in ragged.items()},
        "padded in front": {name: a[:, ::-1].copy() for name, a in ragged.items()},
    }


def parity_report(
    reference: Predict,
    artefacts: Sequence[Artefact],
    *,
    cases: Mapping[str, Arrays],
    batches: Sequence[Arrays],
    labels: NDArray[np.int64],
) -> list[ArtefactParity]:
    """Hold every artefact against the reference: at each shape, and on the task itself.

    Parameters
    ----------
    reference
        The trained model.
    cases
        Name to inputs; see :func:`shape_cases`.
    batches, labels
        The labelled texts: model inputs, and the class of each row [n], in their order.

    Returns
    -------
    list of ArtefactParity
        In the order of ``artefacts``. An artefact that raises is reported as refused, not raised:
        what it says is part of the finding. Limits on error hold for the cases and the texts.
    """
    rows = sum(len(each["input_ids"]) for each in batches)
    require(rows == len(labels) > 1, "labels", len(labels), f"must be {rows}, the texts, and > 1")
    wanted = {name: np.asarray(reference(inputs)) for name, inputs in cases.items()}
    answers = [np.asarray(reference(inputs)) for inputs in batches]
    truth = np.concatenate(answers)
    found = []
    for artefact in artefacts:
        compared = [_case(artefact, name, inputs, wanted[name]) for name, inputs in cases.items()]
        given = [_answer(artefact.predict, *pair) for pair in zip(batches, answers, strict=True)]
        refused = next((text for _, text in given if text), "")
        logits = np.concatenate([each for each, _ in given])
        compared.append(_compare(artefact.limits, "labelled texts", logits, truth, refused=refused))
        found.append(_row(artefact, tuple(compared), logits, truth, labels))
    return found


def require_report(report: Sequence[ArtefactParity]) -> None:
    """The gate: every artefact passes, or the run stops with the first rows that differ.

    Raises
    ------
    RunError
        Names each artefact that fails, its limits, and the first offending rows.
    """
    lines = []
    for each in report:
        if each.passed:
            continue
        lines.append(f"{each.name}: " + "; ".join(each.failures))
        shown = [
            f"  {case.case} {list(case.shape)}: {text}"
            for case in each.cases
            for text in case.offending
        ]
        lines += shown[:SHOWN]
    if lines:
        raise RunError("parity: do not serve\n" + "\n".join(lines))


def _answer(predict: Predict, inputs: Arrays, like: NDArray[Any]) -> tuple[NDArray[Any], str]:
    """Logits, or NaN and what was raised."""
    try:
        logits = np.asarray(predict(inputs))
    except Exception as error:  # any: TorchScript, torch.export and ONNX Runtime share no base
        words = " ".join(str(error).split())
        return np.full(like.shape, np.nan), f"{type(error).__name__}: {words[-160:]}"
    if logits.shape != like.shape:
        return np.full(like.shape, np.nan), f"logits of shape {logits.shape}, not {like.shape}"
    return logits, ""


def _case(artefact: Artefact, name: str, inputs: Arrays, wanted: NDArray[Any]) -> CaseParity:
    logits, refused = _answer(artefact.predict, inputs, wanted)
    shape = inputs["input_ids"].shape
    return _compare(artefact.limits, name, logits, wanted, shape=shape, refused=refused)


def _compare(
    limits: Limits,
    name: str,
    logits: NDArray[Any],
    wanted: NDArray[Any],
    *,
    shape: tuple[int, ...] | None = None,
    refused: str = "",
) -> CaseParity:
    compared = compare_rows(wanted, logits)
    worst = compared.errors.max(axis=1)
    limit = np.inf if limits.max_abs_error is None else limits.max_abs_error
    keeps = compared.agrees | (limits.min_agreement < 1)
    bad = np.flatnonzero((worst > limit) | np.isinf(worst) | ~keeps)[:SHOWN]
    if not bad.size and compared.agreement < limits.min_agreement:
        bad = np.flatnonzero(~compared.agrees)[:SHOWN]
    offending = (f"raised {refused}",) if refused else tuple(
        f"row {row} differs by {worst[row]:.3g}; class {wanted[row].argmax()} "
        f"({wanted[row].max():.4g}) became {logits[row].argmax()} ({logits[row].max():.4g})"
        for row in bad
    )  # fmt: skip
    return CaseParity(
        case=name,
        shape=wanted.shape if shape is None else shape,
        max_abs_error=compared.max_abs_error,
        agreement=compared.agreement,
        offending=offending,
        refused=refused,
    )


def _row(
    artefact: Artefact,
    cases: tuple[CaseParity, ...],
    logits: NDArray[Any],
    truth: NDArray[Any],
    labels: NDArray[np.int64],
) -> ArtefactParity:
    limits = artefact.limits
    right = compare_rows(truth, logits).errors.max(axis=1) < np.inf  # a NaN is no answer
    right &= logits.argmax(axis=1) == labels
    change = mean_ci(right.astype(float) - (truth.argmax(axis=1) == labels))
    error = max(case.max_abs_error for case in cases)
    texts = cases[-1]
    failures = [f"raises at {case.case!r}" for case in cases if case.refused]
    failures += [
        f"answers NaN or infinity at {case.case!r}"
        for case in cases
        if not case.refused and case.max_abs_error == np.inf
    ]
    if limits.max_abs_error is not None and not error <= limits.max_abs_error:
        worst = max(cases, key=lambda case: case.max_abs_error)
        failures.append(
            f"differs by {error:.3g} at {worst.case!r}, the limit is {limits.max_abs_error:.3g}"
        )
    # On a handful of random rows only a strict limit can be judged.
    judged = cases if limits.min_agreement == 1 else (texts,)
    least = min(judged, key=lambda case: case.agreement)
    if not least.agreement >= limits.min_agreement:
        failures.append(
            f"keeps {least.agreement:.4f} of the decisions at {least.case!r}, "
            f"the limit is {limits.min_agreement:.4f}"
        )
    if limits.max_accuracy_loss is not None and not change[1] >= -limits.max_accuracy_loss:
        failures.append(
            f"changes accuracy by {change[0]:+.4f} ({change[1]:+.4f} to {change[2]:+.4f}), "
            f"the limit is {-limits.max_accuracy_loss:+.4f}"
        )
    return ArtefactParity(
        name=artefact.name,
        bytes=artefact.path.stat().st_size if artefact.path else None,
        max_abs_error=error,
        agreement=texts.agreement,
        accuracy=float(right.mean()),
        accuracy_interval=proportion_ci(int(right.sum()), len(right)),
        accuracy_change=change,
        cases=cases,
        failures=tuple(failures),
    )
