import numpy as np
import pytest

from common.errors import InputError
from labs.lab2_vector_db import embedding
from labs.lab2_vector_db.embedding import cached_embeddings, embed, fingerprint

TEXTS = [
    "Sort an array of numbers.",
    "Order the elements of a list.",
    "Gradient descent with momentum and a decaying learning rate for large models.",
    "Train a network.",
    "Open a file for reading.",
    "Read the contents of a text file into a string, line by line, and close it.",
]


@pytest.fixture(scope="module")
def vectors():
    return embed(TEXTS, device="cpu", precision="float32")


def test_vectors_have_length_one_and_like_texts_are_near(vectors):
    assert vectors.shape == (6, embedding.DIMENSION)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
    cosines = vectors @ vectors.T - 2 * np.eye(6)
    assert cosines.argmax(axis=1).tolist() == [1, 0, 3, 2, 5, 4]


def test_the_vector_does_not_depend_on_what_shares_the_batch(vectors):
    """Padding that is averaged in moves every short text, by an amount that the batch decides."""
    alone = np.concatenate(
        [embed([text], device="cpu", precision="float32") for text in reversed(TEXTS)]
    )[::-1]
    np.testing.assert_allclose(alone, vectors, atol=2e-6)
    small = embed(TEXTS, device="cpu", precision="float32", batch=2)
    np.testing.assert_allclose(small, vectors, atol=2e-6)


def test_the_vector_is_the_mean_of_the_last_states(vectors):
    import torch

    encoder = embedding.load_encoder("cpu", "float32")
    encoder.tokenizer.no_padding()
    ids = torch.tensor([encoder.tokenizer.encode(TEXTS[5]).ids])
    with torch.inference_mode():
        mean = encoder.model(input_ids=ids).last_hidden_state[0].mean(dim=0).numpy()
    np.testing.assert_allclose(vectors[5], mean / np.linalg.norm(mean), atol=2e-6)


def test_bfloat16_keeps_the_ranking(vectors):
    """It is used where it is fast; it must not change what is found."""
    rough = embed(TEXTS, device="cpu", precision="bfloat16")
    assert (rough * vectors).sum(axis=1).min() > 0.999
    exact, near = vectors @ vectors.T, rough @ rough.T
    assert (exact.argsort(axis=1)[:, -3:] == near.argsort(axis=1)[:, -3:]).mean() > 0.9


def test_what_is_longer_than_max_tokens_is_cut():
    long = TEXTS[5] + " And then do something else with it."
    cut = [embed([text], device="cpu", max_tokens=8)[0] for text in (TEXTS[5], long)]
    np.testing.assert_allclose(cut[0], cut[1], atol=1e-6)


def test_the_cache_returns_the_same_vectors_and_computes_nothing(tmp_path, monkeypatch):
    how = {"device": "cpu", "folder": tmp_path, "block": 2}
    done = []
    first = cached_embeddings(TEXTS, **how, progress=lambda n, total: done.append((n, total)))
    assert done == [(2, 6), (4, 6), (6, 6)]
    np.testing.assert_allclose(np.linalg.norm(first, axis=1), 1, rtol=1e-6)
    monkeypatch.setattr(embedding, "embed", lambda *_, **__: pytest.fail("computed again"))
    np.testing.assert_array_equal(cached_embeddings(TEXTS, **how), first)


def test_an_interrupted_or_damaged_cache_goes_on_where_it_broke(tmp_path, monkeypatch):
    how = {"device": "cpu", "folder": tmp_path, "block": 2, "storage": "float32"}
    first = cached_embeddings(TEXTS, **how)
    np.testing.assert_allclose(first, embed(TEXTS, device="cpu"), atol=2e-2)
    blocks = sorted(tmp_path.glob("*/*.npy"))
    assert len(blocks) == 3
    blocks[0].unlink()
    blocks[2].write_bytes(blocks[2].read_bytes()[:-1] + b"!")
    computed = []

    def counting(texts, **settings):
        computed.append(list(texts))
        return embed(texts, **settings)

    monkeypatch.setattr(embedding, "embed", counting)
    again = cached_embeddings(TEXTS, **how)
    assert computed == [TEXTS[:2], TEXTS[4:]]
    np.testing.assert_allclose(again, first, atol=1e-6)


def test_whatever_changes_a_vector_changes_the_key():
    how = {"max_tokens": 64, "precision": "float32"}
    keys = {
        fingerprint(["ab", "c"], **how),
        fingerprint(["a", "bc"], **how),
        fingerprint(["c", "ab"], **how),
        fingerprint(["ab", "c"], max_tokens=32, precision="float32"),
        fingerprint(["ab", "c"], max_tokens=64, precision="bfloat16"),
    }
    assert len(keys) == 5
    assert fingerprint(["ab", "c"], **how) in keys


@pytest.mark.parametrize(
    ("texts", "how", "message"),
    [
        ([], {}, "number of texts"),
        ("one text", {}, "must be a list"),
        (["one", "  "], {}, "blank at 1"),
        (["one"], {"max_tokens": 2}, "max_tokens"),
        (["one"], {"max_tokens": 513}, "max_tokens"),
        (["one"], {"batch": 0}, "batch"),
        (["one"], {"device": "tpu"}, "device = 'tpu'"),
    ],
)
def test_bad_input_is_refused(texts, how, message, tmp_path):
    with pytest.raises(InputError, match=message):
        embed(texts, **how)
    with pytest.raises(InputError, match=message):
        cached_embeddings(texts, **how, folder=tmp_path)


def test_importing_the_searcher_imports_no_torch():
    import subprocess
    import sys

    code = (
        "import sys; from labs.lab2_vector_db import hybrid_search, embedding, sparse_search; "
        "print([name for name in ('torch', 'transformers', 'bm25s') if name in sys.modules])"
    )
    output = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert output.stdout.strip() == "[]"
