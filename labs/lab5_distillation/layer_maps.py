"""Which layer of the student learns from which of the teacher.

Layers are numbered as in module paths, from 0: layer 0 is ``encoder.layer.0``. The papers count
from 1, and transformers' ``hidden_states[i]`` is what layer ``i`` is *given*; its output is
``hidden_states[i + 1]``. One of the three conventions meets another in most off-by-one errors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from common.errors import InputError, require


@dataclass(frozen=True)
class LayerMap:
    """Pairs (student's layer, teacher's layer), rising on both sides.

    Attributes
    ----------
    student, teacher
        Numbers of layers of the two.

    Raises
    ------
    InputError
        A number of layers below 1, no pair, a layer that a model lacks, or pairs that do not
        rise on both sides (one layer twice, or two that cross).
    """

    student: int
    teacher: int
    pairs: tuple[tuple[int, int], ...]

    def __post_init__(self) -> None:
        for name in ("student", "teacher"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "must be >= 1 layers")
        if not self.pairs:
            raise InputError("a layer map needs one pair at least; without any there is no loss")
        for place, (name, has) in enumerate((("student", self.student), ("teacher", self.teacher))):
            used = [pair[place] for pair in self.pairs]
            if not all(0 <= layer < has for layer in used):
                raise InputError(f"{name} layers {used} must be some of 0 to {has - 1}")
            if any(b <= a for a, b in pairwise(used)):
                raise InputError(
                    f"{name} layers {used} must rise: a map that repeats or crosses asks a lower "
                    "layer for what a higher one computes"
                )


def _check(student: int, teacher: int) -> None:
    if not 1 <= student <= teacher:
        raise InputError(
            f"a student of {student} layers and a teacher of {teacher}: this map needs 1 to "
            f"{teacher} layers; write the pairs of a deeper student as LayerMap(...)"
        )


def uniform(student: int, teacher: int) -> LayerMap:
    """Every N/M-th layer, the teacher's last included: 2 of 6 learn from (2, 5).

    TinyBERT's ``g(m) = m * N / M``, counted from 1 (Jiao et al. 2019, arXiv 1909.10351, section
    3.1), rounded up where M does not divide N.
    """
    _check(student, teacher)
    pairs = tuple((m - 1, -(-m * teacher // student) - 1) for m in range(1, student + 1))
    return LayerMap(student, teacher, pairs)


def skip(student: int, teacher: int) -> LayerMap:
    """`uniform` without the last pair: the layer below the head learns from the logits alone.

    PKD-Skip of Sun et al. (2019), arXiv 1908.09355, section 3.2.

    Raises
    ------
    InputError
        A student of one layer: nothing is left.
    """
    require(student >= 2, "student", student, "must have 2 layers at least", "use last")
    return LayerMap(student, teacher, uniform(student, teacher).pairs[:-1])


def last(student: int, teacher: int) -> LayerMap:
    """The teacher's last M layers in order: 2 of 6 learn from (4, 5).

    PKD-Last of Sun et al. (2019) with the last pair kept.
    """
    _check(student, teacher)
    start = teacher - student
    return LayerMap(student, teacher, tuple((m, start + m) for m in range(student)))


def first(student: int, teacher: int) -> LayerMap:
    """The teacher's first M layers in order: 2 of 6 learn from (0, 1)."""
    _check(student, teacher)
    return LayerMap(student, teacher, tuple((m, m) for m in range(student)))


def last_only(student: int, teacher: int, layer: int | None = None) -> LayerMap:
    """The student's last layer from one of the teacher's, as MiniLM does.

    Parameters
    ----------
    layer
        The teacher's; None: its last. For teachers of 24 layers MiniLMv2 found an upper middle
        one better (Wang et al. 2020, arXiv 2012.15828, section 4).
    """
    return LayerMap(student, teacher, ((student - 1, teacher - 1 if layer is None else layer),))


def as_cut(layers: Sequence[int], teacher: int) -> LayerMap:
    """Of a student that `students.by_depth` made: every layer from the one that comes next in it.

    Student layer i began as the teacher's ``layers[i]``, but stands for all from there to the one
    before ``layers[i + 1]``, so it learns from the last of those: (0, 5) of 6 learn from (4, 5).
    """
    LayerMap(len(layers) or 1, teacher, tuple(enumerate(layers)))  # refuses what by_depth cannot be
    ends = [*(layer - 1 for layer in layers[1:]), teacher - 1]
    return LayerMap(len(layers), teacher, tuple(enumerate(ends)))
