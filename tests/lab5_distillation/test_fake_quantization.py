"""Rounding in the forward pass, the gradient through it, and the arithmetic of ONNX Runtime."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from common.errors import InputError
from labs.lab5_distillation import fake_quantization
from labs.lab5_distillation.fake_quantization import Codes, FakeQuantLinear, signed, unsigned


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def gradient_of(function, values):
    """d sum(function(values)) / d values, zeros where there is no graph."""
    x = values.clone().requires_grad_(True)
    y = function(x)
    if not y.requires_grad:
        return torch.zeros_like(values)
    (found,) = torch.autograd.grad(y.sum(), x, allow_unused=True)
    return torch.zeros_like(values) if found is None else found


# --- 5.17 -------------------------------------------------------------------------------------


@pytest.mark.exercise("5.17")
def test_a_fake_quantized_value_is_what_its_code_stands_for():
    """Scale 0.5, zero point 3, codes 0 to 7: values from -1.5 to 2.0 in steps of 0.5, and 0.0 is
    one of them. Padding and ReLU make many exact zeros; an error in them is in every sum.
    """
    values = torch.tensor([-9.0, -1.5, -0.8, 0.0, 0.2, 0.26, 1.9, 9.0])
    found = fake_quantization.fake_quantize(values, torch.tensor(0.5), 3, Codes(0, 7))
    expected = torch.tensor([-1.5, -1.5, -1.0, 0.0, 0.0, 0.5, 2.0, 2.0])
    assert torch.allclose(found, expected, atol=1e-6), f"{found.tolist()} for {expected.tolist()}"


@pytest.mark.exercise("5.17")
def test_the_gradient_is_one_inside_the_range_and_zero_outside():
    """Rounding has gradient zero: through it nothing would ever learn. Where a code saturates the
    gradient stays zero, because there another value would give the same output.
    """
    values = torch.tensor([-3.0, -1.6, -1.4, 0.0, 0.3, 2.1, 2.4, 7.0])
    found = gradient_of(
        lambda x: fake_quantization.fake_quantize(x, torch.tensor(0.5), 3, Codes(0, 7)), values
    )
    expected = torch.tensor([0.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.0, 0.0])
    assert torch.equal(found, expected), f"gradient {found.tolist()}, not {expected.tolist()}"


@pytest.mark.exercise("5.17")
def test_each_channel_is_rounded_in_its_own_steps():
    """Scales [3, 1] against weights [3, 4]: the same weights, three coarsenesses."""
    weights = torch.tensor([[0.3, -0.3, 0.9, 2.0]]).repeat(3, 1)
    scales = torch.tensor([[0.1], [1.0], [0.5]])
    found = fake_quantization.fake_quantize(weights, scales, 0.0, Codes(-7, 7))
    expected = torch.tensor([[0.3, -0.3, 0.7, 0.7], [0.0, 0.0, 1.0, 2.0], [0.5, -0.5, 1.0, 2.0]])
    assert torch.allclose(found, expected, atol=1e-6), f"{found.tolist()}, not {expected.tolist()}"


# --- 5.18 -------------------------------------------------------------------------------------


@pytest.mark.exercise("5.18")
def test_the_range_is_divided_into_one_step_less_than_codes():
    """-1 to 1.55 in 255 steps of 0.01; the largest value must still have a code."""
    values = torch.tensor([-1.0, 0.3, 1.55])
    scale, zero = fake_quantization.quantization_parameters(values, unsigned(8))
    assert torch.allclose(scale, torch.tensor(0.01)), f"scale {float(scale)}, not 0.01"
    assert float(zero) == 100, f"zero point {float(zero)}, not 100"


@pytest.mark.exercise("5.18")
@pytest.mark.parametrize("values", [[1.0, 2.0], [-2.0, -1.0], [0.37, 0.37], [-0.313, 1.0]])
def test_zero_is_one_of_the_codes(values):
    """The range is widened to hold 0 and the zero point is a whole number among the codes:
    otherwise 0.0 comes back as something else.
    """
    codes = unsigned(8)
    scale, zero = fake_quantization.quantization_parameters(torch.tensor(values), codes)
    assert float(zero) == round(float(zero)), f"zero point {float(zero)} is no whole number"
    assert codes.low <= float(zero) <= codes.high, f"zero point {float(zero)} is outside {codes}"
    reach = (float(scale) * (codes.low - float(zero)), float(scale) * (codes.high - float(zero)))
    assert reach[0] <= min(values) + scale / 2, f"codes reach {reach}, the values are {values}"
    assert reach[1] >= max(values) - scale / 2, f"codes reach {reach}, the values are {values}"


@pytest.mark.exercise("5.18")
def test_symmetric_codes_give_each_row_its_largest_magnitude():
    """Weights [2, 3], int8: scales max|w| / 127 for each output, zero point 0, and a row of small
    weights is as finely stepped as one of large weights.
    """
    weights = torch.tensor([[0.127, -0.05, 0.02], [-12.7, 5.0, 1.0]])
    scale, zero = fake_quantization.quantization_parameters(weights, signed(8), axis=0)
    expected = torch.tensor([[0.001], [0.1]])
    assert scale.shape == (2, 1), f"scales of shape {tuple(scale.shape)}, not (2, 1)"
    assert torch.allclose(scale, expected), f"scales {scale.tolist()}, not {expected.tolist()}"
    assert zero.tolist() == [[0.0], [0.0]], f"zero points {zero.tolist()}, not 0"


@pytest.mark.exercise("5.18")
def test_a_channel_of_zeros_has_a_scale_to_divide_by():
    """Scale 1 and zero point 0: 0 / 0 would make the whole network NaN."""
    for codes in (signed(4), unsigned(8)):
        scale, zero = fake_quantization.quantization_parameters(torch.zeros(2, 3), codes, axis=0)
        assert scale.tolist() == [[1.0], [1.0]], f"{codes}: scales {scale.tolist()}, not 1"
        assert zero.tolist() == [[0.0], [0.0]], f"{codes}: zero points {zero.tolist()}, not 0"


# --- properties -------------------------------------------------------------------------------


@given(
    st.lists(st.floats(-100, 100, width=32), min_size=2, max_size=12),
    st.integers(2, 8),
    st.booleans(),
)
@settings(derandomize=True, deadline=None, max_examples=30)
def test_no_value_of_the_range_moves_by_more_than_half_a_step(values, bits, symmetric):
    """Of the values that the scale was made from none saturates: the error is that of rounding,
    and at most another half step where the zero point was rounded.
    """
    x = torch.tensor(values)
    codes = signed(bits) if symmetric else unsigned(bits)
    scale, zero = fake_quantization.quantization_parameters(x, codes)
    moved = (fake_quantization.fake_quantize(x, scale, zero, codes) - x).abs().max()
    assert moved <= scale * (0.5 if symmetric else 1.0) * 1.001 + 1e-6


def test_values_and_gradients_are_those_of_torch():
    """torch.fake_quantize_per_tensor_affine and ..._per_channel_affine, as QAT used for years."""
    x, codes = 3 * normal(6, 40), unsigned(8)
    scale, zero = torch.tensor(0.02), 100
    arguments = (float(scale), zero, codes.low, codes.high)
    ours = fake_quantization.fake_quantize(x, scale, zero, codes)
    assert torch.allclose(ours, torch.fake_quantize_per_tensor_affine(x, *arguments), atol=1e-6)
    assert torch.equal(
        gradient_of(lambda v: fake_quantization.fake_quantize(v, scale, zero, codes), x),
        gradient_of(lambda v: torch.fake_quantize_per_tensor_affine(v, *arguments), x),
    )
    scales = torch.linspace(0.01, 0.1, 6)
    per_channel = torch.fake_quantize_per_channel_affine(
        x, scales, torch.zeros(6, dtype=torch.int32), 0, -127, 127
    )
    ours = fake_quantization.fake_quantize(x, scales[:, None], 0.0, signed(8))
    assert torch.allclose(ours, per_channel, atol=1e-6)


@pytest.mark.parametrize("reduce_range", [False, True])
def test_weight_codes_are_those_of_onnx_runtime(reduce_range):
    """Integer for integer, or the student would be trained for another file."""
    from onnx import TensorProto
    from onnxruntime.quantization.quant_utils import quantize_data

    weight = normal(5, 64) * torch.tensor([[0.01], [0.1], [1.0], [10.0], [0.0]])
    codes = signed(8, reduce_range=reduce_range)
    linear = nn.Linear(64, 5)
    linear.weight = nn.Parameter(weight)
    stored, scales = FakeQuantLinear(linear, codes, None).stored()
    for row in range(len(weight)):
        zero, scale, theirs = quantize_data(
            weight[row].numpy(), TensorProto.INT8, True, reduce_range=reduce_range
        )
        assert int(zero) == 0
        assert float(scales[row]) == pytest.approx(float(scale), rel=1e-6)
        assert stored[row].tolist() == theirs.tolist()


@pytest.mark.parametrize("shift", [-8.0, 0.0, 0.7, 8.0])
def test_activation_codes_are_those_of_onnx_runtime(shift):
    """DynamicQuantizeLinear on the same tensor: scale, zero point and every code."""
    import onnxruntime
    from onnx import TensorProto, helper

    names = ["codes", "scale", "zero"]
    kinds = [TensorProto.UINT8, TensorProto.FLOAT, TensorProto.UINT8]
    graph = helper.make_graph(
        [helper.make_node("DynamicQuantizeLinear", ["x"], names)],
        "one",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, None])],
        [helper.make_tensor_value_info(name, kind, None) for name, kind in zip(names, kinds)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    x = normal(7, 50) + shift
    theirs = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": x.numpy()})
    scale, zero = fake_quantization.quantization_parameters(x, unsigned(8))
    ours = fake_quantization.quantize(x, scale, zero, unsigned(8))
    assert float(scale) == pytest.approx(float(theirs[1]), rel=1e-6)
    assert float(zero) == float(theirs[2])
    different = (ours.numpy() != theirs[0]).mean()
    assert different <= 0.01, f"{100 * different:.1f} % of the codes differ"


def test_the_step_of_lsq_has_the_gradient_of_the_paper():
    """Equation 3: the rounding error inside, the code where it clips, times g = 1/sqrt(n Qp)."""
    codes, step = signed(3), torch.tensor([[0.5]], requires_grad=True)
    x = torch.tensor([[-9.0, -0.6, 0.1, 0.7, 4.0]])
    fake_quantization.learned_step(x, step, codes).sum().backward()
    v = x / 0.5
    inside = v.abs() < codes.high
    expected = torch.where(inside, v.round() - v, v.clamp(codes.low, codes.high)).sum()
    expected = expected / (x.numel() * codes.high) ** 0.5
    assert step.grad is not None
    assert float(step.grad) == pytest.approx(expected.item(), rel=1e-5)
    passed = gradient_of(
        lambda values: fake_quantization.learned_step(values, step.detach(), codes), x
    )
    assert passed.tolist() == inside.float().tolist()


def test_a_learned_step_lowers_the_error_that_it_is_trained_on():
    """From a bad start it moves to where two bits round a normal weight best."""
    weight, codes = normal(1, 4000), signed(2)
    step = torch.tensor([[3.0]], requires_grad=True)
    errors = []
    for _ in range(60):
        error = (fake_quantization.learned_step(weight, step, codes) - weight).square().mean()
        (gradient,) = torch.autograd.grad(error, step)
        with torch.no_grad():
            step -= 10 * gradient
        errors.append(error.item())
    assert errors[0] > 0.6
    assert errors[-1] < 0.25
    assert 1.0 < step.item() < 1.5  # 1.22 is the optimum of three levels for N(0, 1)


# --- students ---------------------------------------------------------------------------------


def test_a_prepared_student_keeps_the_names_and_values_of_its_parameters(tiny_teacher):
    """Optimizers, checkpoints and the recipe's rates find parameters by name."""
    prepared = fake_quantization.prepare(tiny_teacher)
    before, after = (dict(model.named_parameters()) for model in (tiny_teacher, prepared))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(before[name] is not after[name] for name in before)
    learned = fake_quantization.prepare(tiny_teacher, fake_quantization.weight_only(4, "learned"))
    extra = dict(learned.named_parameters()).keys() - before.keys()
    assert extra
    assert all(name.startswith("encoder.") and name.endswith(".step") for name in extra)


