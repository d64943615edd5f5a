"""INT8 and fewer bits by ONNX Runtime: what becomes integer, what it answers, what it takes."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper

from common.errors import InputError
from labs.lab5_distillation import fake_quantization, onnx_export, recipe
from labs.lab5_distillation import post_training_quantization as post
from tests.lab5_distillation.exported import exported, model


@pytest.mark.parametrize("reduce_range", [False, True])
def test_dynamic_int8_answers_as_the_fake_quantized_student(reduce_range, tmp_path, tiny_texts):
    """The whole model, torch against ONNX Runtime: only where a value falls between two codes may
    the last bit of a float decide otherwise. float32 is ten times farther away.
    """
    path = post.quantize_dynamic_int8(
        exported(tmp_path, fused=True), tmp_path / "int8.onnx", reduce_range=reduce_range
    )
    real = onnx_export.session_logits(path, tiny_texts, batch_size=16)
    prepared = fake_quantization.prepare(
        model(), fake_quantization.Scheme(reduce_range=reduce_range)
    )
    fake = recipe.logits(prepared, tiny_texts, batch_size=16)
    plain = recipe.logits(model(), tiny_texts)
    apart, rounding = (real - fake).abs().mean(), (real - plain).abs().mean()
    assert rounding > 1e-3
    assert apart < rounding / 10, f"fake and real differ by {apart:.2g}, float by {rounding:.2g}"


def test_attention_products_and_tables_become_integer(tmp_path):
    """What stays float32 would be slow, or large: tables are most of a small student."""
    path = post.quantize_dynamic_int8(exported(tmp_path, fused=True), tmp_path / "int8.onnx")
    file, running = onnx_export.operators(path), onnx_export.running_operators(path)
    assert (file["QAttention"], file["MatMulInteger"], file["MatMul"], file["Gemm"]) == (1, 4, 0, 0)
    assert running["DynamicQuantizeMatMul"] == 4
    assert running["DequantizeLinear"] == 3  # the tables of words, positions and segments
    graph = onnx.load(path).graph.initializer
    floats = sum(numpy_helper.to_array(each).size for each in graph if each.data_type == 1)
    integers = sum(numpy_helper.to_array(each).size for each in graph if each.data_type in (2, 3))
    matrices = sum(each.numel() for each in model().parameters() if each.ndim == 2)
    assert integers >= matrices
    assert floats < 0.15 * matrices  # biases, layer norms and scales


def test_static_int8_has_its_ranges_in_the_file(tmp_path, tiny_texts):
    """No range is looked for when it runs; the answers stay near those of float32."""
    path = post.quantize_static_int8(
        exported(tmp_path, fused=False), tmp_path / "static.onnx", tiny_texts
    )
    assert onnx_export.operators(path)["DynamicQuantizeLinear"] == 0
    plain = recipe.logits(model(), tiny_texts)
    found = onnx_export.session_logits(path, tiny_texts)
    assert 0 < (found - plain).abs().mean() < 0.1 * plain.std()


@pytest.mark.parametrize(("bits", "scales"), [(4, "maximum"), (2, "learned")])
def test_a_weight_only_file_holds_the_students_own_codes(bits, scales, tmp_path, tiny_texts):
    """Codes and scales are stored as trained, so the file answers as the student to the last bit
    or two. Learned scales are no maxima: rounding the weights again would give others.
    """
    prepared = fake_quantization.prepare(model(), fake_quantization.weight_only(bits, scales))
    plain = exported(tmp_path, fused=False)
    path = post.write_weight_only(prepared, tmp_path / "few.onnx", plain=plain)
    real = onnx_export.session_logits(path, tiny_texts)
    fake = recipe.logits(prepared, tiny_texts, batch_size=32)
    assert torch.allclose(real, fake, atol=1e-5), float((real - fake).abs().max())
    assert (fake - recipe.logits(model(), tiny_texts)).abs().max() > 1e-3
    assert onnx_export.operators(path)["MatMulNBits"] == 6


def test_a_weight_only_file_takes_few_bits_and_float_activations():
    """Anything else would be written as something that it was not trained to be."""
    for scheme in (fake_quantization.INT8, fake_quantization.weight_only(8)):
        prepared = fake_quantization.prepare(model(), scheme)
        with pytest.raises(InputError, match=r"weight_only\(bits\)|fit into 4 bits"):
            post.write_weight_only(prepared, None)  # type: ignore[arg-type]


@given(st.integers(1, 5), st.integers(1, 70), st.integers(0, 100))
@settings(derandomize=True, deadline=None, max_examples=30)
def test_two_codes_share_a_byte_and_come_back(out, width, seed):
    """The low half first; the last block of a row is filled up with zeros."""
    codes = np.random.default_rng(seed).integers(-8, 8, (out, width)).astype(np.int8)
    packed = post.pack_nibbles(codes, 32)
    assert packed.shape == (out, -(-width // 32), 16)
    halves = np.stack([packed & 15, packed >> 4], -1).reshape(out, -1).astype(int) - 8
    assert (halves[:, :width] == codes).all()
    assert (halves[:, width:] == 0).all()


def test_eight_bits_overflow_where_seven_do_not():
    """Two products of 255 and 127 are 64,770, and 16 bits end at 32,767; 2 x 255 x 64 fits."""
    inputs, weights = np.full((1, 2), 255, np.uint8), np.full((1, 2), 127, np.int8)
    assert post.saturating_product(inputs, weights).item() == 32_767
    assert post.saturating_product(inputs, -weights).item() == -32_768
    seven = np.full((1, 2), 64, np.int8)
    assert post.saturating_product(inputs, seven).item() == 2 * 255 * 64


def test_the_processors_flags_say_whether_seven_bits_are_needed(tmp_path):
    """AVX2 alone adds in 16 bits; VNNI and AMX add in 32."""
    path = tmp_path / "cpuinfo"
    for flags, wanted in (("avx2 avx512f", False), ("avx2 avx512_vnni", True), ("amx_int8", True)):
        path.write_text(f"model name : x\nflags : fpu {flags} sse\n")
        assert post.has_integer_dot_product(path) is wanted
    assert post.has_integer_dot_product(tmp_path / "none") is False


def test_a_model_that_is_not_there_is_named(tmp_path):
    """Both ways of INT8 say which file they wanted."""
    for quantize in (post.quantize_dynamic_int8, post.quantize_static_int8):
        extra = () if quantize is post.quantize_dynamic_int8 else (None,)
        with pytest.raises(InputError, match=r"no ONNX model at .*none\.onnx"):
            quantize(tmp_path / "none.onnx", tmp_path / "int8.onnx", *extra)
