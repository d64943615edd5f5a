"""CPU offload: where the shards are, and what it costs to move them.

That a model learns the same with offload is in ``test_parallelize.py``, on CPUs and on a GPU.
"""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributed.fsdp import CPUOffloadPolicy

from labs.lab1_fsdp_advanced.cpu_offload import Traffic, offload_policy, traffic
from labs.lab1_fsdp_advanced.model import SIZES


def test_only_a_gpu_needs_page_locked_memory():
    assert isinstance(offload_policy("cpu"), CPUOffloadPolicy)
    assert not offload_policy("cpu").pin_memory
    assert offload_policy("cuda").pin_memory


def test_the_traffic_of_a_model_on_one_gpu():
    """1.28 billion weights twice to the GPU, their gradients once back: a fifth of a second."""
    parameters = SIZES["1.3B"].parameters
    moved = traffic(parameters, 1)
    assert moved == Traffic(to_device=8 * parameters, to_host=4 * parameters)
    assert moved.seconds(5e10) == pytest.approx(0.205, rel=0.01)


@settings(derandomize=True, deadline=None)
@given(
    parameters=st.integers(1, 10**6).map(lambda n: 64 * n),
    sharing=st.sampled_from([1, 2, 4, 8, 64]),
    gathers=st.integers(1, 8),
)
def test_ranks_share_the_traffic(parameters, sharing, gathers):
    alone, shared = traffic(parameters, 1, gathers=gathers), traffic(parameters, sharing)
    assert shared.to_host * sharing == 4 * parameters
    assert shared.to_device == 2 * shared.to_host
    assert alone.to_device == gathers * alone.to_host


def test_the_slower_direction_counts():
    assert Traffic(100, 40).seconds(10) == 10
    assert Traffic(40, 100).seconds(10) == 10
