"""A repository with one tiny lab of three exercises, for tests of the grader."""

from __future__ import annotations

from pathlib import Path

from common.exercises.catalog import find_root

LAB = "lab9_tiny"
FILES = {
    "labs/__init__.py": (
        '"""Labs."""\n\nfrom common.exercises.overlay import install\n\ninstall()\n'
    ),
    f"labs/{LAB}/__init__.py": '"""A lab."""\n',
    f"labs/{LAB}/arithmetic.py": '''"""Means."""

from __future__ import annotations

import numpy as np

from common.exercises import exercise


@exercise("9.1", points=4, title="A mean", hint="What is its denominator?")
def mean(values: np.ndarray) -> float:
    """Arithmetic mean of ``values``, shape (n,).

    Raises
    ------
    ValueError
        When there are none.
    """
    if len(values) == 0:
        raise ValueError("no values")
    return float(values.sum() / len(values))
''',
    f"labs/{LAB}/ranking.py": '''"""Ranks."""

from __future__ import annotations

import numpy as np

from common.exercises import exercise


@exercise("9.2", points=3, title="Ranks", hint="Sort twice.")
def ranks(values: np.ndarray) -> np.ndarray:
    """Rank of each value, 0 for the smallest; shape (n,)."""
    return np.argsort(np.argsort(values))


@exercise("9.3", points=2, title="Ranks on a GPU", hint="The same.")
def ranks_on_gpu(values: np.ndarray) -> np.ndarray:
    """As :func:`ranks`."""
    return ranks(values)
''',
    "tests/conftest.py": """from hypothesis import Phase, settings

settings.register_profile("no-shrink", phases=(Phase.explicit, Phase.generate))
settings.load_profile("no-shrink")
""",
    f"tests/{LAB}/test_arithmetic.py": '''import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labs.lab9_tiny.arithmetic import mean

pytestmark = pytest.mark.exercise("9.1")


@pytest.mark.parametrize("size", [3, 40])
def test_it_is_the_sum_over_the_number(size):
    """A mean is what each would have if all had the same."""
    values = np.random.default_rng(0).normal(size=size)
    found = mean(values)
    np.testing.assert_allclose(found, sum(values) / size, rtol=1e-9)
    assert found == pytest.approx(math.fsum(values) / size)
    assert isinstance(found, float), f"expected a float, found {type(found)}"


def test_no_values_have_no_mean():
    """0/0 would be a NaN that goes on silently."""
    with pytest.raises(ValueError, match="no values"):
        mean(np.array([]))


@settings(derandomize=True, deadline=None, max_examples=20)
@given(st.lists(st.integers(-1000, 1000), min_size=1, max_size=20))
def test_it_lies_between_the_smallest_and_the_largest(values):
    """A mean outside its values is a sum over the wrong number."""
    found = mean(np.array(values, dtype=float))
    assert min(values) - 1e-9 <= found <= max(values) + 1e-9, f"{found} for {values}"
    assert abs(found * len(values) - sum(values)) < 1e-6
''',
    f"tests/{LAB}/test_ranking.py": '''import numpy as np
import pytest

from labs.lab9_tiny.ranking import ranks, ranks_on_gpu


@pytest.mark.exercise("9.2")
def test_the_smallest_has_rank_nought():
    """Ranks count those below."""
    values = np.random.default_rng(1).permutation(9)
    assert np.array_equal(ranks(values), values), f"{ranks(values)} for {values}"


@pytest.mark.exercise("9.2")
def test_ranks_are_a_permutation():
    """Each rank is given once."""
    values = np.random.default_rng(2).normal(size=30)
    assert sorted(ranks(values)) == list(range(30))


@pytest.mark.exercise("9.3")
@pytest.mark.skipif(True, reason="needs a GPU, this machine has none")
def test_ranks_on_a_gpu():
    """Nobody can pass what cannot run."""
    assert ranks_on_gpu(np.arange(3)).tolist() == [0, 1, 2]
''',
}


def write_repository(folder: Path) -> Path:
    """Write the repository, with this one's ``common`` in it; its root."""
    real = find_root()
    for name, text in FILES.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    (folder / "common").symlink_to(real / "common")
    (folder / "pyproject.toml").write_bytes((real / "pyproject.toml").read_bytes())
    return folder


def write_work(folder: Path, **files: str) -> Path:
    """A learner's ``work/``: ours for each module, or the text that is given for it."""
    for module in ("arithmetic", "ranking"):
        file = folder / "work" / LAB / f"{module}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(files.get(module, FILES[f"labs/{LAB}/{module}.py"]), encoding="utf-8")
    return folder
