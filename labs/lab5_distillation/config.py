"""Options of lab 5 and their values at each scale."""

from __future__ import annotations

from dataclasses import dataclass

from common.errors import require


@dataclass(frozen=True)
class Config:
    """A teacher that tells libraries apart by their docstrings, and students of several sizes."""

    texts: int = 20_000
    """Docstrings at most, a fifth of them held out for testing."""
    classes: int = 12
    """Libraries to tell apart, the most frequent ones."""
    features: int = 8192
    """Hashed words that the models see."""
    teacher_width: int = 256
    """Width of the teacher."""
    teacher_epochs: int = 4
    """Passes over the training texts for the teacher."""
    student_width: int = 24
    """Width of the student that is reported."""
    student_widths: tuple[int, ...] = (8, 24, 64)
    """Widths of the students in the figure."""
    student_epochs: int = 8
    """Passes for each student: a distilled one gains from training longer than its teacher."""
    temperature: float = 4.0
    """Softmax temperature T (> 0) of the soft targets."""
    alpha: float = 0.9
    """Weight of the teacher's soft targets against the labels (0 to 1)."""
    teacher_rate: float = 5e-3
    """Peak learning rate of the teacher."""
    student_rate: float = 1e-2
    """Peak learning rate of the students."""
    dropout: float = 0.5
    """Dropout of the teacher; students are too narrow to overfit and have none."""
    batch_size: int = 128
    """Texts a step."""
    seeds: int = 3
    """Students trained for each width, with and without the teacher."""

    def __post_init__(self) -> None:
        require(self.texts >= 500, "texts", self.texts, "must be at least 500")
        require(2 <= self.classes <= 40, "classes", self.classes, "must be 2 to 40")
        for name in (
            "features", "teacher_width", "teacher_epochs", "student_width", "student_epochs",
            "batch_size", "seeds",
        ):  # fmt: skip
            require(getattr(self, name) >= 1, name, getattr(self, name), "must be at least 1")
        for name in ("temperature", "teacher_rate", "student_rate"):
            require(getattr(self, name) > 0, name, getattr(self, name), "must be > 0")
        require(0 <= self.alpha <= 1, "alpha", self.alpha, "must be from 0 to 1", "try 0.9")
        require(0 <= self.dropout < 1, "dropout", self.dropout, "must be from 0 to below 1")
        require(
            all(width >= 1 for width in self.student_widths),
            "student_widths",
            self.student_widths,
            "must be at least 1 each",
        )

    @property
    def widths(self) -> tuple[int, ...]:
        """Widths to train, the reported one among them, in ascending order."""
        return tuple(sorted({*self.student_widths, self.student_width}))


SCALES = {
    "smoke": Config(
        texts=6000,
        classes=6,
        features=4096,
        teacher_width=128,
        teacher_epochs=5,
        student_width=12,
        student_widths=(4, 12),
        seeds=1,
    ),
    "standard": Config(),
    "full": Config(
        texts=60_000,
        features=32_768,
        teacher_width=1024,
        teacher_epochs=6,
        student_width=96,
        student_widths=(16, 32, 64, 96, 192),
        student_epochs=12,
        seeds=5,
    ),
}
