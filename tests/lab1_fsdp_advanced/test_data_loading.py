"""The loader: one global order, each rank its part of it, the same for any number of ranks."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import InputError
from labs.lab1_fsdp_advanced import data_loading
from labs.lab1_fsdp_advanced.data_loading import (
    TokenBatches,
    TokenDataset,
    rank_indices,
    unigram_cross_entropy,
)
from labs.lab1_fsdp_advanced.token_files import prepare_tokens

STEPS = st.integers(0, 50)
WORLDS = st.integers(1, 6)
SHARES = st.integers(1, 5)
WINDOWS = st.integers(1, 60)


def batch_of(step, world, *, windows, global_batch, seed=0):
    """What all ranks read in one step, by rank."""
    options = {"windows": windows, "global_batch": global_batch, "seed": seed}
    return [rank_indices(step, rank, world, **options).tolist() for rank in range(world)]


@pytest.mark.exercise("1.7")
@settings(derandomize=True, deadline=None)
@given(step=STEPS, world=WORLDS, share=SHARES, windows=WINDOWS)
def test_the_global_batch_does_not_depend_on_the_number_of_ranks(step, world, share, windows):
    """All ranks together read what one rank alone would, position by position.

    A run that goes on with fewer GPUs must see the same global batches, or its loss curve is that
    of another training.
    """
    size = world * share
    ranks = batch_of(step, world, windows=windows, global_batch=size)
    alone = batch_of(step, 1, windows=windows, global_batch=size)[0]
    together = [ranks[place % world][place // world] for place in range(size)]
    assert together == alone, f"{world} ranks read {together} in step {step}, one rank {alone}"


@pytest.mark.exercise("1.7")
@settings(derandomize=True, deadline=None)
@given(world=WORLDS, share=SHARES, windows=WINDOWS, epochs=st.integers(1, 3))
def test_every_window_is_read_once_an_epoch(world, share, windows, epochs):
    """No window twice and none left out before the next epoch begins, in the middle of a batch too.

    Ranks that draw for themselves read some windows twice and others never: the loss still falls.
    """
    size = world * share
    steps = -(-epochs * windows // size)
    read = [
        window
        for step in range(steps)
        for place in range(size)
        for window in [
            batch_of(step, world, windows=windows, global_batch=size)[place % world][place // world]
        ]
    ]
    for epoch in range(epochs):
        part = sorted(read[epoch * windows : (epoch + 1) * windows])
        assert part == list(range(windows)), f"epoch {epoch} of {windows} windows read {part}"


@pytest.mark.exercise("1.7")
def test_each_epoch_has_an_order_of_its_own():
    """The order is drawn anew each epoch; the same one each time lets the model learn the order."""
    first, second = (batch_of(step, 1, windows=40, global_batch=40)[0] for step in (0, 1))
    assert sorted(first) == sorted(second) == list(range(40))
    assert first != second, "epochs 0 and 1 were read in the same order"
    assert first != list(range(40)), "epoch 0 was not shuffled"


@pytest.mark.exercise("1.7")
def test_a_step_can_be_asked_for_first_or_twice():
    """The answer depends on the arguments only: no state to save, none to lose in a crash.

    A resumed run asks for step 7 without having asked for steps 0 to 6.
    """
    options = {"windows": 30, "global_batch": 8}
    in_order = [batch_of(step, 2, **options) for step in range(10)]
    assert batch_of(7, 2, **options) == in_order[7], "step 7 asked again gave other windows"
    data_loading.epoch_order.cache_clear()
    assert batch_of(7, 2, **options) == in_order[7], "step 7 asked first gave other windows"


@pytest.mark.exercise("1.7")
def test_another_seed_is_another_order():
    """Two seeds must not read the same stream: seeds are how runs are compared."""
    options = {"windows": 40, "global_batch": 40}
    orders = [batch_of(0, 1, seed=seed, **options)[0] for seed in (0, 1)]
    assert orders[0] != orders[1], f"seeds 0 and 1 both read {orders[0][:6]}..."


def test_changing_the_number_of_ranks_in_mid_epoch_loses_and_repeats_nothing():
    """Two ranks for four steps, then three for the rest of the epoch."""
    read = []
    for step in range(10):
        world = 2 if step < 4 else 3
        read += [w for rank in batch_of(step, world, windows=60, global_batch=6) for w in rank]
    assert sorted(read) == list(range(60))


def test_torchs_sampler_repeats_its_order_when_the_epoch_is_not_set_and_pads_with_duplicates():
    """Why this lab computes the order: both are silent in DistributedSampler."""
    from torch.utils.data import DistributedSampler

    sampler = DistributedSampler(range(10), num_replicas=4, rank=0, shuffle=True, seed=0)
    assert list(sampler) == list(sampler), "without set_epoch, every epoch has the same order"
    sampler.set_epoch(1)
    every = [
        i
        for rank in range(4)
        for i in DistributedSampler(range(10), num_replicas=4, rank=rank, shuffle=False)
    ]
    assert len(every) == 12
    assert len(set(every)) == 10


@pytest.fixture(scope="module")
def tokens(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokens") / "small"
    texts = [f"Return the {word} of x and y. Raises ValueError for {word}." for word in WORDS]
    return prepare_tokens(texts, folder, vocabulary=300, validation_share=0.2, shard_tokens=64)


WORDS = [f"{a}{b}" for a in ("sum", "mean", "norm", "rank", "loss") for b in range(20)]


def test_windows_are_read_across_the_borders_of_shards(tokens):
    """The shards are one stream: a window that begins in one and ends in another is whole."""
    data = TokenDataset(tokens.folder / "train", context=50)
    assert len(list((tokens.folder / "train").glob("*.bin"))) > 10
    stream = np.concatenate(data._shards)
    assert len(data) == (len(stream) - 1) // 50
    for index in range(len(data)):
        window = data.windows(np.array([index]))[0]
        assert window.tolist() == stream[index * 50 : index * 50 + 51].tolist()


def test_micro_batches_of_all_ranks_are_the_global_batch(tokens):
    data = TokenDataset(tokens.folder / "train", context=10)
    batches = TokenBatches(data, global_batch=12, micro_batches=2, seed=3)
    whole = torch.cat(batches(5, 0, 1))
    assert whole.shape == (12, 11)
    assert whole.dtype == torch.int64
    parts = [torch.cat(batches(5, rank, 3)) for rank in range(3)]
    assert [len(batches(5, rank, 3)) for rank in range(3)] == [2, 2, 2]
    assert torch.equal(torch.stack(parts, dim=1).flatten(0, 1), whole)


def test_a_batch_that_the_ranks_do_not_divide_is_refused(tokens):
    batches = TokenBatches(TokenDataset(tokens.folder / "train", 10), 12, 2, seed=0)
    with pytest.raises(
        InputError, match=r"global_batch = 12 must be a multiple of 4 rank\(s\) x 2"
    ):
        batches(0, 0, 4)


@pytest.mark.parametrize("number", [-1, 10**6])
def test_a_window_that_is_not_there_is_refused(tokens, number):
    data = TokenDataset(tokens.folder / "train", 10)
    with pytest.raises(InputError, match=f"window = {number} must be from 0 to"):
        data.windows(np.array([0, number]))


def test_ranks_that_do_not_divide_the_batch_are_refused():
    with pytest.raises(InputError, match="global_batch = 5 must be a multiple of 2 rank"):
        rank_indices(0, 0, 2, windows=10, global_batch=5, seed=0)


def test_a_text_shorter_than_a_window_is_refused(tokens):
    with pytest.raises(InputError, match=r"a window needs 1,000,001"):
        TokenDataset(tokens.folder / "train", context=1_000_000)


def test_the_unigram_entropy_is_that_of_the_frequencies(tokens):
    """Against the formula written out with plain counts."""
    train, validation = (TokenDataset(tokens.folder / p, 10) for p in ("train", "validation"))
    size = tokens.vocabulary
    stream = np.concatenate(train._shards).tolist()
    total = len(stream) + size
    judged = np.concatenate(validation._shards).tolist()
    expected = -np.mean([np.log((stream.count(token) + 1) / total) for token in judged])
    assert unigram_cross_entropy(train, validation, size) == pytest.approx(expected, rel=1e-9)
    assert expected < np.log(size), "frequencies say more than nothing"
