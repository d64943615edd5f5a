"""Encoders by name, folder and architecture: what is loaded, and what is refused."""

import json
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file

from common.data.fetch import DataError
from common.errors import InputError
from labs.lab5_distillation import encoders
from labs.lab5_distillation.encoders import (
    classifier,
    clone,
    folder_of,
    freeze_embeddings,
    layers_of,
    layers_path,
    max_tokens_of,
    n_parameters,
    read,
    set_dropout,
    tokenizer_of,
)
from labs.lab5_distillation.tokens import TokenSet
from tests.lab5_distillation.families import FAMILIES, WORDS, encoder_of, save

NAMES = ("one", "two", "three")


def texts():
    import numpy as np

    return TokenSet([[1, 5, 6, 7, 2], [1, 8, 2], [1, 9, 10, 2]], np.array([0, 1, 2]))


@pytest.mark.parametrize("family", FAMILIES)
def test_any_encoder_becomes_a_classifier(family, tmp_path, capfd):
    """Loaded from a folder: its own weights, no pooler, and not a word on the way."""
    folder = save(tmp_path / family, family)
    model = classifier(folder, NAMES).eval()
    printed = capfd.readouterr()
    assert "REPORT" not in printed.out + printed.err
    logits = read(model, texts().batch(range_of(3)))
    assert logits.shape == (3, 3)
    assert len(layers_of(model)) == 4
    assert not [name for name, _ in model.named_parameters() if "pooler" in name]
    saved = {k: v for k, v in encoder_of(family).state_dict().items() if "pooler" not in k}
    loaded = model.encoder.state_dict()
    assert saved.keys() == loaded.keys()
    assert all(torch.equal(saved[key], loaded[key]) for key in saved)


def range_of(n):
    import numpy as np

    return np.arange(n)


@pytest.mark.parametrize("family", FAMILIES)
def test_padding_changes_no_logits(family, tmp_path):
    """A short text beside a long one is read as alone, though its padding be another encoder's."""
    model = classifier(save(tmp_path / family, family), NAMES).eval()
    with torch.no_grad():
        together = read(model, texts().batch(range_of(3)))
        alone = read(model, texts().batch(range_of(3)[1:2]))
    torch.testing.assert_close(together[1:2], alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_frozen_embeddings_leave_the_rest_to_learn(family, tmp_path):
    """Word vectors stay; every layer and the head have gradients."""
    model = classifier(save(tmp_path / family, family), NAMES)
    freeze_embeddings(model)
    read(model, texts().batch(range_of(3))).square().sum().backward()
    frozen = {name for name, each in model.named_parameters() if each.grad is None}
    assert any("embeddings" in name for name in frozen)
    assert not [name for name in frozen if "embeddings" not in name]


def test_an_encoder_without_embeddings_is_refused(tmp_path):
    """GPT-2's layers are found, but its word and position vectors have names of their own."""
    from transformers import GPT2Config, GPT2Model

    config = GPT2Config(vocab_size=40, n_positions=40, n_embd=16, n_layer=2, n_head=2)
    model = encoders.TextClassifier(GPT2Model(config), NAMES)
    assert len(layers_of(model)) == 2
    with pytest.raises(InputError, match=r"GPT2Model has no attribute 'embeddings'.*'minilm'"):
        freeze_embeddings(model)


def test_a_text_may_be_as_long_as_the_encoder_has_positions(tmp_path):
    """RoBERTa's positions begin behind padding's: 40 rows hold 38 tokens, and 39 would crash."""
    for family, most in (("bert", 40), ("roberta", 38), ("mpnet", 38)):
        folder = save(tmp_path / family, family)
        assert max_tokens_of(folder) == most, family
        model = classifier(folder, NAMES).eval()
        ids = torch.full((1, most), 5)
        model(ids, torch.ones_like(ids))
        with pytest.raises((IndexError, RuntimeError)):
            model(torch.full((1, most + 1), 5), torch.ones(1, most + 1, dtype=torch.long))


def test_a_missing_layer_is_an_error_and_not_a_random_one(tmp_path):
    """transformers warns and draws it; a teacher with a random layer still trains."""
    folder = save(tmp_path / "bert")
    path = tmp_path / "bert" / "model.safetensors"
    weights = load_file(path)
    kept = {key: value for key, value in weights.items() if "layer.2." not in key}
    assert len(kept) < len(weights)
    save_file(kept, path, {"format": "pt"})
    with pytest.raises(InputError, match=r"lacks 16 weights of BertModel, encoder\.layer\.2"):
        classifier(folder, NAMES)


def test_layers_that_the_config_does_not_know_are_an_error(tmp_path):
    """A config of two layers beside weights of four: transformers would load half a teacher."""
    folder = save(tmp_path / "bert")
    path = tmp_path / "bert" / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "num_hidden_layers": 2}))
    with pytest.raises(InputError, match=r"holds 32 weights of layers .* encoder\.layer\.2"):
        classifier(folder, NAMES)