def test_a_stripped_student_is_the_plain_one(tiny_teacher, tiny_texts):
    """The deployed student holds no trace of the training: the same classes, the same answers."""
    from labs.lab5_distillation import recipe

    prepared = fake_quantization.prepare(tiny_teacher, fake_quantization.weight_only(2))
    stripped = fake_quantization.strip(prepared)
    classes = [[type(each) for each in m.modules()] for m in (tiny_teacher, stripped)]
    assert classes[0] == classes[1]
    plain, fake, again = (
        recipe.logits(model, tiny_texts) for model in (tiny_teacher, prepared, stripped)
    )
    assert torch.equal(plain, again)
    assert (plain - fake).abs().max() > 0.01


def test_scales_of_least_error_are_not_those_of_the_maxima():
    """Of a normal row they clip: three levels at 2 bits lie 1.22 standard deviations apart, where
    the maximum would put them four apart; at 8 bits the two nearly agree.
    """
    weight = normal(3, 5000) * torch.tensor([[1.0], [10.0], [0.0]])
    for bits, low, high in ((2, 1.1, 1.35), (8, 0.02, 0.04)):
        step = fake_quantization.least_error_step(weight, signed(bits))
        assert low < float(step[0]) < high, f"{bits} bits: {float(step[0])}"
        assert float(step[1]) == pytest.approx(10 * float(step[0]), rel=0.15)
        assert float(step[2]) == 1.0
        full, _ = fake_quantization.quantization_parameters(weight, signed(bits), axis=0)
        errors = [
            (fake_quantization.fake_quantize(weight, each, 0.0, signed(bits)) - weight).norm()
            for each in (step, full)
        ]
        assert errors[0] <= errors[1]


