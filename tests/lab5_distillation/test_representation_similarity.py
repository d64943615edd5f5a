"""CKA against its closed forms, and layer by layer of two models."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import InputError
from labs.lab5_distillation.representation_similarity import cka, layer_similarity, layer_states
from labs.lab5_distillation.students import by_depth


@settings(derandomize=True, deadline=None, max_examples=30)
@given(st.integers(3, 40), st.integers(1, 6), st.integers(1, 6), st.integers(0, 999))
def test_cka_does_not_see_rotation_scale_and_shift(n, p, q, seed):
    """And is symmetric, from 0 to 1, and 1 for a representation with itself."""
    rng = np.random.default_rng(seed)
    x, y = rng.standard_normal((n, p)), rng.standard_normal((n, q))
    value = cka(x, y)
    assert 0 <= value <= 1 + 1e-9
    assert cka(y, x) == pytest.approx(value, abs=1e-9)
    rotation = np.linalg.qr(rng.standard_normal((p, p)))[0]
    assert cka(3 * x @ rotation + 7, y) == pytest.approx(value, abs=1e-9)
    assert cka(3 * x @ rotation + 7, x) == pytest.approx(1, abs=1e-9)


def test_cka_is_that_of_the_kernels():
    """Equation 3 of the paper: HSIC of the Gram matrices, which are centred on both sides."""
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((30, 5)), rng.standard_normal((30, 4))
    y[:, 0] = x[:, 0]
    centre = np.eye(30) - 1 / 30
    k, m = centre @ x @ x.T @ centre, centre @ y @ y.T @ centre
    expected = (k * m).sum() / np.sqrt((k * k).sum() * (m * m).sum())
    assert cka(x, y) == pytest.approx(expected, rel=1e-9)


def test_cka_of_one_unit_is_the_squared_correlation():
    """The smallest case: 0 at right angles, 1 for the same up to sign."""
    x = np.array([[1.0], [-1.0], [1.0], [-1.0]])
    y = np.array([[1.0], [1.0], [-1.0], [-1.0]])
    assert cka(x, y) == pytest.approx(0, abs=1e-12)
    assert cka(x, -5 * x + 2) == pytest.approx(1)
    assert cka(x, 3 * x + 4 * y) == pytest.approx(0.6**2)


def test_few_examples_of_many_units_look_alike():
    """Random numbers: near 1 with 10 examples in 384 units, near 0 with ten examples a unit."""
    rng = np.random.default_rng(0)
    few = cka(rng.standard_normal((10, 384)), rng.standard_normal((10, 384)))
    many = cka(rng.standard_normal((3840, 384)), rng.standard_normal((3840, 384)))
    assert few > 0.9
    assert many < 0.15


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (np.ones((3, 2)), np.eye(3), "variance"),
        (np.eye(3), np.eye(4), "3 examples and y 4"),
        (np.eye(1), np.eye(1), "examples = 1"),
        (np.eye(3), np.ones(3), r"y \(3,\)"),
        (np.eye(3) * np.nan, np.eye(3), r"x \(3, 3\) must be finite"),
    ],
)
def test_what_has_no_similarity_is_refused(x, y, message):
    """Other examples on one side would give a number that means nothing."""
    with pytest.raises(InputError, match=message):
        cka(x, y)


def test_layers_of_a_cut_student_are_found_again(tiny_teacher, tiny_texts):
    """Its first layer is the teacher's first: CKA 1 there; rows are student layers."""
    student = by_depth(tiny_teacher, (0, 3)).train()
    found = layer_similarity(student, tiny_teacher, tiny_texts)
    assert found.shape == (2, 4)
    assert found[0, 0] == pytest.approx(1, abs=1e-5)
    assert found[1, 3] < 1 - 1e-5
    assert student.training
    states = layer_states(student, tiny_texts, batch_size=7)
    assert [each.shape for each in states] == [(int(tiny_texts.lengths.sum()), 32)] * 2