def test_weights_of_other_sizes_are_an_error(tmp_path):
    """The config says one width and the file holds another."""
    folder = save(tmp_path / "bert")
    path = tmp_path / "bert" / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "intermediate_size": 48}))
    with pytest.raises(InputError, match="cannot be loaded"):
        classifier(folder, NAMES)


def test_weights_of_a_language_model_are_taken_without_its_head(tmp_path, capfd):
    """Hub names such as bert-large-uncased hold a head of the pretraining, and maybe no pooler."""
    from transformers import BertForMaskedLM

    from tests.lab5_distillation.families import config_of, wordpiece

    torch.manual_seed(0)
    whole = BertForMaskedLM(config_of("bert"))
    whole.save_pretrained(tmp_path)
    wordpiece().save(str(tmp_path / "tokenizer.json"))
    model = classifier(str(tmp_path), NAMES)
    assert capfd.readouterr().err == ""
    assert torch.equal(
        layers_of(model)[3].output.dense.weight, whole.bert.encoder.layer[3].output.dense.weight
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [("{", "describes no encoder"), ('{"model_type": "none such"}', "describes no encoder")],
)
def test_a_config_that_describes_no_encoder_is_refused(content, message, tmp_path):
    """Broken JSON, or an architecture that this transformers lacks."""
    folder = save(tmp_path / "bert")
    (tmp_path / "bert" / "config.json").write_text(content)
    with pytest.raises(InputError, match=message):
        classifier(folder, NAMES)


def test_code_that_comes_with_a_model_is_not_run(tmp_path):
    """A config may name a Python file beside it; this lab runs no code from outside."""
    folder = save(tmp_path / "bert")
    config = {"model_type": "own", "auto_map": {
        "AutoConfig": "own.OwnConfig", "AutoModel": "own.OwnModel"}}  # fmt: skip
    (tmp_path / "bert" / "config.json").write_text(json.dumps(config))
    (tmp_path / "bert" / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    with pytest.raises(InputError, match="describes no encoder"):
        classifier(folder, NAMES)
    assert not (tmp_path / "ran").exists()


def test_damaged_weights_are_refused(tmp_path):
    """A download that stopped halfway."""
    folder = save(tmp_path / "bert")
    path = tmp_path / "bert" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(InputError, match="cannot be loaded"):
        classifier(folder, NAMES)


def test_an_encoder_with_a_decoder_is_refused(tmp_path):
    """T5 has an encoder, but its whole model wants a decoder's input."""
    from transformers import T5Config

    save(tmp_path)
    T5Config(num_layers=1, d_model=8, vocab_size=40).save_pretrained(tmp_path)
    with pytest.raises(InputError, match="an encoder with a decoder"):
        classifier(str(tmp_path), NAMES)


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_folder_that_lacks_a_file_is_refused_by_its_name(missing, tmp_path):
    """The message says which file is wanted."""
    folder = save(tmp_path / "bert")
    (tmp_path / "bert" / missing).unlink()
    with pytest.raises(InputError, match=missing):
        folder_of(folder)


def test_pickled_weights_are_not_read(tmp_path):
    """A pickle can run code when it is opened."""
    folder = save(tmp_path / "bert")
    (tmp_path / "bert" / "model.safetensors").unlink()
    torch.save(encoder_of("bert").state_dict(), tmp_path / "bert" / "pytorch_model.bin")
    with pytest.raises(InputError, match=r"holds no model\.safetensors"):
        classifier(folder, NAMES)


def test_a_name_that_the_hub_cannot_give_says_what_to_do(monkeypatch, tmp_path):
    """No network, nothing cached: name what was tried, and how to supply it."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    name = "google/bert_uncased_L-4_H-512_A-8"
    with pytest.raises(DataError, match=name) as caught:
        classifier(name, NAMES)
    assert "config.json, model.safetensors, tokenizer.json" in str(caught.value)
    assert "'minilm'" in str(caught.value)
    with pytest.raises(InputError, match="neither a folder nor a name"):
        folder_of("no/such/name at all")


def hub(monkeypatch, tmp_path, main, pulls):
    """The Hub's two calls, answered from folders: files of main and of each pull request."""
    asked = []

    def snapshot_download(name, *, allow_patterns, revision="main"):
        folder = tmp_path / "hub" / revision.replace("/", "-")
        folder.mkdir(parents=True, exist_ok=True)
        for file in (main if revision == "main" else pulls)(folder):
            assert file in allow_patterns
        asked.append(revision)
        return str(folder)

    def get_repo_discussions(name, *, author, discussion_type, discussion_status):
        assert (author, discussion_type, discussion_status) == (
            "SFconvertbot", "pull_request", "open",
        )  # fmt: skip
        return [SimpleNamespace(git_reference="refs/pr/3")]

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    monkeypatch.setattr("huggingface_hub.get_repo_discussions", get_repo_discussions)
    return asked


def test_weights_that_the_hub_has_converted_are_found(monkeypatch, tmp_path):
    """Old models are pickles in main; the Hub's converter offers safetensors in a pull request."""

    def without_weights(folder):
        save(folder)
        (folder / "model.safetensors").unlink()
        return ["config.json", "tokenizer.json"]

    def converted(folder):
        save(folder)
        return ["config.json", "model.safetensors", "tokenizer.json"]

    asked = hub(monkeypatch, tmp_path, without_weights, converted)
    model = classifier("someone/old", NAMES)
    assert "refs/pr/3" in asked
    assert torch.equal(
        model.encoder.state_dict()["embeddings.word_embeddings.weight"],
        encoder_of("bert").state_dict()["embeddings.word_embeddings.weight"],
    )
    hub(monkeypatch, tmp_path, without_weights, without_weights)
    with pytest.raises(DataError, match=r"without model\.safetensors"):
        folder_of("someone/old")


def offline_with_a_pickle(monkeypatch, tmp_path):
    """A cache whose main has no safetensors, and no connection; the folder of pull requests."""
    from huggingface_hub.errors import HfHubHTTPError

    # The error of the Hub's client, which is an httpx.HTTPError and no OSError.
    client = next(each for each in HfHubHTTPError.__mro__ if each.__name__ == "HTTPError")
    assert not issubclass(client, OSError)

    class ConnectError(client):
        pass

    def unreachable(*_, **__):
        raise ConnectError("[Errno -2] Name or service not known")

    model = tmp_path / "models--someone--old"
    main = model / "snapshots" / "0"
    save(main)
    (main / "model.safetensors").unlink()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: str(main))
    monkeypatch.setattr("huggingface_hub.get_repo_discussions", unreachable)
    return model


