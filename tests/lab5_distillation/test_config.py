"""Options that would fail late or silently are refused before anything is loaded."""

from pathlib import Path
from typing import get_args

import pytest

from common.errors import InputError
from labs.lab5_distillation.config import SCALES, Config, Method, Student
from labs.lab5_distillation.methods import METHODS


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"alpha": 2}, "alpha = 2 must be from 0 to 1"),
        ({"alpha": -0.1}, "alpha = -0.1 must be from 0 to 1"),
        ({"temperature": 0}, "temperature = 0 must be > 0"),
        ({"temperature": float("nan")}, "temperature = nan must be > 0"),
        ({"texts": 99}, "texts = 99 must be 0"),
        ({"test_texts": 10}, "test_texts = 10 must be 0"),
        ({"libraries": 1}, "libraries = 1 must be 2 to 40"),
        ({"seeds": 0}, "seeds = 0 must be at least 1"),
        ({"batch_size": 0}, "batch_size = 0 must be at least 1"),
        ({"student_epochs": 0}, "student_epochs = 0 must be at least 1"),
        ({"student_rate": 0.0}, "student_rate = 0.0 must be > 0"),
        ({"aware_epochs": -1}, "aware_epochs = -1 must be 0 or more"),
        ({"few_labels": -1}, "few_labels = -1 must be 0 or more"),
        ({"students": ()}, "must name at least one"),
        ({"students": ("narrow", "narrow")}, "must name each once"),
        ({"train": Path("a.csv")}, "--train and --test belong together"),
        ({"test": Path("a.csv")}, "--train and --test belong together"),
    ],
)
def test_a_bad_option_is_named_with_its_limit(option, message):
    with pytest.raises(InputError, match=message):
        Config(**option)


def test_limits_themselves_are_allowed():
    Config(alpha=0, texts=100, test_texts=100, libraries=2, aware_epochs=0)
    Config(alpha=1, libraries=40, train=Path("a.csv"), test=Path("b.csv"))


def test_the_smallest_student_has_more_seeds_where_there_are_several():
    """It costs least, and it is where a teacher's help has to show."""
    config = Config(students=("two_layers", "narrow"), seeds=1, small_seeds=3)
    assert [config.seeds_of(each) for each in config.students] == [1, 3]
    assert Config(students=("narrow",), seeds=1, small_seeds=3).seeds_of("narrow") == 1
    assert Config(seeds=5, small_seeds=3).seeds_of("narrow") == 5


def test_the_full_scale_runs_every_method_there_is():
    """What an option may name is what the module can do."""
    assert set(get_args(Method)) == set(METHODS) == set(SCALES["full"].methods)
    assert set(SCALES["full"].students) == set(get_args(Student))
    assert set(SCALES) == {"smoke", "standard", "full"}
