"""A fingerprint of what made them, files that must be whole, and logits kept in them."""

import builtins
import errno
import os
import resource

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import RunError
from labs.lab5_distillation import teacher_cache
from labs.lab5_distillation.tokens import TokenSet


def weights(seed=0):
    """Two layers of a model (synthetic)."""
    generator = torch.Generator().manual_seed(seed)
    return {
        "layer.weight": torch.randn(3, 4, generator=generator),
        "layer.bias": torch.randn(4, generator=generator),
        "steps": torch.tensor(7),
    }


IDS = [[1, 5, 6, 2], [1, 7, 2], [1, 8, 9, 2]]
SETTINGS = {"version": 1, "names": ["a", "b"]}


def of(made_by=None, ids=None, chosen=None):
    return teacher_cache.fingerprint(
        weights() if made_by is None else made_by,
        IDS if ids is None else ids,
        SETTINGS if chosen is None else chosen,
    )


def differs(other, what):
    first = of()
    assert other != first, f"{what}, and the fingerprint is the same: {first}"


@pytest.mark.exercise("5.16")
def test_equal_content_has_one_fingerprint():
    """A cache that is never hit is no cache: copies, strides and the order of keys do not count."""
    copy = {name: tensor.clone() for name, tensor in reversed(weights().items())}
    copy["layer.weight"] = copy["layer.weight"].T.contiguous().T  # other strides, same values
    found = of(copy, [tuple(ids) for ids in IDS], dict(reversed(SETTINGS.items())))
    assert found == of(), f"the same model and texts: {found} and {of()}"
    assert len(found) == 64, f"{len(found)} characters, expected the 64 of a SHA-256"
    assert set(found) <= set("0123456789abcdef"), f"{found!r} is not hexadecimal"


@pytest.mark.exercise("5.16")
def test_another_process_finds_the_same(monkeypatch):
    """Python's hash() of text is salted anew in every process; tomorrow's run would miss the file.

    A salt is simulated here: hash() gives other numbers on the second call.
    """
    first, plain = of(), builtins.hash
    monkeypatch.setattr(builtins, "hash", lambda value: plain(value) ^ 0x5BD1E995)
    second = of()
    monkeypatch.undo()
    assert second == first, f"with another salt: {second}, before: {first}"


@pytest.mark.exercise("5.16")
@settings(derandomize=True, deadline=None, max_examples=20)
@given(st.sampled_from(["layer.weight", "layer.bias"]), st.integers(0, 3))
def test_one_bit_of_one_weight_counts(name, place):
    """A teacher trained for another epoch has the same names, shapes and, nearly, values."""
    changed = weights()
    values = changed[name].view(-1)
    values[place] = float(np.nextafter(values[place].numpy(), np.float32(9)))
    differs(of(changed), f"one bit of {name}[{place}] changed")


@pytest.mark.exercise("5.16")
def test_names_types_and_shapes_of_weights_count():
    """The same bytes in another shape, as another type or under another name are another model."""
    changed = weights()
    changed["layer.weight"] = changed["layer.weight"].reshape(4, 3)
    differs(of(changed), "layer.weight is [4, 3] and not [3, 4]")
    changed = weights()
    changed["layer.bias"] = changed["layer.bias"].view(torch.int32)
    differs(of(changed), "layer.bias is int32 with the same bytes")
    first, second = torch.ones(2), torch.zeros(2)
    one, other = of({"a": first, "b": second}), of({"a": second, "b": first})
    assert one != other, f"two weights changed places, and the fingerprint is the same: {one}"


@pytest.mark.exercise("5.16")
def test_every_token_its_text_and_the_order_of_texts_count():
    """Rows of the cache are places in the list: sorted texts have the same words and other rows.

    Without lengths, [1, 2], [3] and [1], [2, 3] are the same numbers in the same order.
    """
    differs(of(ids=[IDS[1], IDS[0], IDS[2]]), "two texts changed places")
    differs(of(ids=[IDS[0], [1, 10, 2], IDS[2]]), "a token is another")
    differs(of(ids=[[1, 5, 6], [2, 1, 7, 2], IDS[2]]), "a token moved to the next text")
    differs(of(ids=[*IDS, []]), "an empty text was added")
    one, other = of(ids=[[1, 23]]), of(ids=[[12, 3]])
    assert one != other, f"ids 1, 23 and 12, 3 have the same fingerprint {one}"


@pytest.mark.exercise("5.16")
def test_settings_count():
    """The order of the labels is in no weight: the same logits mean other classes."""
    differs(of(chosen={**SETTINGS, "names": ["b", "a"]}), "the labels have another order")
    differs(of(chosen={**SETTINGS, "version": 2}), "the version is another")


# Files.


def test_a_file_gives_back_what_was_saved(tmp_path):
    """Bit for bit, with integers and scalars, and nothing else is left in the folder."""
    path = tmp_path / "a" / "kept.safetensors"
    teacher_cache.save_tensors(path, weights(), "made of this")
    found = teacher_cache.load_tensors(path, "made of this")
    assert {name: tensor.tolist() for name, tensor in found.items()} == {
        name: tensor.tolist() for name, tensor in weights().items()
    }
    assert [each.name for each in path.parent.iterdir()] == ["kept.safetensors"]


@pytest.mark.parametrize("room", [0, 5, 400])
@pytest.mark.parametrize("write", [teacher_cache.write_whole, teacher_cache.save_tensors])
def test_a_full_disk_is_one_error_and_leaves_the_old_file(write, room, tmp_path):
    """safetensors makes an error of its own of what the disk says; 400 bytes hold the head."""
    path = tmp_path / "kept.safetensors"
    path.write_bytes(b"old")
    more = () if write is teacher_cache.write_whole else ("this",)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, limits[1]))
    try:
        with pytest.raises(RunError, match=r"kept\.safetensors was not written: .*too large"):
            write(path, {"many": torch.ones(5000)}, *more)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["kept.safetensors"]


