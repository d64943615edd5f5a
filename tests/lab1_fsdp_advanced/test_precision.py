"""Mixed precision: the scaled step on one process and on two ranks, and the 8-bit products."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.amp import GradScaler

from common.errors import InputError
from labs.lab1_fsdp_advanced.precision import (
    Float8Linear,
    Precision,
    make_scaler,
    require_support,
    scaled_step,
    to_float8,
    use_float8,
)

SCALE = 1024.0
GRADIENT = [3.0, -4.0, 12.0]
NORM = 13.0


def stepped(*, gradient=None, max_norm=math.inf, steps=1, growth_interval=2000):
    """Weights, answers and scale after steps with a gradient that was scaled by ``SCALE``."""
    weight = nn.Parameter(torch.tensor([1.0, 2.0, 3.0]))
    optimizer = torch.optim.SGD([weight], lr=0.1, momentum=0.9)
    scaler = GradScaler("cpu", init_scale=SCALE, growth_interval=growth_interval)
    answers = []
    for _ in range(steps):
        scale = float(scaler.scale(torch.ones(())))
        weight.grad = scale * torch.tensor(GRADIENT if gradient is None else gradient)
        answers.append(scaled_step(optimizer, [weight], scaler, max_norm))
        optimizer.zero_grad()
    return weight.detach(), answers, scaler.get_scale()


def plainly(*, max_norm=math.inf):
    """The same step in fp32, without a scaler."""
    weight = nn.Parameter(torch.tensor([1.0, 2.0, 3.0]))
    weight.grad = torch.tensor(GRADIENT)
    nn.utils.clip_grad_norm_([weight], max_norm)
    torch.optim.SGD([weight], lr=0.1, momentum=0.9).step()
    return weight.detach()


@pytest.mark.exercise("1.8")
@pytest.mark.parametrize("max_norm", [math.inf, 100.0, 1.0])
def test_a_good_step_is_the_step_without_a_scaler(max_norm):
    """The scale is there and gone again: the weights move exactly as in fp32, clipped or not.

    A gradient that is clipped while it is still scaled has its norm cut to max_norm / scale: with
    the usual scale of 65,536 training stands still, and nothing says why.
    """
    measured, answers, _ = stepped(max_norm=max_norm)
    expected = plainly(max_norm=max_norm)
    assert torch.allclose(measured, expected, rtol=1e-5), (
        f"max_norm = {max_norm}: weights {measured.tolist()}, without a scaler {expected.tolist()}"
    )
    assert answers[0][1] is False, f"max_norm = {max_norm}: a step that was made counts as skipped"


@pytest.mark.exercise("1.8")
@pytest.mark.parametrize("max_norm", [math.inf, 1.0])
def test_the_norm_is_that_of_the_unscaled_gradient_before_clipping(max_norm):
    """Norms of runs with different scales must compare, and a jump in one is a warning."""
    norm = stepped(max_norm=max_norm)[1][0][0]
    assert isinstance(norm, float), f"the norm is a {type(norm).__name__}, expected a float"
    assert norm == pytest.approx(NORM, rel=1e-5), (
        f"max_norm = {max_norm}: norm {norm}, the unscaled gradient has {NORM}"
    )


@pytest.mark.exercise("1.8")
@pytest.mark.parametrize("value", [math.inf, math.nan])
@pytest.mark.parametrize("max_norm", [math.inf, 1.0])
def test_a_gradient_that_overflowed_never_reaches_the_weights(value, max_norm):
    """One step with an infinite gradient makes every weight NaN, for good.

    Clipping does not save it: infinity times 0 is NaN.
    """
    weight, answers, _ = stepped(gradient=[1.0, value, 1.0], max_norm=max_norm)
    assert weight.tolist() == [1.0, 2.0, 3.0], (
        f"a gradient of {value} moved the weights to {weight.tolist()}, expected [1, 2, 3]"
    )
    norm, skipped = answers[0]
    assert skipped is True, f"skipped = {skipped}, expected True"
    assert not math.isfinite(norm), f"the norm is {norm}, expected inf or NaN"


@pytest.mark.exercise("1.8")
def test_an_overflow_lowers_the_scale():
    """Each left-out step halves the scale, until the gradient fits into fp16 again.

    Without that every later step overflows too: training stops, and the loss curve goes flat.
    """
    _, answers, scale = stepped(gradient=[1.0, math.inf, 1.0], steps=3)
    assert [skipped for _, skipped in answers] == [True] * 3, f"skipped: {answers}, expected all"
    assert scale == SCALE / 8, f"scale {scale} after 3 overflows, expected {SCALE / 8}"


@pytest.mark.exercise("1.8")
def test_good_steps_raise_the_scale_again():
    """After growth_interval good steps it doubles: small gradients get as much room as fits."""
    _, answers, scale = stepped(steps=4, growth_interval=2, max_norm=1.0)
    assert scale == 4 * SCALE, f"scale {scale} after 4 good steps, expected {4 * SCALE}"
    assert not any(skipped for _, skipped in answers), f"good steps count as skipped: {answers}"


def measure(ranks):
    import torch
    import torch.distributed as dist
    from torch import nn
    from torch.amp import GradScaler
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import distribute_tensor

    from labs.lab1_fsdp_advanced.precision import scaled_step

    mesh = init_device_mesh("cpu", (ranks.world,))
    torch.manual_seed(0)
    gradient = torch.randn(8, 3)

    def run(max_norm, overflow):
        torch.manual_seed(1)
        model = fully_shard(nn.Linear(3, 8, bias=False), mesh=mesh)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        scaler = GradScaler("cpu", init_scale=1024.0)
        before = model.weight.full_tensor().detach().clone()
        factor = scaler.scale(torch.ones(()))
        model.weight.grad = distribute_tensor(factor * gradient, mesh, model.weight.placements)
        if overflow and ranks.rank == 1:
            model.weight.grad.to_local()[0, 0] = float("inf")
        norm, skipped = scaled_step(optimizer, model.parameters(), scaler, max_norm)
        moved = before - model.weight.full_tensor().detach()
        mine = {
            "norm": float(norm), "skipped": bool(skipped), "scale": scaler.get_scale(),
            "moved": float(moved.norm()), "finite": bool(moved.isfinite().all()),
        }  # fmt: skip
        every = [None] * ranks.world
        dist.all_gather_object(every, mine)
        return every

    return {
        "norm": float(gradient.norm()),
        "free": run(1e9, False),
        "clipped": run(0.5, False),
        "overflow": run(1.0, True),
    }


@pytest.fixture(scope="module")
def answers(on_ranks):
    return on_ranks(measure)


@pytest.mark.exercise("1.8")
@pytest.mark.parametrize(("case", "limit"), [("free", 1e9), ("clipped", 0.5)])
def test_two_ranks_clip_by_the_norm_of_the_whole_gradient(answers, case, limit):
    """Each rank holds half of the gradient: the norm of a half is too small by about sqrt(2)."""
    expected = answers["norm"]
    for rank, row in enumerate(answers[case]):
        assert row["norm"] == pytest.approx(expected, rel=1e-4), (
            f"{case}, rank {rank}: norm {row['norm']:.5f}, the whole gradient has {expected:.5f}"
        )
        step = 0.1 * min(expected, limit)
        assert row["moved"] == pytest.approx(step, rel=1e-3), (
            f"{case}, rank {rank}: the weights moved by {row['moved']:.5f}, expected {step:.5f}"
        )


@pytest.mark.exercise("1.8")
def test_an_overflow_on_one_rank_skips_the_step_on_both(answers):
    """Only rank 1's shard is infinite. If rank 0 stepped, its half of each weight would be newer.

    And if only rank 1 lowered its scale, the ranks would add gradients of different scales from
    then on. Neither raises an error.
    """
    for rank, row in enumerate(answers["overflow"]):
        assert row["finite"], f"rank {rank}: a weight is not finite"
        assert row["moved"] == 0, f"rank {rank}: the weights moved by {row['moved']:.4g}"
        assert row["skipped"], f"rank {rank} says that the step was made"
        assert row["scale"] == 512, f"rank {rank}: scale {row['scale']}, expected 512"


def test_small_gradients_survive_fp16_only_with_a_scaler():
    """1e-8 is 0 in fp16; times 65,536 it is a number with three digits."""

    def gradient(scaler):
        weight = nn.Parameter(torch.ones(4))
        loss = 1e-4 * (weight.half() * 1e-4).float().sum()
        (loss if scaler is None else scaler.scale(loss)).backward()
        if scaler is not None:
            scaler.unscale_(torch.optim.SGD([weight]))
        return weight.grad

    assert gradient(None).abs().max() == 0
    scaler = make_scaler(Precision.FP16, "cpu")
    torch.testing.assert_close(gradient(scaler), torch.full((4,), 1e-8), rtol=1e-2, atol=0)


def test_fp16_alone_has_a_scaler():
    assert [make_scaler(each, "cpu") is not None for each in Precision] == [
        each is Precision.FP16 for each in Precision
    ]
    types = [each.param_dtype for each in Precision]
    assert types == [None, torch.bfloat16, torch.float16, torch.bfloat16]


@pytest.mark.parametrize(("capability", "fits"), [((8, 0), False), ((8, 9), True), ((9, 0), True)])
def test_fp8_needs_a_gpu_that_has_it(monkeypatch, capability, fits):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    require_support(Precision.FP8, "cpu")
    require_support(Precision.BF16, "cuda")
    if fits:
        require_support(Precision.FP8, "cuda")
        return
    with pytest.raises(InputError, match=r"capability 8\.9 .* this one has 8\.0; take bf16"):
        require_support(Precision.FP8, "cuda")


FLOAT8 = {torch.float8_e4m3fn: (3, -6), torch.float8_e5m2: (2, -14)}
"""Bits of mantissa, exponent of the smallest normal number."""
VALUES = st.floats(-1e4, 1e4, width=32, allow_subnormal=False)


@pytest.mark.parametrize("dtype", FLOAT8, ids=str)
@settings(derandomize=True, deadline=None, max_examples=60)
@given(values=st.lists(VALUES, min_size=1, max_size=30))
def test_rounding_to_8_bits_keeps_the_digits_of_the_type(dtype, values):
    """Half a unit in the last place: of the value, or of the smallest normal number below it."""
    x = torch.tensor(values)
    rounded, scale = to_float8(x, dtype)
    assert rounded.dtype == dtype
    assert scale.dtype == torch.float32
    mantissa, smallest = FLOAT8[dtype]
    unit = torch.maximum(x.abs(), 2.0**smallest * scale) * 2.0 ** -(mantissa + 1)
    error = (rounded.float() * scale - x).abs()
    assert (error <= 1.001 * unit).all(), (x, rounded.float() * scale)


@pytest.mark.parametrize("dtype", FLOAT8, ids=str)
def test_the_largest_value_takes_the_largest_number_of_the_type(dtype):
    x = torch.tensor([0.1, -7.3, 2.0])
    rounded, scale = to_float8(x, dtype)
    assert rounded.float().abs().max() == torch.finfo(dtype).max
    assert (rounded.float() * scale)[1].item() == pytest.approx(-7.3, rel=1e-6)
    zeros, scale = to_float8(torch.zeros(3), dtype)
    assert (zeros.float() * scale).tolist() == [0, 0, 0]
    spoilt, scale = to_float8(torch.tensor([1.0, math.nan]), dtype)
    assert (spoilt.float() * scale).isnan().any(), "a NaN must not be hidden by rounding"


def test_e5m2_holds_small_gradients_that_e4m3_loses():
    gradients = torch.tensor([1.0, 1e-4, 1e-6, 1e-8])
    kept = {dtype: int(to_float8(gradients, dtype)[0].float().count_nonzero()) for dtype in FLOAT8}
    assert kept == {torch.float8_e4m3fn: 2, torch.float8_e5m2: 4}


def linear_pair(device="cpu"):
    """The same layer with products in fp8 and exact ones."""
    torch.manual_seed(0)
    exact = nn.Linear(64, 96, bias=False)
    rounded = nn.Linear(64, 96, bias=False)
    rounded.load_state_dict(exact.state_dict())
    assert use_float8([nn.Sequential(rounded)]) == 1
    return rounded.to(device), exact.to(device)


def passes(layer, x, gradient):
    x = x.clone().requires_grad_()
    output = layer(x)
    output.backward(gradient.to(output.dtype))
    return {"output": output.detach(), "input": x.grad, "weight": layer.weight.grad}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("rows", [64, 10])
def test_products_in_fp8_are_close_to_exact_ones(rows, dtype):
    """Measured 3.6 % forwards and 6 % backwards, where a type with 2 bits of mantissa is used."""
    rounded, exact = (layer.to(dtype) for layer in linear_pair())
    x, gradient = torch.randn(2, rows // 2, 64, dtype=dtype), torch.randn(2, rows // 2, 96)
    measured, expected = passes(rounded, x, gradient), passes(exact, x, gradient)
    for name, limit in (("output", 0.05), ("input", 0.08), ("weight", 0.08)):
        assert measured[name].shape == expected[name].shape
        assert measured[name].dtype == dtype
        error = (measured[name] - expected[name]).float().norm() / expected[name].float().norm()
        assert 1e-3 < error < limit, f"{name}: relative error {error:.3f}"


def test_rows_that_fill_up_a_multiple_of_16_change_nothing():
    rounded, _ = linear_pair()
    x, gradient = torch.randn(10, 64), torch.randn(10, 96)
    short = passes(rounded, x, gradient)
    rounded.weight.grad = None
    filled = nn.functional.pad(x, (0, 0, 0, 6)), nn.functional.pad(gradient, (0, 0, 0, 6))
    long = passes(rounded, *filled)
    assert torch.equal(short["output"], long["output"][:10])
    assert torch.equal(short["input"], long["input"][:10])
    assert torch.equal(short["weight"], long["weight"])


def test_layers_that_the_hardware_can_multiply_become_fp8():
    block = nn.Sequential(
        nn.Linear(32, 48, bias=False),
        nn.Linear(48, 40, bias=False),
        nn.Linear(40, 16),
        nn.Sequential(nn.Linear(16, 16, bias=False), nn.Linear(16, 16)),
    )
    names = list(block.state_dict())
    assert use_float8([block]) == 2
    kinds = [type(layer) is Float8Linear for layer in block.modules() if hasattr(layer, "weight")]
    assert kinds == [True, False, False, True, False]
    assert use_float8([block]) == 0, "a second time changes nothing"
    assert list(block.state_dict()) == names


@pytest.mark.gpu
@pytest.mark.parametrize("rows", [64, 10])
def test_a_gpu_multiplies_in_fp8_as_the_cpu_emulates_it(rows):
    if torch.cuda.get_device_capability() < (8, 9):
        pytest.skip("needs a GPU of compute capability 8.9")
    x, gradient = torch.randn(rows, 64), torch.randn(rows, 96)
    expected = passes(linear_pair()[0], x, gradient)
    measured = passes(linear_pair("cuda")[0], x.cuda(), gradient.cuda())
    for name, value in expected.items():
        error = (measured[name].cpu() - value).norm() / value.norm()
        assert error < 0.01, f"{name}: relative difference {error:.4f}"