def test_a_student_is_prepared_once(tiny_teacher):
    """Rounding what is rounded already would hide a mistake in the order of calls."""
    with pytest.raises(InputError, match="strip it first"):
        fake_quantization.prepare(fake_quantization.prepare(tiny_teacher))


def test_bits_that_no_scheme_has_are_refused():
    """One bit has no symmetric code but zero; more than eight is no int8."""
    for bits in (1, 9):
        with pytest.raises(InputError, match="from 2 to 8"):
            signed(bits)
    with pytest.raises(InputError, match="must hold 0"):
        Codes(1, 5)


def test_gradients_reach_every_weight_through_the_rounding(tiny_teacher, tiny_texts):
    """One backward pass at 2 bits: without the straight-through estimator all would be zero."""
    import numpy as np

    for scales in ("maximum", "least_error", "learned"):
        scheme = fake_quantization.weight_only(2, scales)
        prepared = fake_quantization.prepare(tiny_teacher, scheme)
        batch = tiny_texts.batch(np.arange(16))
        logits = prepared(batch.input_ids, batch.attention_mask)
        nn.functional.cross_entropy(logits, batch.labels).backward()
        for name, module in prepared.named_modules():
            if isinstance(module, FakeQuantLinear):
                assert module.weight.grad is not None
                assert module.weight.grad.abs().max() > 0, name
                own = scales != "maximum" and name != "head"
                assert (module.step is not None) == own, name
                if module.step is not None and scales == "learned":
                    assert module.step.grad is not None, name
                    assert module.step.grad.abs().max() > 0, name


