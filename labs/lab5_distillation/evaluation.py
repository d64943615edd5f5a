"""What a student answers: right, like its teacher, as sure as its teacher, and in every class.

Everything is computed from logits, of one student [N, C] or of S seeds [S, N, C], so that a model
in PyTorch and one in ONNX Runtime are judged by the same functions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from common.errors import InputError, require
from common.statistics import proportion_ci
from labs.lab5_distillation.calibration import log_softmax, nll
from labs.lab5_distillation.retention import Interval, describe, grid_interval

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Agreement:
    """A student's answers beside its teacher's, means over seeds.

    Attributes
    ----------
    share, ci95
        Of equal answers, right or wrong.
    kl
        Mean KL(teacher || student) in nats, both at temperature 1.
    teacher_errors
        Texts that the teacher answers wrongly, its mean number over seeds.
    copied, corrected
        Shares of the teacher's errors: the same wrong answer, and the right one. The rest is
        another wrong answer. NaN where the teacher errs nowhere.
    """

    share: float
    ci95: Interval
    kl: float
    teacher_errors: float
    copied: float
    corrected: float


@dataclass(frozen=True)
class Scores:
    """S students of one kind on N texts; means over seeds.

    Attributes
    ----------
    accuracy, ci95
        Of one seed, Wilson's interval over texts; of more, `retention.grid_interval`.
    per_seed
        Accuracy of each seed.
    macro_f1
        Mean F1 of the classes.
    nll
        Mean of ``-log p[label]`` in nats.
    class_accuracy
        [C], NaN for a class without texts.
    agreement
        With the teacher; None where none was given.
    """

    seeds: int
    texts: int
    accuracy: float
    ci95: Interval
    per_seed: tuple[float, ...]
    macro_f1: float
    nll: float
    class_accuracy: Floats = field(repr=False)
    agreement: Agreement | None = None

    @property
    def how(self) -> str:
        """What the interval speaks of, in words."""
        return describe(self.seeds, self.texts)


@dataclass(frozen=True)
class ClassChange:
    """One class under a teacher and its students.

    Attributes
    ----------
    texts
        Of this class in the test set.
    teacher, student
        Accuracies; the student's is the mean over seeds.
    p_value
        Of a loss as large in this class by chance.
    p_adjusted
        Of a loss as large in *any* class by chance: to be read where the worst of many is named.
    """

    name: str
    texts: int
    teacher: float
    student: float
    p_value: float
    p_adjusted: float

    @property
    def change(self) -> float:
        """Student minus teacher."""
        return self.student - self.teacher


def score(logits: ArrayLike, labels: ArrayLike, teacher: ArrayLike | None = None) -> Scores:
    """Judge students by their logits.

    Parameters
    ----------
    logits : [N, C] or [S, N, C]
        Of one seed, or of several.
    labels : int [N]
    teacher : [N, C] or [S, N, C]
        Logits of the teacher on the same texts, or of each seed's own.

    Raises
    ------
    InputError
        Shapes that do not fit, a logit that is not finite, labels outside the classes.
    """
    ours, truth = as_seeds(logits, labels)
    chosen = ours.argmax(axis=2)
    right = chosen == truth
    seeds, texts, classes = ours.shape
    return Scores(
        seeds=seeds,
        texts=texts,
        accuracy=float(right.mean()),
        ci95=_interval(right),
        per_seed=tuple(right.mean(axis=1).tolist()),
        macro_f1=float(np.mean([macro_f1(row, truth, classes) for row in chosen])),
        nll=float(nll(ours, truth).mean()),
        class_accuracy=class_accuracy(right, truth, classes),
        agreement=None if teacher is None else agreement(ours, teacher, truth),
    )


def agreement(logits: ArrayLike, teacher: ArrayLike, labels: ArrayLike) -> Agreement:
    """Where students answer as their teacher does, and what they do where it errs.

    Students trained on labels alone repeat many of the teacher's errors too, because the hard texts
    are the same: read ``copied`` beside that of the fine-tuned student.
    """
    ours, truth = as_seeds(logits, labels)
    theirs, _ = as_seeds(teacher, labels)
    if theirs.shape[1:] != ours.shape[1:] or len(theirs) not in (1, len(ours)):
        raise InputError(
            f"teacher logits {theirs.shape} and student logits {ours.shape} must be of the same "
            "texts and classes, and of one seed or the same seeds"
        )
    chosen, taught = ours.argmax(axis=2), theirs.argmax(axis=2)
    same = chosen == taught
    wrong = np.broadcast_to(taught != truth, same.shape)
    p, q = log_softmax(theirs), log_softmax(ours)
    errors = int(wrong.sum())
    return Agreement(
        share=float(same.mean()),
        ci95=_interval(same),
        kl=float((np.exp(p) * (p - q)).sum(axis=2).mean()),
        teacher_errors=errors / len(ours),
        copied=float(same[wrong].mean()) if errors else float("nan"),
        corrected=float((chosen == truth)[wrong].mean()) if errors else float("nan"),
    )


def correct(logits: ArrayLike, labels: ArrayLike) -> NDArray[np.bool_]:
    """Whether each seed's answer to each text is the label: [S, N], what `retention` takes."""
    ours, truth = as_seeds(logits, labels)
    return np.asarray(ours.argmax(axis=2) == truth)


