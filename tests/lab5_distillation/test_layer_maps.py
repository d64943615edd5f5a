"""Layer maps: the papers' formulas, counted from 0, and what is no map."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import InputError
from labs.lab5_distillation import layer_maps
from labs.lab5_distillation.layer_maps import LayerMap


def test_tinybert_of_four_layers_learns_from_every_third():
    """g(m) = 3m, counted from 1: layers 3, 6, 9 and 12."""
    pairs = layer_maps.uniform(4, 12).pairs
    assert [(s + 1, t + 1) for s, t in pairs] == [(1, 3), (2, 6), (3, 9), (4, 12)]


def test_the_other_maps_are_those_of_the_papers():
    """PKD of 6 layers from 12 (skip, last), the first layers, and MiniLM's single pair."""
    assert [t + 1 for _, t in layer_maps.skip(6, 12).pairs] == [2, 4, 6, 8, 10]
    assert [t + 1 for _, t in layer_maps.last(6, 12).pairs] == [7, 8, 9, 10, 11, 12]
    assert layer_maps.first(2, 6).pairs == ((0, 0), (1, 1))
    assert layer_maps.last_only(2, 6).pairs == ((1, 5),)
    assert layer_maps.last_only(12, 24, 20).pairs == ((11, 20),)


def test_a_cut_student_learns_what_its_next_layer_was_given():
    """Layer 5 took the output of layer 4, so the layer before it in the student learns that."""
    assert layer_maps.as_cut((0, 5), 6).pairs == ((0, 4), (1, 5))
    assert layer_maps.as_cut((5,), 6).pairs == ((0, 5),)
    assert layer_maps.as_cut((0, 1, 2), 3).pairs == ((0, 0), (1, 1), (2, 2))
    with pytest.raises(InputError, match="must rise"):
        layer_maps.as_cut((3, 1), 6)


@settings(derandomize=True, deadline=None, max_examples=60)
@given(st.integers(1, 24), st.integers(1, 24))
def test_uniform_first_and_last_pair_every_student_layer(student, teacher):
    """For every depth: each student layer once, rising, and uniform and last end at the top."""
    if student > teacher:
        with pytest.raises(InputError, match="this map needs 1 to"):
            layer_maps.uniform(student, teacher)
        return
    for make in (layer_maps.uniform, layer_maps.last, layer_maps.first):
        pairs = make(student, teacher).pairs
        assert [s for s, _ in pairs] == list(range(student))
    assert layer_maps.uniform(student, teacher).pairs[-1] == (student - 1, teacher - 1)
    assert layer_maps.last(student, teacher).pairs[-1] == (student - 1, teacher - 1)
    if teacher % student == 0:
        step = teacher // student
        gaps = {t + 1 - step * (s + 1) for s, t in layer_maps.uniform(student, teacher).pairs}
        assert gaps == {0}


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ((), "one pair at least"),
        (((0, 6),), r"teacher layers \[6\] must be some of 0 to 5"),
        (((2, 5),), r"student layers \[2\] must be some of 0 to 1"),
        (((-1, 5),), "student layers"),
        (((0, 4), (1, 2)), r"teacher layers \[4, 2\] must rise"),
        (((0, 1), (0, 2)), r"student layers \[0, 0\] must rise"),
    ],
)
def test_what_is_no_map_is_refused(pairs, message):
    """Numbers counted from 1, and maps that cross, would train without an error."""
    with pytest.raises(InputError, match=message):
        LayerMap(2, 6, pairs)


def test_a_skip_map_of_one_layer_has_nothing_left():
    """Its only layer is the last, which skip leaves to the logits."""
    with pytest.raises(InputError, match="2 layers at least"):
        layer_maps.skip(1, 6)
    with pytest.raises(InputError, match="student = 0"):
        LayerMap(0, 6, ((0, 0),))
