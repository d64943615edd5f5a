"""Options of lab 5 and their values at each scale."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from common.data.labelled_texts import LIBRARIES, Source
from common.errors import InputError, require

Student = Literal["two_layers", "one_layer", "narrow"]
"""The teacher's first and last layer; its first alone; that one with a third of its heads and
neurons."""
Method = Literal[
    "copied_alone", "pretrained_distilled", "decoupled", "mse", "hidden_states",
    "attention_maps", "relations", "born_again", "deeper_head", "assistant", "theseus", "dropped",
    "augmented", "two_stage",
]  # fmt: skip
"""See `methods`."""
STUDENTS: tuple[Student, ...] = get_args(Student)
METHODS: tuple[Method, ...] = get_args(Method)


@dataclass(frozen=True)
class Config:
    """A fine-tuned encoder, and students of three sizes with and without it."""

    source: Source = "auto"
    """Texts: CLINC150 where it can be had, docstrings elsewhere (auto); or one of the two."""
    train: Path | None = None
    """Your own training texts instead: CSV, JSON or JSON lines with ``text`` and ``label``."""
    test: Path | None = None
    """The texts to judge on, with ``--train``."""
    texts: int = 0
    """Training texts at most; 0 takes all."""
    test_texts: int = 0
    """Test texts at most; 0 takes all."""
    libraries: int = LIBRARIES
    """Classes of the docstrings."""
    max_tokens: int = 32
    """Tokens that the models read; longer texts are cut."""
    teacher: str = "minilm"
    """Encoder to fine-tune: minilm, a name on the Hugging Face Hub, or a folder."""
    student: str = ""
    """Also distil into this pretrained encoder, such as google/bert_uncased_L-4_H-512_A-8."""
    students: tuple[Student, ...] = ("two_layers", "one_layer")
    """Students made from the teacher; the first is the one that is quantized and reported."""
    methods: tuple[Method, ...] = ()
    """More ways to teach the first of ``students``, beside the teacher's logits."""
    few_labels: int = 0
    """Labelled texts of each class in a study with unlabelled ones; 0 leaves it out."""
    teacher_epochs: int = 3
    """Passes over the training texts for the teacher."""
    teacher_rate: float = 1e-4
    """Peak learning rate of the teacher's layers."""
    student_epochs: int = 6
    """Passes for each student, with and without its teacher."""
    student_rate: float = 5e-4
    """Peak learning rate of the students' layers."""
    head_rate: float = 3e-3
    """Peak learning rate of heads and projections, which start from nothing."""
    batch_size: int = 64
    """Texts a step."""
    temperature: float = 4.0
    """Softmax temperature T (> 0) of the soft targets."""
    alpha: float = 1.0
    """Weight of the teacher's soft targets against the labels (0 to 1)."""
    aware_epochs: int = 1
    """Passes with simulated INT8 before the export; 0 leaves the quantization-aware student out."""
    aware_rate: float = 1e-4
    """Peak learning rate of these passes."""
    seeds: int = 1
    """Students trained for each size, with and without the teacher."""
    small_seeds: int = 2
    """The same for the last of ``students``, where the teacher should help most."""
    bf16: bool = True
    """Matrix products of the forward pass in bfloat16 while training."""
    speed_texts: int = 512
    """Test texts that speed is measured on."""
    speed_repeats: int = 7
    """Rounds of it, each over every model."""
    speed_seconds: float = 0.5
    """Least time of a model in a round."""

    def __post_init__(self) -> None:
        for name in (
            "teacher_epochs", "student_epochs", "batch_size", "seeds", "small_seeds",
            "speed_texts",
        ):  # fmt: skip
            require(getattr(self, name) >= 1, name, getattr(self, name), "must be at least 1")
        for name in (
            "temperature",
            "teacher_rate",
            "student_rate",
            "head_rate",
            "aware_rate",
            "speed_seconds",
        ):
            require(getattr(self, name) > 0, name, getattr(self, name), "must be > 0")
        require(0 <= self.alpha <= 1, "alpha", self.alpha, "must be from 0 to 1", "try 1.0")
        for name in ("aware_epochs", "few_labels"):
            require(getattr(self, name) >= 0, name, getattr(self, name), "must be 0 or more")
        require(2 <= self.libraries <= 40, "libraries", self.libraries, "must be 2 to 40")
        for name in ("texts", "test_texts"):
            value = getattr(self, name)
            require(value == 0 or value >= 100, name, value, "must be 0 (all) or >= 100")
        require(len(self.students) >= 1, "students", self.students, "must name at least one")
        if self.students[0] == "narrow" and (self.methods or self.few_labels):
            raise InputError(
                "the first of --students is narrow; --methods and --few-labels teach students of "
                "whole layers: name two_layers or one_layer first"
            )
        require(self.speed_repeats >= 2, "speed_repeats", self.speed_repeats, "must be >= 2")
        for name in ("students", "methods"):
            given = getattr(self, name)
            require(len(set(given)) == len(given), name, given, "must name each once")
        if (self.train is None) != (self.test is None):
            raise InputError("--train and --test belong together: give both files, or neither")

    def seeds_of(self, student: Student) -> int:
        """How many of a student are trained; the smallest gets more, since it costs least."""
        last = student == self.students[-1] and len(self.students) > 1
        return max(self.seeds, self.small_seeds) if last else self.seeds


SCALES = {
    "smoke": Config(
        source="docstrings",
        texts=300,
        test_texts=200,
        libraries=4,
        max_tokens=16,
        teacher_epochs=2,
        teacher_rate=3e-4,
        student_epochs=2,
        students=("two_layers", "narrow"),
        aware_epochs=1,
        small_seeds=1,
        batch_size=32,
        speed_texts=64,
        speed_repeats=2,
        speed_seconds=0.1,
    ),
    "standard": Config(),
    "full": Config(
        students=STUDENTS,
        methods=METHODS,
        few_labels=10,
        teacher_epochs=4,
        student_epochs=8,
        aware_epochs=2,
        seeds=3,
        speed_repeats=15,
    ),
}
