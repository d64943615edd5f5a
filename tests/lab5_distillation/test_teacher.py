"""The fine-tuned teacher: kept under all that made it, made again when damaged, resumed."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from common.data.labelled_texts import Part
from labs.lab5_distillation import teacher as under_test
from labs.lab5_distillation.recipe import Recipe
from labs.lab5_distillation.tokens import Tokens

WORDS = ["card", "bank", "pay", "lost", "rain", "snow", "sun", "wind", "cook", "bake", "fry", "eat"]
NAMES = ("money", "weather", "kitchen")
RECIPE = Recipe(epochs=2, rate=1e-3, batch_size=8)


@pytest.fixture(scope="module")
def encoder_folder(tmp_path_factory):
    """A random BERT of width 16 with a tokenizer of twelve words (synthetic)."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertModel

    folder = tmp_path_factory.mktemp("encoder")
    marks = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocabulary = {word: i for i, word in enumerate([*marks, *WORDS])}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=16,
        initializer_range=0.3,
    )
    BertModel(config, add_pooling_layer=False).save_pretrained(folder)
    return folder


def split(n=48, seed=0, names=NAMES):
    """Texts of three to five words of one topic (synthetic)."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, n)
    texts = [" ".join(rng.choice(WORDS[4 * k : 4 * k + 4], rng.integers(3, 6))) for k in labels]
    return SimpleNamespace(names=names, train=Part(texts, labels.astype(np.int64)))


def state(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def equal(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


@pytest.fixture
def make(encoder_folder, tmp_path):
    """Fine-tune into ``tmp_path``; gives the teacher and the number of steps that it took."""

    def made(texts=None, recipe=RECIPE, max_tokens=8, stop_at=None, **options):
        steps = []

        def progress(done, loss):
            steps.append(done)
            if done == stop_at:
                raise KeyboardInterrupt

        found = under_test.fine_tuned(
            split() if texts is None else texts,
            Tokens(str(encoder_folder), max_tokens),
            recipe,
            name=str(encoder_folder),
            folder=tmp_path,
            progress=progress,
            every=2,
            **options,
        )
        return found, len(steps)

    return made


def test_the_second_time_nothing_is_trained(make, encoder_folder):
    """The weights are the same bit for bit, and so is what the caller gets otherwise."""
    first, steps = make()
    second, more = make()
    assert (steps, more) == (12, 0)
    assert equal(state(first), state(second))
    for model in (first, second):
        assert not model.training
        assert not any(p.requires_grad for p in model.encoder.embeddings.parameters())
        assert all(p.requires_grad for p in model.head.parameters())


def test_it_has_learned_and_left_the_embeddings(make, encoder_folder):
    """Three topics with four words each are told apart; word vectors are those of the encoder."""
    from transformers import AutoModel

    from labs.lab5_distillation.recipe import accuracy, logits

    found, _ = make(recipe=RECIPE.but(epochs=4, rate=3e-3, head_rate=3e-2))
    texts = Tokens(str(encoder_folder), 8).encode(split(60, seed=1).train)
    assert accuracy(logits(found, texts), texts) > 0.8
    pretrained = AutoModel.from_pretrained(encoder_folder, add_pooling_layer=False)
    assert equal(state(pretrained.embeddings), state(found.encoder.embeddings))


def test_another_seed_trains_another_teacher(make, tmp_path):
    """An experiment with another seed that finds the first one's weights shows no spread at all."""
    first, _ = make(recipe=RECIPE.but(epochs=1))
    second, steps = make(recipe=RECIPE.but(epochs=1, seed=1))
    assert steps == 6
    assert len(list(tmp_path.glob("*.safetensors"))) == 2
    assert not equal(state(first), state(second))


@pytest.mark.parametrize(
    "change",
    [
        {"texts": split(seed=1)},
        {"names": ("weather", "money", "kitchen")},
        {"recipe": RECIPE.but(seed=1)},
        {"recipe": RECIPE.but(rate=2e-3)},
        {"max_tokens": 5},
        {"dropout": 0.2},
    ],
    ids=["texts", "names", "seed", "rate", "max_tokens", "dropout"],
)
def test_whatever_decides_the_weights_makes_another_file(change, encoder_folder):
    """Texts, the order of the labels, the recipe, the limit of the tokenizer, dropout."""

    def of(texts=None, names=NAMES, recipe=RECIPE, max_tokens=8, dropout=0.1):
        encoded = Tokens(str(encoder_folder), max_tokens).encode((texts or split()).train)
        return under_test.made_of(names, encoded, recipe, str(encoder_folder), dropout)

    assert of(**change) != of()


def test_labels_and_the_encoders_weights_count_too(encoder_folder, tmp_path):
    """A checkpoint of the same name may hold other weights; its name is no fingerprint."""
    import shutil

    other = tmp_path / "other"
    shutil.copytree(encoder_folder, other)
    texts = Tokens(str(encoder_folder), 8).encode(split().train)

    def of(name, encoded=texts):
        return under_test.made_of(("a", "b", "c"), encoded, RECIPE, str(name), 0.1)

    first = of(encoder_folder)
    assert of(other) == first, "a copy elsewhere is the same encoder"
    turned = type(texts)(texts.ids, (texts.labels + 1) % 3)
    assert of(encoder_folder, turned) != first
    weights = bytearray((other / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (other / "model.safetensors").write_bytes(weights)
    assert of(other) != first


def test_damaged_weights_are_trained_again_and_that_is_said(make, tmp_path, capsys):
    """One flipped bit in 90 MB changes the teacher of everything that follows."""
    first, _ = make()
    (path,) = tmp_path.glob("*.safetensors")
    content = bytearray(path.read_bytes())
    content[-100] ^= 64
    path.write_bytes(content)
    again, steps = make()
    assert steps == 12
    assert "made again" in capsys.readouterr().err
    assert equal(state(first), state(again))


def test_a_stopped_training_goes_on_to_the_same_weights(make, tmp_path):
    """Stopped in step 9 of 12, it repeats at most what came after the last checkpoint."""
    with pytest.raises(KeyboardInterrupt):
        make(stop_at=9)
    assert not list(tmp_path.glob("*.safetensors")), "half a teacher must not count as one"
    resumed, steps = make()
    assert 3 <= steps <= 5
    assert not list(tmp_path.glob("*.checkpoint*"))
    (path,) = tmp_path.glob("*.safetensors")
    path.unlink()
    whole, steps = make()
    assert steps == 12
    assert equal(state(resumed), state(whole))


def test_a_damaged_checkpoint_starts_anew_and_that_is_said(make, tmp_path, capsys):
    """The cache is ours: nobody should have to be told which file to delete."""
    with pytest.raises(KeyboardInterrupt):
        make(stop_at=9)
    (path,) = tmp_path.glob("*.checkpoint")
    path.write_bytes(path.read_bytes()[:1000])
    _, steps = make()
    assert steps == 12
    assert "starts anew" in capsys.readouterr().err