def macro_f1(chosen: ArrayLike, labels: ArrayLike, classes: int) -> float:
    """Mean over classes of ``2 tp / (2 tp + fp + fn)``; a class neither chosen nor true is out."""
    answer, truth = np.asarray(chosen), np.asarray(labels)
    hits = np.bincount(truth[answer == truth], minlength=classes)
    total = np.bincount(truth, minlength=classes) + np.bincount(answer, minlength=classes)
    seen = total > 0
    return float((2 * hits[seen] / total[seen]).mean())


def class_accuracy(right: ArrayLike, labels: ArrayLike, classes: int) -> Floats:
    """Accuracy of each class [C], mean over seeds; NaN for a class without texts."""
    mean = np.atleast_2d(np.asarray(right, dtype=float)).mean(axis=0)
    texts = np.bincount(labels, minlength=classes)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.bincount(labels, mean, minlength=classes) / texts)


def class_changes(
    student: ArrayLike,
    teacher: ArrayLike,
    labels: ArrayLike,
    names: Sequence[str],
    *,
    n_flips: int = 2000,
    seed: int = 0,
) -> tuple[ClassChange, ...]:
    """What each class lost or gained from teacher to student, the greatest loss first.

    Thirty texts a class give a change steps of 0.033, and among 150 classes some lose three texts
    by chance alone. So the p-value is that of the largest loss of all classes: where models are
    exchangeable, the sign of each text's difference is a fair coin, and the signs are flipped
    ``n_flips`` times.

    Parameters
    ----------
    student : [N, C] or [S, N, C]
    teacher : [N, C]
    labels : int [N]
    names
        Of the C classes.

    References
    ----------
    Westfall and Young, *Resampling-Based Multiple Testing* (1993), section 2.5: the single-step
    max-T method.
    """
    ours, truth = as_seeds(student, labels)
    theirs, _ = as_seeds(teacher, labels)
    classes = ours.shape[2]
    require(len(names) == classes, "names", len(names), f"must be {classes}, one a class")
    mean = (ours.argmax(axis=2) == truth).mean(axis=0)
    base = (theirs.argmax(axis=2) == truth).mean(axis=0)
    loss = base - mean
    told = np.flatnonzero(loss)  # texts that all models answer alike carry no news
    member = np.zeros((len(told), classes))
    member[np.arange(len(told)), truth[told]] = loss[told]
    observed = member.sum(axis=0)
    rng = np.random.default_rng(seed)
    flipped = rng.choice([-1.0, 1.0], size=(n_flips, len(told))) @ member
    reached = observed - 1e-9  # sums of the same numbers in another order
    alone = (1 + (flipped >= reached).sum(axis=0)) / (1 + n_flips)
    worst = flipped.max(axis=1, initial=-np.inf)
    any_class = (1 + (worst[:, None] >= reached).sum(axis=0)) / (1 + n_flips)
    texts = np.bincount(truth, minlength=classes)
    before, after = class_accuracy(base, truth, classes), class_accuracy(mean, truth, classes)
    found = [
        ClassChange(
            name, int(texts[c]), float(before[c]), float(after[c]), float(alone[c]),
            float(any_class[c]),
        )
        for c, name in enumerate(names)
        if texts[c]
    ]  # fmt: skip
    return tuple(sorted(found, key=lambda each: each.change))


def as_seeds(logits: ArrayLike, labels: ArrayLike) -> tuple[Floats, Ints]:
    """Logits as float64 [S, N, C] and labels as int64 [N], checked."""
    x, truth = np.asarray(logits, dtype=float), np.asarray(labels)
    x = x[None] if x.ndim == 2 else x
    if x.ndim != 3 or truth.shape != x.shape[1:2] or not x.size:
        raise InputError(
            f"logits {x.shape} and labels {truth.shape} must be [seeds, texts, classes] and [texts]"
        )
    require(bool(np.isfinite(x).all()), "logits", "NaN or infinity", "must be finite")
    inside = bool(((truth >= 0) & (truth < x.shape[2])).all())
    limit = f"must be 0 to {x.shape[2] - 1}"
    require(inside, "labels", (int(truth.min()), int(truth.max())), limit, "give labelled texts")
    return x, truth.astype(np.int64)


def _interval(right: NDArray[np.bool_]) -> Interval:
    if len(right) == 1:
        return proportion_ci(int(right.sum()), right.size)
    _, low, high, _ = grid_interval(right)
    return max(0.0, low), min(1.0, high)
