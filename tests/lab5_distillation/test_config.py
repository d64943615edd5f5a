"""Options that would fail late or silently are refused before anything is loaded."""

import pytest

from common.errors import InputError
from labs.lab5_distillation.config import SCALES, Config


def test_the_reported_width_is_among_those_trained():
    assert Config(student_width=24, student_widths=(64, 8)).widths == (8, 24, 64)
    assert Config(student_width=8, student_widths=(8, 8)).widths == (8,)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"alpha": 2}, "alpha = 2 must be from 0 to 1"),
        ({"alpha": -0.1}, "alpha = -0.1 must be from 0 to 1"),
        ({"temperature": 0}, "temperature = 0 must be > 0"),
        ({"temperature": float("nan")}, "temperature = nan must be > 0"),
        ({"dropout": 1.0}, "dropout = 1.0 must be from 0 to below 1"),
        ({"texts": 499}, "texts = 499 must be at least 500"),
        ({"classes": 1}, "classes = 1 must be 2 to 40"),
        ({"classes": 41}, "classes = 41 must be 2 to 40"),
        ({"seeds": 0}, "seeds = 0 must be at least 1"),
        ({"batch_size": 0}, "batch_size = 0 must be at least 1"),
        ({"student_epochs": 0}, "student_epochs = 0 must be at least 1"),
        ({"student_rate": 0.0}, "student_rate = 0.0 must be > 0"),
        ({"student_widths": (8, 0)}, "must be at least 1 each"),
    ],
)
def test_a_bad_option_is_named_with_its_limit(option, message):
    with pytest.raises(InputError, match=message):
        Config(**option)


def test_limits_themselves_are_allowed():
    Config(alpha=0, dropout=0, texts=500, classes=2, student_widths=())
    Config(alpha=1, classes=40)


def test_every_scale_reports_a_student_smaller_than_its_teacher():
    assert set(SCALES) == {"smoke", "standard", "full"}
    for scale, config in SCALES.items():
        assert config.student_width < config.teacher_width, scale
        assert max(config.widths) < config.teacher_width, scale
