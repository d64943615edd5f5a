"""The rest of an epoch: the same batches, and the same random numbers beside them."""

import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import RunError
from labs.lab5_distillation import resuming
from labs.lab5_distillation.resuming import Place, generators, set_generators


class BySeed:
    """Batches of one number whose order depends on the epoch."""

    def __init__(self, n=6):
        self.n, self.epoch = n, 0

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __iter__(self):
        yield from np.random.default_rng([7, self.epoch]).permutation(self.n).tolist()


class Drawn:
    """Batches whose order is drawn from torch's generator, as DataLoader(shuffle=True) does.

    Each batch draws once more when it is made, as an augmentation would.
    """

    def __init__(self, n=6):
        self.n = n

    def __iter__(self):
        for number in torch.randperm(self.n).tolist():
            torch.rand(3)
            yield number


def epochs(loader, n, start=None):
    """What a run sees: (epoch, batch, the dropout drawn for it), and the place after each."""
    seen, places = [], []
    place = start or Place(0)
    while place.epoch < n:
        at_start = place.at_start or generators()
        taken = place.batches
        for batch in resuming.rest_of_epoch(loader, place):
            seen.append((place.epoch, batch, round(float(torch.rand(1)), 6)))
            taken += 1
            places.append(Place(place.epoch, taken, at_start, generators()))
        place = Place(place.epoch + 1)
    return seen, places


@pytest.mark.exercise("5.3")
@pytest.mark.parametrize("stop", [1, 4, 6, 8])
def test_the_order_of_a_seeded_loader_goes_on(stop):
    """Stopped after 1, 4, 6 (an epoch's end) or 8 batches, the rest of two epochs is the same.

    A loader that is not told its epoch repeats the order of epoch 0: some examples are then seen
    twice and others never. Later epochs begin at their first batch again.
    """
    order = [np.random.default_rng([7, epoch]).permutation(6).tolist() for epoch in (0, 1)]
    expected = [(epoch, batch) for epoch in (0, 1) for batch in order[epoch]][stop:]
    _, places = epochs(BySeed(), 2)
    rest, _ = epochs(BySeed(), 2, places[stop - 1])
    assert [each[:2] for each in rest] == expected, (
        f"(epoch, batch) after {stop} batches: {[each[:2] for each in rest]}, expected {expected}"
    )


@pytest.mark.exercise("5.3")
@pytest.mark.parametrize("stop", [1, 4, 8])
def test_dropout_goes_on_where_it_was(stop):
    """The numbers drawn beside each batch are those that the uninterrupted run drew.

    A process that starts again has its generator at the seed: the losses then differ from the
    first step, and nobody can tell a broken resume from bad luck.
    """
    torch.manual_seed(0)
    seen, places = epochs(BySeed(), 2)
    torch.manual_seed(123)
    rest, _ = epochs(BySeed(), 2, places[stop - 1])
    drawn, expected = ([each[2] for each in part] for part in (rest, seen[stop:]))
    assert drawn == expected, f"drawn beside the batches: {drawn[:3]}, expected {expected[:3]}"


@pytest.mark.exercise("5.3")
@pytest.mark.parametrize("stop", [2, 9])
def test_an_order_that_was_drawn_is_drawn_again(stop):
    """A loader that shuffles with the global generator gives the order it had drawn.

    The order was drawn when the epoch began, long before the stop; and passing over batches draws
    too, so the state of the stop has to be set after that.
    """
    torch.manual_seed(0)
    seen, places = epochs(Drawn(), 2)
    torch.manual_seed(123)
    rest, _ = epochs(Drawn(), 2, places[stop - 1])
    assert rest == seen[stop:], (
        f"(epoch, batch, drawn) after {stop} batches: {rest[:3]}, expected {seen[stop : stop + 3]}"
    )


@settings(derandomize=True, deadline=None, max_examples=30)
@given(n=st.integers(1, 5), shuffled=st.booleans(), data=st.data())
def test_stopping_twice_is_stopping_never(n, shuffled, data):
    """Wherever a run of two epochs is cut, and cut again, what was seen is the same."""
    loader = Drawn(n) if shuffled else BySeed(n)
    torch.manual_seed(1)
    seen, places = epochs(loader, 2)
    first = data.draw(st.integers(1, 2 * n))
    torch.manual_seed(2)
    rest, later = epochs(loader, 2, places[first - 1])
    assert rest == seen[first:]
    if later:
        second = data.draw(st.integers(1, len(later)))
        torch.manual_seed(3)
        assert epochs(loader, 2, later[second - 1])[0] == seen[first + second :]


def test_a_data_loader_of_torch_goes_on():
    """The production tool: DataLoader(shuffle=True), whose order is drawn at its start."""
    from torch.utils.data import DataLoader

    loader = DataLoader(list(range(12)), batch_size=3, shuffle=True)
    torch.manual_seed(0)
    seen, places = epochs(loader, 2)
    torch.manual_seed(123)
    rest, _ = epochs(loader, 2, places[5])
    assert str(rest) == str(seen[6:])
    assert len(rest) == 2


def test_a_loader_that_has_become_shorter_is_an_error():
    with pytest.raises(RunError, match="gives 3 batches, and 5 were seen"):
        list(resuming.rest_of_epoch(BySeed(3), Place(0, 5)))


def test_every_generator_is_kept_as_plain_values(tmp_path):
    """torch's, numpy's and Python's; the file is read without running code."""

    def draw():
        return float(torch.rand(1)), float(np.random.rand()), random.random()  # noqa: NPY002

    torch.save(generators(), tmp_path / "states.pt")
    first = draw()
    set_generators(torch.load(tmp_path / "states.pt", weights_only=True))
    assert draw() == first
    assert draw() != first
