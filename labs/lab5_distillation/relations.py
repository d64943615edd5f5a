"""Relations between the tokens of a text, of MiniLMv2: what attention does, without its heads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from common.errors import InputError, require
from common.exercises import exercise
from labs.lab5_distillation.encoders import TextClassifier, layers_of
from labs.lab5_distillation.feature_distillation import (
    FeatureDistillation,
    FeatureLoss,
    layer_path,
)
from labs.lab5_distillation.hidden_states import check_states
from labs.lab5_distillation.hooks import Taps

# Query, key and value below a layer: BERT and RoBERTa, DistilBERT, most others.
NAMES = (
    ("attention.self.query", "attention.self.key", "attention.self.value"),
    ("attention.q_lin", "attention.k_lin", "attention.v_lin"),
    ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
)
Pair = tuple[Tensor, Tensor]
WEIGHTS: Mapping[tuple[str, str], float] = {
    ("query", "query"): 1.0,
    ("key", "key"): 1.0,
    ("value", "value"): 1.0,
}


def attention_paths(model: TextClassifier, layer: int) -> dict[str, str]:
    """Paths of the maps that make ``query``, ``key`` and ``value`` in a layer of an encoder.

    Raises
    ------
    InputError
        No such layer, or one that keeps them under names other than `NAMES`.
    """
    path = layer_path(model, layer)
    known = dict(model.get_submodule(path).named_modules())
    for names in NAMES:
        if all(name in known for name in names):
            return {
                kind: f"{path}.{name}"
                for kind, name in zip(("query", "key", "value"), names, strict=True)
            }
    raise InputError(f"{path} has no query, key and value at any of {NAMES}; add their names there")


@exercise(
    "5.9",
    points=15,
    title="MiniLMv2 relations",
    hint="Cut the width into relation heads, as attention does. A softmax runs over the tokens "
    "that one token looks at; padding may be looked at by no token, and looks at nothing itself.",
)
def relation_loss(student: Pair, teacher: Pair, mask: Tensor, *, heads: int) -> Tensor:
    """KL divergence of the student's relation from the teacher's.

    With ``A_i, A_j`` cut into ``heads`` of width d (d of the teacher and d' of the student may
    differ), the relation of a head is ``R = softmax(A_i A_j^T / sqrt(d))`` over the real tokens,
    and the loss is the mean over heads and real tokens of ``KL(R_teacher || R_student)``.

    Parameters
    ----------
    student, teacher
        ``(A_i, A_j)``, each float [B, L, width], such as (queries, queries). With (queries, keys)
        and the model's own number of heads, R is its attention map. The teacher's are constants.
    mask
        [B, L], 1 or True at real tokens.
    heads
        Number of relation heads, which divides both widths.

    Returns
    -------
    Tensor
        Scalar float32, also under autocast.

    Raises
    ------
    InputError
        A width that ``heads`` does not divide; see also `check_states`.

    Notes
    -----
    Wang et al. (2020), MiniLMv2, arXiv 2012.15828, equations 2 to 4. Theirs is of one text; here
    each real token of the batch weighs the same.
    """
    check_relation(student, teacher, mask, heads)
    real = mask.bool()

    def log_relation(pair: Pair) -> Tensor:
        one, other = (each.float().unflatten(-1, (heads, -1)).transpose(1, 2) for each in pair)
        scores = one @ other.transpose(-1, -2) / one.shape[-1] ** 0.5
        # The least finite number, not -inf: -inf - -inf below would be NaN.
        scores = scores.masked_fill(~real[:, None, None, :], torch.finfo(scores.dtype).min)
        return F.log_softmax(scores, dim=-1)

    with torch.autocast(mask.device.type, enabled=False):
        ours = log_relation(student)
        with torch.no_grad():
            theirs = log_relation(teacher)
        divergence = F.kl_div(ours, theirs, reduction="none", log_target=True).sum(-1)
    return divergence.mean(1)[real].mean()


def check_relation(student: Pair, teacher: Pair, mask: Tensor, heads: int) -> None:
    """Refuse what has no relations to compare.

    Raises
    ------
    InputError
        As `relation_loss`.
    """
    for ours, theirs in zip(student, teacher, strict=True):
        check_states(ours, theirs, mask)
    for name, pair in (("student", student), ("teacher", teacher)):
        width = pair[0].shape[-1]
        require(
            heads >= 1 and width % heads == 0 and pair[1].shape[-1] == width,
            "heads",
            heads,
            f"must divide the {name}'s width of {width}",
        )


class Relations(FeatureLoss):
    """Weighted sum of `relation_loss` over kinds of relations, of one layer of each model.

    Parameters
    ----------
    student_layer, teacher_layer
        Layers; negative ones count from the last, the default.
    heads
        Relation heads; the paper's teachers of width 768 have 48.
    weights
        Kind to weight: equation 1's alpha. The paper's choice is query-query, key-key and
        value-value at 1 (`WEIGHTS`).
    """

    def __init__(
        self,
        student: TextClassifier,
        teacher: TextClassifier,
        *,
        student_layer: int = -1,
        teacher_layer: int = -1,
        heads: int = 12,
        weights: Mapping[tuple[str, str], float] = WEIGHTS,
    ) -> None:
        super().__init__()
        if not weights:
            raise InputError("relations need one kind at least; without any there is no loss")
        kinds = ("query", "key", "value")
        if wrong := {name for pair in weights for name in pair} - set(kinds):
            raise InputError(f"relation {wrong.pop()!r} must be of {', '.join(kinds)}")
        self._student = attention_paths(student, counted(student, student_layer))
        self._teacher = attention_paths(teacher, counted(teacher, teacher_layer))
        for model, paths, name in (
            (student, self._student, "student"),
            (teacher, self._teacher, "teacher"),
        ):
            width = len(model.get_submodule(paths["query"]).get_parameter("weight"))
            divides = heads >= 1 and width % heads == 0
            require(divides, "heads", heads, f"must divide the {name}'s width of {width}")
        used = [kind for kind in kinds if any(kind in pair for pair in weights)]
        self.student_paths = tuple(self._student[kind] for kind in used)
        self.teacher_paths = tuple(self._teacher[kind] for kind in used)
        self.heads, self.weights = heads, dict(weights)

    def forward(self, student: Taps, teacher: Taps, mask: Tensor) -> Tensor:
        found = [
            weight
            * relation_loss(
                (student[self._student[i]], student[self._student[j]]),
                (teacher[self._teacher[i]], teacher[self._teacher[j]]),
                mask,
                heads=self.heads,
            )
            for (i, j), weight in self.weights.items()
        ]
        return torch.stack(found).sum()


def counted(model: TextClassifier, layer: int) -> int:
    """A layer's number from the first; a negative one counts from the last."""
    return layer + len(layers_of(model)) if layer < 0 else layer


class RelationDistillation(FeatureDistillation):
    """MiniLMv2's relations of one layer, beside the logits.

    Parameters
    ----------
    weight
        Of the relations beside ``logits``, which has 1.
    student_layer, teacher_layer, heads
        Of `Relations`.
    options
        Of `FeatureDistillation`: ``logits``, ``temperature``, ``alpha``.
    """

    def __init__(
        self,
        student: TextClassifier,
        teacher: TextClassifier,
        *,
        weight: float = 1.0,
        student_layer: int = -1,
        teacher_layer: int = -1,
        heads: int = 12,
        **options: Any,
    ) -> None:
        compared = Relations(
            student,
            teacher,
            student_layer=student_layer,
            teacher_layer=teacher_layer,
            heads=heads,
        )
        super().__init__(student, teacher, [compared], weights=[weight], **options)
