"""A bundle is whole or refused, and answers as its parts do."""

import json
import shutil

import numpy as np
import pytest

from common.errors import InputError
from labs.lab4_model_serving.bundle import MANIFEST, describe, read_bundle, write_bundle
from labs.lab4_model_serving.predictor import Predictor
from labs.lab4_model_serving.tokens import Tokens, pad

TEXTS = ["set an alarm for six", "what is my balance", "hi"]


def test_a_bundle_is_read_back_as_it_was_written(tiny_bundle):
    assert read_bundle(tiny_bundle.folder) == tiny_bundle
    told = describe(tiny_bundle)
    assert (told["name"], told["classes"]) == ("intents", 5)
    assert "folder" not in told


def test_a_bundle_is_never_changed(tiny_bundle):
    with pytest.raises(InputError, match="never changed"):
        write_bundle(
            tiny_bundle.folder,
            name="intents",
            version="1.0",
            model=tiny_bundle.model,
            tokenizer=tiny_bundle.tokenizer,
            labels=("a",),
            precision="fp32",
        )


@pytest.mark.parametrize("name", ["model.onnx", "tokenizer.json", "labels.json"])
def test_a_file_that_is_not_the_packed_one_is_named(tiny_bundle, tmp_path, name):
    copy = tmp_path / "copy"
    shutil.copytree(tiny_bundle.folder, copy)
    with (copy / name).open("ab") as stream:
        stream.write(b" ")
    with pytest.raises(InputError, match=name):
        read_bundle(copy)
    (copy / name).unlink()
    with pytest.raises(InputError, match=f"no {name}"):
        read_bundle(copy)


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"sha256": 3}'])
def test_a_broken_manifest_is_one_clear_error(tiny_bundle, tmp_path, content):
    copy = tmp_path / "copy"
    shutil.copytree(tiny_bundle.folder, copy)
    (copy / MANIFEST).write_text(content)
    with pytest.raises(InputError, match="manifest"):
        read_bundle(copy)


def test_nothing_is_left_of_a_bundle_that_could_not_be_written(tiny_bundle, tmp_path):
    with pytest.raises(FileNotFoundError):
        write_bundle(
            tmp_path / "new",
            name="intents",
            version="2.0",
            model=tmp_path / "missing.onnx",
            tokenizer=tiny_bundle.tokenizer,
            labels=("a",),
            precision="fp32",
        )
    assert list(tmp_path.iterdir()) == []


def test_the_batch_a_text_is_in_does_not_change_its_answer(tiny_bundle):
    predictor = Predictor(tiny_bundle)
    together = predictor.predict(TEXTS)
    alone = [predictor.predict([text])[0] for text in TEXTS]
    assert [a.label for a in together] == [a.label for a in alone]
    assert np.allclose([a.probability for a in together], [a.probability for a in alone])


def test_probabilities_are_the_softmax(tiny_bundle):
    predictor = Predictor(tiny_bundle)
    logits = predictor.logits(predictor.encode(TEXTS)).astype(np.float64)
    softmax = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    found = [answer.probability for answer in predictor.predict(TEXTS)]
    assert np.allclose(found, softmax.max(axis=1))


def test_tokens_are_cut_and_padded(tiny_bundle):
    tokens = Tokens(tiny_bundle.tokenizer, max_tokens=5)
    inputs = tokens(["one two three four five six", "one"])
    assert inputs["input_ids"].shape == (2, 5)
    assert inputs["attention_mask"].tolist() == [[1] * 5, [1, 1, 1, 0, 0]]
    assert inputs["input_ids"][1, 3:].tolist() == [0, 0]


def test_padding_further_adds_only_padding():
    inputs = pad([[1, 2], [3]], to=4)
    assert inputs["input_ids"].tolist() == [[1, 2, 0, 0], [3, 0, 0, 0]]
    assert json.dumps(inputs["attention_mask"].tolist()) == "[[1, 1, 0, 0], [1, 0, 0, 0]]"