def test_torchao_is_ours_with_two_other_conventions(tiny_teacher):
    """It rounds each token by itself, and weights to max / 127.5 with codes from -128: the largest
    weight of a row lies between two codes then, and only there may it round otherwise than we do.
    """
    prepared = fake_quantization.prepare_with_torchao(tiny_teacher)
    name = "encoder.encoder.layer.0.intermediate.dense"
    theirs = prepared.get_submodule(name)
    assert type(theirs).__name__ == "FakeQuantizedLinear"
    x, weight = normal(9, 32), theirs.weight.detach()

    scale, zero = fake_quantization.quantization_parameters(x, unsigned(8), axis=0)
    inputs = fake_quantization.fake_quantize(x, scale, zero, unsigned(8))
    assert torch.allclose(theirs.activation_fake_quantizer(x), inputs, atol=1e-6)

    largest = weight.abs().amax(1, keepdim=True)
    step = largest / 127.5
    rounded = fake_quantization.fake_quantize(weight, step, 0.0, Codes(-128, 127))
    apart = (theirs.weight_fake_quantizer(weight).detach() - rounded).abs()
    assert (apart <= step * 1.01).all()
    assert (apart[weight.abs() < 0.999 * largest] < 1e-6).all()

    ours = fake_quantization.prepare(tiny_teacher).get_submodule(name)
    assert (ours(x) - theirs(x)).abs().max() > 1e-4
