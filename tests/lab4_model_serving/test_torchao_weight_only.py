"""torchao's weight-only configurations on a CPU: which run, and what is said of the others."""

import pytest

from common.errors import InputError
from labs.lab4_model_serving.torchao_weight_only import try_torchao


@pytest.fixture(scope="module")
def results():
    return {each.config: each for each in try_torchao(inputs=128, outputs=64)}


def test_int8_weights_take_a_byte_each_and_cost_less_than_a_percent(results):
    found = results["Int8WeightOnlyConfig"]
    assert found.runs
    assert found.relative_error is not None
    assert 0 < found.relative_error < 0.02
    assert found.bytes_per_weight == pytest.approx(1, abs=0.1)


def test_int4_that_runs_without_kernels_saves_no_more_than_int8(results):
    """Values of four bits, each in a byte of its own: the accuracy of INT4 without its size."""
    found = results["IntxWeightOnlyConfig(int4)"]
    assert found.runs
    assert found.relative_error is not None
    assert 0.03 < found.relative_error < 0.2
    assert found.bytes_per_weight is not None
    assert found.bytes_per_weight > 1


def test_what_does_not_run_says_why(results):
    """An empty reason would read as success; a silent float32 layer would have no error at all."""
    refused = [each for each in results.values() if not each.runs]
    assert all(each.refused and each.relative_error is None for each in refused)
    assert all(each.relative_error is None or each.relative_error > 0 for each in results.values())


def test_a_width_that_torchao_would_skip_silently_is_refused():
    with pytest.raises(InputError, match="group_size = 32"):
        try_torchao(inputs=100)