def test_what_the_disk_says_at_the_end_is_the_same_error(monkeypatch, tmp_path):
    """A plain OSError, when the file gets its name."""

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("pathlib.Path.replace", full)
    with pytest.raises(RunError, match=r"kept\.safetensors was not written: .*No space left"):
        teacher_cache.write_whole(tmp_path / "kept.safetensors", weights())
    assert os.listdir(tmp_path) == []


def test_strided_tensors_and_metadata_are_written(tmp_path):
    """A transposed weight comes back with its values, beside what the file says of itself."""
    from safetensors import safe_open

    path = tmp_path / "new" / "kept.safetensors"
    teacher_cache.write_whole(path, {"a": torch.arange(6.0).reshape(2, 3).T}, {"made": "here"})
    with safe_open(path, "pt") as file:
        assert file.metadata() == {"made": "here"}
        assert file.get_tensor("a").tolist() == [[0.0, 3.0], [1.0, 4.0], [2.0, 5.0]]


def test_a_file_that_is_not_whole_or_not_ours_is_not_used(tmp_path):
    """Cut short, one bit flipped in the middle, of another teacher, of another program."""
    from safetensors.torch import save_file

    path = tmp_path / "kept.safetensors"
    assert teacher_cache.load_tensors(path, "this") == "not there"
    teacher_cache.save_tensors(path, weights(), "this")
    whole = path.read_bytes()
    path.write_bytes(whole[:-5])
    assert "damaged" in teacher_cache.load_tensors(path, "this")
    path.write_bytes(whole[:-5] + bytes([whole[-5] ^ 1]) + whole[-4:])
    assert "content is not what was written" in teacher_cache.load_tensors(path, "this")
    path.write_bytes(whole)
    assert "of something else" in teacher_cache.load_tensors(path, "that")
    save_file(weights(), path)
    assert "it does not say what" in teacher_cache.load_tensors(path, "this")
    path.write_bytes(b"")
    assert "damaged" in teacher_cache.load_tensors(path, "this")


# A teacher's logits.


@pytest.fixture
def asked(monkeypatch):
    """How often a teacher was asked for its logits."""
    calls = []
    ask = teacher_cache.logits
    monkeypatch.setattr(
        teacher_cache, "logits", lambda *a, **kw: (calls.append(1), ask(*a, **kw))[1]
    )
    return calls


def test_the_second_time_nobody_asks_the_teacher(tmp_path, tiny_teacher, tiny_texts, asked):
    """And the cached answers are the teacher's, text by text, though it is in training mode."""
    first = teacher_cache.cached_logits(tiny_teacher.train(), tiny_texts, folder=tmp_path)
    second = teacher_cache.cached_logits(tiny_teacher, tiny_texts, folder=tmp_path)
    assert len(asked) == 1
    assert tiny_teacher.training
    assert torch.equal(first.logits, second.logits)
    tiny_teacher.eval()
    batch = tiny_texts.batch(np.array([17, 3]))
    with torch.no_grad():
        expected = tiny_teacher(batch.input_ids, batch.attention_mask)
    assert torch.allclose(second(batch), expected, atol=1e-5)


def test_another_teacher_other_texts_and_another_order_are_asked_again(
    tmp_path, tiny_teacher, tiny_texts, asked
):
    """The logits follow the texts: after reversing them, row 0 has what the last row had."""
    before = teacher_cache.cached_logits(tiny_teacher, tiny_texts, folder=tmp_path).logits
    turned = TokenSet(tiny_texts.ids[::-1], tiny_texts.labels[::-1].copy())
    after = teacher_cache.cached_logits(tiny_teacher, turned, folder=tmp_path).logits
    assert torch.allclose(after.flip(0), before, atol=1e-5)
    with torch.no_grad():
        tiny_teacher.head.bias[0] += 1
    moved = teacher_cache.cached_logits(tiny_teacher, tiny_texts, folder=tmp_path).logits
    assert torch.allclose((moved - before)[:, 0], torch.ones(len(before)), atol=1e-5)
    assert len(asked) == 3
    assert len(list(tmp_path.glob("*.safetensors"))) == 3


def test_labels_do_not_make_another_file(tmp_path, tiny_teacher, tiny_texts, asked):
    """No teacher sees them, so the unlabelled texts have the same answers."""
    teacher_cache.cached_logits(tiny_teacher, tiny_texts, folder=tmp_path)
    teacher_cache.cached_logits(tiny_teacher, tiny_texts.without_labels(), folder=tmp_path)
    assert len(asked) == 1


def test_the_number_of_heads_makes_another_file(tiny_teacher, tiny_texts):
    """It is in no weight: 2 heads of 16 read the same matrices as 4 heads of 8."""
    first = teacher_cache.logits_fingerprint(tiny_teacher, tiny_texts)
    tiny_teacher.encoder.config.num_attention_heads = 2
    assert teacher_cache.logits_fingerprint(tiny_teacher, tiny_texts) != first


def test_a_damaged_file_is_made_again_and_that_is_said(
    tmp_path, tiny_teacher, tiny_texts, asked, capsys
):
    """A killed machine may leave half a file; a student would learn from whatever is in it."""
    first = teacher_cache.cached_logits(tiny_teacher, tiny_texts, folder=tmp_path)
    (path,) = tmp_path.glob("*.safetensors")
    path.write_bytes(path.read_bytes()[:-100])
    again = teacher_cache.cached_logits(tiny_teacher, tiny_texts, folder=tmp_path)
    assert torch.equal(first.logits, again.logits)
    assert len(asked) == 2
    assert "made again" in capsys.readouterr().err
