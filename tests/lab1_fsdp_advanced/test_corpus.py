"""Batches that many ranks read without talking to each other."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import InputError
from labs.lab1_fsdp_advanced.corpus import ByteWindows, write_corpus


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    path = tmp_path_factory.mktemp("corpus") / "text.bin"
    n = write_corpus([f"text {i} is naïve" for i in range(500)], path)
    assert n == path.stat().st_size
    return path


@settings(derandomize=True, deadline=None, max_examples=30)
@given(
    world=st.sampled_from([1, 2, 3, 4]), micro=st.sampled_from([1, 2, 4]), step=st.integers(0, 9999)
)
def test_the_ranks_share_one_global_batch_without_loss_or_overlap(corpus, world, micro, step):
    def windows(micro_batches):
        return ByteWindows(corpus, 16, 48, micro_batches, seed=3)

    (whole,) = windows(1)(step, 0, 1)
    shares = [windows(micro)(step, rank, world) for rank in range(world)]
    assert [len(share) for share in shares] == [micro] * world
    assert whole.shape == (48, 17)
    rows = torch.cat([torch.cat(share) for share in shares])
    assert sorted(map(tuple, rows.tolist())) == sorted(map(tuple, whole.tolist()))


def test_steps_differ_and_a_step_repeats_exactly(corpus):
    windows = ByteWindows(corpus, 16, 8, 1, seed=3)
    assert torch.equal(windows(5, 0, 1)[0], windows(5, 0, 1)[0])
    assert not torch.equal(windows(5, 0, 1)[0], windows(6, 0, 1)[0])


def test_a_global_batch_that_does_not_divide_is_refused(corpus):
    with pytest.raises(InputError, match=r"multiple of 3 rank\(s\) x 2 micro-batch"):
        ByteWindows(corpus, 16, 8, 2, seed=0)(0, 0, 3)


def test_a_text_shorter_than_a_window_is_refused(tmp_path):
    write_corpus(["short"], tmp_path / "short.bin")
    with pytest.raises(InputError, match="a window needs 17"):
        ByteWindows(tmp_path / "short.bin", 16, 1, 1, seed=0)(0, 0, 1)
