"""Quantization-aware distillation: the student learns with its rounding on, under its teacher.

A distilled student in float32 is prepared (`fake_quantization`), trained a few epochs more at a low
rate on the teacher's softened answers, and written as the ONNX file that it was trained to be.
What is reported is always that file, run by ONNX Runtime, beside two others: the same student
rounded after training, and the same student trained as many epochs more *without* rounding and then
rounded. Without the second, awareness would be credited with what longer training gives.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from common.errors import InputError
from labs.lab5_distillation.distiller import OnStep
from labs.lab5_distillation.encoders import TextClassifier, clone
from labs.lab5_distillation.fake_quantization import (
    INT8,
    FakeQuantLinear,
    Scales,
    Scheme,
    prepare,
    signed,
    strip,
    weight_only,
)
from labs.lab5_distillation.objectives import Teacher
from labs.lab5_distillation.onnx_export import export_onnx, session_logits
from labs.lab5_distillation.post_training_quantization import (
    quantize_dynamic_int8,
    write_weight_only,
)
from labs.lab5_distillation.recipe import Recipe, accuracy, distillation, train
from labs.lab5_distillation.soft_losses import divergence as of_each
from labs.lab5_distillation.soft_losses import log_probabilities
from labs.lab5_distillation.throughput import size_mb
from labs.lab5_distillation.tokens import TokenSet

RECIPE = Recipe(epochs=3, rate=3e-4, head_rate=1e-3)
"""A few epochs, and a low rate for the head: the student is trained, only its rounding is new."""


def quantization_aware_distillation(
    student: TextClassifier,
    teacher: Teacher,
    texts: TokenSet,
    recipe: Recipe = RECIPE,
    *,
    scheme: Scheme = INT8,
    temperature: float = 4.0,
    alpha: float = 1.0,
    on_step: OnStep | None = None,
    checkpoint: Path | None = None,
    bad_batches: Path | None = None,
) -> TextClassifier:
    """Train a copy of a student with fake quantization on the teacher's answers.

    Parameters
    ----------
    student
        Distilled in float32 already; it is left as it is.
    teacher
        In float32, `recipe.frozen` or `recipe.cached`.
    recipe
        Without bfloat16, whatever it says: 8 significant bits would round what has been rounded.
    checkpoint, bad_batches
        As in `distiller.fit`. A checkpoint of another scheme is refused.

    Returns
    -------
    TextClassifier
        Prepared (`fake_quantization.prepare`), in evaluation mode; `write_quantized` makes the
        file, `fake_quantization.strip` the plain student.

    Notes
    -----
    Cost: the epochs of the recipe, each about 1.3 times one of the plain student.
    """
    prepared = prepare(student, scheme)
    objective = distillation(prepared, teacher, temperature=temperature, alpha=alpha)
    vars(objective)["scheme"] = scheme  # what a checkpoint is known by
    train(
        objective, texts, recipe.but(bf16=False), on_step=on_step, checkpoint=checkpoint,
        bad_batches=bad_batches,
    )  # fmt: skip
    return prepared.eval()


def continued_distillation(
    student: TextClassifier,
    teacher: Teacher,
    texts: TokenSet,
    recipe: Recipe = RECIPE,
    *,
    temperature: float = 4.0,
    alpha: float = 1.0,
    on_step: OnStep | None = None,
    checkpoint: Path | None = None,
    bad_batches: Path | None = None,
) -> TextClassifier:
    """As many epochs more without rounding: the control of `quantization_aware_distillation`."""
    copied = clone(student)
    objective = distillation(copied, teacher, temperature=temperature, alpha=alpha)
    train(
        objective, texts, recipe.but(bf16=False), on_step=on_step, checkpoint=checkpoint,
        bad_batches=bad_batches,
    )  # fmt: skip
    return copied.eval()


def write_quantized(prepared: TextClassifier, path: Path) -> Path:
    """Write a prepared student, trained or not, as the ONNX file that it simulates.

    With rounded activations: dynamic INT8. Without: `write_weight_only`.

    Raises
    ------
    InputError
        The student is not prepared, or its scheme has no file: rounded activations go with weights
        of 8 bits, or 7, with scales of their maxima.
    """
    maps = [each for each in prepared.modules() if isinstance(each, FakeQuantLinear)]
    if not maps:
        raise InputError("the student is not prepared; call fake_quantization.prepare first")
    if all(each.input_codes is None for each in maps):
        return write_weight_only(prepared, path)
    codes = {each.weight_codes for each in maps}
    reduced = codes == {signed(8, reduce_range=True)}
    if any(each.step is not None for each in maps) or not (reduced or codes == {signed(8)}):
        raise InputError(
            "ONNX Runtime's dynamic INT8 has weights of 8 bits, or of 7 with reduce_range, and "
            "scales from their maxima; use weight_only(bits, scales) for others"
        )
    with tempfile.TemporaryDirectory(prefix="int8-") as folder:
        plain = export_onnx(strip(prepared), Path(folder) / "fp32.onnx")
        return quantize_dynamic_int8(plain, path, reduce_range=reduced)


@dataclass(frozen=True)
class QuantizedStudent:
    """A student's file, measured by ONNX Runtime.

    Attributes
    ----------
    bits
        Of the encoder's weights; 32 is float32.
    method
        ``"before"``: the student as given. ``"fitted"``: the same, with scales of least error in
        place of those of the maxima, which only weight-only files can have. ``"continued"``:
        trained further without rounding. ``"aware"``: trained further with it. All but the last are
        rounded after training, ``"continued"`` with fitted scales where ``"fitted"`` has them.
    divergence
        Mean KL divergence from the reference's answers to the student's, in nats.
    size_mb
        Of the file, in 1,000,000 bytes. Codes of 3 and 2 bits are stored in 4.
    """

    bits: int
    method: str
    seed: int
    accuracy: float
    agreement: float
    divergence: float
    size_mb: float


@dataclass(frozen=True)
class BitsStudy:
    """Rows of `bits_study`; ``n`` texts were judged."""

    rows: tuple[QuantizedStudent, ...]
    n: int

    def of(self, bits: int, method: str) -> list[QuantizedStudent]:
        """The rows of a method at a number of bits, one a seed."""
        return [each for each in self.rows if (each.bits, each.method) == (bits, method)]

    def mean_accuracy(self, bits: int, method: str) -> float:
        """Mean accuracy over the seeds."""
        return float(np.mean([each.accuracy for each in self.of(bits, method)]))

    def gain(self, bits: int, over: str = "before") -> float:
        """Mean accuracy of the aware student less that of ``over``, rounded after training."""
        return self.mean_accuracy(bits, "aware") - self.mean_accuracy(bits, over)

    @property
    def bits(self) -> list[int]:
        """Numbers of bits that were tried, the most first, without float32."""
        return sorted({each.bits for each in self.rows} - {32}, reverse=True)


def bits_study(
    student: TextClassifier,
    teacher: Teacher,
    texts: TokenSet,
    test: TokenSet,
    reference: Tensor,
    recipe: Recipe = RECIPE,
    *,
    bits: Sequence[int] = (8, 4, 3, 2),
    seeds: Sequence[int] = (0,),
    temperature: float = 4.0,
    alpha: float = 1.0,
    batch_size: int = 32,
    bad_batches: Path | None = None,
) -> BitsStudy:
    """Accuracy by bits of the weights: rounded after training, and aware of it.

    Parameters
    ----------
    reference
        The teacher's logits [N, C] for ``test``: what agreement and divergence are measured from.
    bits
        8 is dynamic INT8 (weights and activations); 4, 3 and 2 round the encoder's weights alone.
    seeds
        Of the further training: the order of the texts and the dropout.

    Notes
    -----
    Weights of fewer than 8 bits are trained with learned scales, which start at the fitted ones.
    Cost: ``len(seeds) * (len(bits) + 1)`` times the epochs of the recipe,
    ``2 + len(seeds) * (2 + len(bits))`` exports, and about ``2 * len(bits) * (1 + len(seeds))``
    passes over ``test`` by ONNX Runtime.
    """
    rows: list[QuantizedStudent] = []

    def measure(path: Path, at: int, method: str, seed: int) -> None:
        found = session_logits(path, test, batch_size=batch_size)
        rows.append(
            QuantizedStudent(
                bits=at,
                method=method,
                seed=seed,
                accuracy=accuracy(found, test),
                agreement=float((found.argmax(1) == reference.argmax(1)).float().mean()),
                divergence=divergence(reference, found),
                size_mb=size_mb(path),
            )
        )

    with tempfile.TemporaryDirectory(prefix="bits-") as name:
        folder = Path(name)

        def measure_rounded(
            model: TextClassifier, methods: Mapping[str, Scales], seed: int
        ) -> None:
            fused = export_onnx(model, folder / "fused.onnx")
            plain = export_onnx(model, folder / "plain.onnx", fused=False)
            path = folder / "rounded.onnx"
            first = next(iter(methods))
            measure(fused, 32, first, seed)
            for at in bits:
                if at == 8:
                    measure(quantize_dynamic_int8(fused, path), at, first, seed)
                    continue
                for method, scales in methods.items():
                    prepared = prepare(model, weight_only(at, scales))
                    measure(write_weight_only(prepared, path, plain=plain), at, method, seed)

        measure_rounded(student, {"before": "maximum", "fitted": "least_error"}, 0)
        for seed in seeds:
            seeded = recipe.but(seed=seed)
            continued = continued_distillation(
                student, teacher, texts, seeded, temperature=temperature, alpha=alpha,
                bad_batches=bad_batches,
            )  # fmt: skip
            measure_rounded(continued, {"continued": "least_error"}, seed)
            for at in bits:
                aware = quantization_aware_distillation(
                    student,
                    teacher,
                    texts,
                    seeded,
                    scheme=INT8 if at == 8 else weight_only(at, "learned"),
                    temperature=temperature,
                    alpha=alpha,
                    bad_batches=bad_batches,
                )
                measure(write_quantized(aware, folder / "aware.onnx"), at, "aware", seed)
    return BitsStudy(tuple(rows), len(test))


def divergence(reference: Tensor, found: Tensor) -> float:
    """Mean ``KL(softmax(reference) || softmax(found))`` over texts, in nats; logits [N, C]."""
    return float(of_each(log_probabilities(reference, 1.0), log_probabilities(found, 1.0)).mean())