def test_a_conversion_that_cannot_be_asked_for_says_what_to_do(monkeypatch, tmp_path):
    """The pickle is cached and the network is gone: as clear as if nothing were cached."""
    offline_with_a_pickle(monkeypatch, tmp_path)
    with pytest.raises(DataError, match=r"'someone/old' .*ConnectError.*give a folder"):
        folder_of("someone/old")


def test_a_conversion_in_the_cache_is_used_without_a_network(monkeypatch, tmp_path, capfd):
    """The first pull request that is a whole encoder; one that holds a part is passed by."""
    model = offline_with_a_pickle(monkeypatch, tmp_path)
    for number, commit in ((2, "a part"), (9, "whole"), (10, "whole as well")):
        save(model / "snapshots" / commit)
        (model / "refs/refs/pr").mkdir(parents=True, exist_ok=True)
        (model / "refs/refs/pr" / str(number)).write_text(commit)
    (model / "snapshots" / "a part" / "config.json").unlink()
    assert folder_of("someone/old") == model / "snapshots" / "whole"
    assert "refs/pr/9" in capfd.readouterr().err
    assert len(layers_of(classifier("someone/old", NAMES))) == 4


def test_a_vocabulary_may_stand_for_the_tokenizer(tmp_path):
    """BERT's small sizes on the Hub have a vocab.txt from before tokenizer.json."""
    folder = save(tmp_path / "bert")
    expected = tokenizer_of(folder).encode("Plays, playe: a b!").ids
    (tmp_path / "bert" / "tokenizer.json").unlink()
    (tmp_path / "bert" / "vocab.txt").write_text("\n".join([*WORDS, ""]))
    assert tokenizer_of(folder).encode("Plays, playe: a b!").ids == expected
    assert tokenizer_of(folder).encode("plays").ids == [1, WORDS.index("play"), 31, 2]


def test_layers_kept_elsewhere_are_said_to_be(tmp_path):
    """ALBERT has one layer that it runs many times: no list to choose from."""
    from transformers import AlbertConfig, AlbertModel

    config = AlbertConfig(
        vocab_size=40, embedding_size=8, hidden_size=16, num_hidden_layers=2,
        num_attention_heads=2, intermediate_size=16,
    )  # fmt: skip
    model = encoders.TextClassifier(AlbertModel(config), NAMES)
    with pytest.raises(InputError, match="AlbertModel has no list of layers"):
        layers_path(model)


@pytest.mark.parametrize("names", [(), ("one",), ("one", "one")])
def test_fewer_than_two_labels_are_refused(names):
    """One label is nothing to tell apart, and two of one name cannot be told apart."""
    with pytest.raises(InputError, match="labels"):
        classifier("minilm", names)


def test_a_head_depends_on_the_seed_alone(tmp_path):
    """The encoder's own weights draw nothing from the generator that could shift the head."""
    folder = save(tmp_path / "bert")
    heads = []
    for _ in range(2):
        torch.manual_seed(7)
        heads.append(classifier(folder, NAMES).head.weight)
    assert torch.equal(*heads)


def test_a_clone_shares_nothing_and_dropout_reaches_everywhere(tiny_teacher):
    """What is trained afterwards is the copy alone."""
    copied = clone(tiny_teacher)
    set_dropout(copied, 0.0)
    ours = {each.data_ptr() for each in copied.parameters()}
    assert not ours & {each.data_ptr() for each in tiny_teacher.parameters()}
    assert n_parameters(copied) == n_parameters(tiny_teacher)
    rates = {each.p for each in copied.modules() if isinstance(each, torch.nn.Dropout)}
    assert rates == {0.0}
    assert any(each.p for each in tiny_teacher.modules() if isinstance(each, torch.nn.Dropout))
