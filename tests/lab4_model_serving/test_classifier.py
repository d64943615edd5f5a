"""Training on a handful of texts, its cache, and the export."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from common.data.labelled_texts import Part, Split
from common.errors import InputError
from labs.lab4_model_serving import classifier
from labs.lab4_model_serving.encoder import TextClassifier
from labs.lab4_model_serving.export import session
from labs.lab4_model_serving.parity import parity, require_parity
from labs.lab4_model_serving.tokens import Tokens

SAID = {"alarm": ("wake me at", "set an alarm for"), "balance": ("how much is on", "money in")}


def split(words: int = 16) -> Split:
    texts = [f"{said} {i}" for i in range(words) for pair in SAID.values() for said in pair]
    labels = np.array(
        [i for _ in range(words) for i, pair in enumerate(SAID.values()) for _ in pair]
    )
    part = Part(texts, labels)
    return Split(tuple(SAID), part, part.head(8), part.head(8), dataset=None)


@pytest.fixture(scope="module")
def model():
    return classifier.train(split(), layers=1, epochs=2, batch=16)


def test_a_few_steps_tell_two_intents_apart(model):
    part = split().train
    found = classifier.logits(model, part.texts)
    assert found.shape == (64, 2)
    assert classifier.accuracy(found, part) > 0.9
    assert not model.training


def test_the_layers_learn_and_the_word_vectors_stay(model):
    """The word vectors are most of the weights; frozen, they can be shared between versions."""
    before = classifier.from_minilm(classifier.minilm(), classes=2, layers=1)
    assert torch.equal(model.words.weight, before.words.weight)
    assert torch.equal(model.positions.weight, before.positions.weight)
    assert not torch.equal(model.layers[0].inner.weight, before.layers[0].inner.weight)
    assert not torch.equal(model.norm.weight, before.norm.weight)
    assert model.state_dict().keys() == before.state_dict().keys()


def test_the_same_seed_gives_the_same_weights(model):
    again = classifier.train(split(), layers=1, epochs=2, batch=16)
    torch.testing.assert_close(again.head.weight, model.head.weight, atol=1e-5, rtol=1e-4)


def test_a_model_is_trained_once_for_the_same_texts_and_settings(model, monkeypatch, tmp_path):
    calls = []

    def train(given, **chosen):
        calls.append(chosen)
        return model

    monkeypatch.setattr(classifier, "train", train)
    monkeypatch.setattr(classifier, "cache_folder", lambda: tmp_path)
    for epochs in (1, 1, 2):
        found = classifier.trained(split(), layers=1, epochs=epochs)
        assert torch.equal(found.head.weight, model.head.weight)
        assert not found.training
    classifier.trained(split(words=15), layers=1, epochs=1)
    assert [each["epochs"] for each in calls] == [1, 2, 1]
    files = sorted((tmp_path / "lab4_model_serving").glob("*.safetensors"))
    assert len(files) == 3
    assert torch.equal(load_file(files[0])["head.weight"], model.head.weight)
    with pytest.raises(InputError, match="epochs = 0"):
        classifier.trained(split(), epochs=0)


def test_labels_are_part_of_the_fingerprint():
    given = split()
    other = Split(
        given.names, Part(given.train.texts, 1 - given.train.labels), *[given.test] * 2, None
    )
    chosen = {"layers": 1}
    assert classifier.fingerprint(given, chosen) == classifier.fingerprint(split(), chosen)
    assert classifier.fingerprint(given, chosen) != classifier.fingerprint(other, chosen)
    assert classifier.fingerprint(given, chosen) != classifier.fingerprint(given, {"layers": 2})


def test_logits_come_in_the_order_of_the_texts(model):
    texts = split().train.texts
    whole = classifier.logits(model, texts)
    np.testing.assert_allclose(classifier.logits(model, texts, batch=5), whole, atol=1e-5)


def test_the_export_answers_as_the_model_on_texts(tmp_path):
    torch.manual_seed(0)
    tiny = TextClassifier(classes=4, vocabulary=30522, width=16, heads=2, inner=32).eval()
    path = classifier.export(tiny, tmp_path / "m.onnx")
    texts = ["hi", "a much longer text than the others are", "alarm at six"]
    inputs = Tokens(classifier.minilm() / "tokenizer.json")(texts)
    answers = session(path).run(["logits"], inputs)[0]
    measured = parity({"logits": classifier.logits(tiny, texts)}, {"logits": answers})
    require_parity(measured, max_abs_error=1e-5, min_agreement=1.0)
