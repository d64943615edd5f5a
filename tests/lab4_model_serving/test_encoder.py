"""The encoder is BERT, and padding is nothing to it."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from common.data import load
from common.errors import InputError
from labs.lab4_model_serving.classifier import minilm
from labs.lab4_model_serving.encoder import TextClassifier, from_minilm
from labs.lab4_model_serving.tokens import Tokens, pad

TEXTS = ["set an alarm for six", "what is the balance of my account, please, and of hers", "hi"]


@pytest.fixture(scope="module")
def tiny():
    torch.manual_seed(0)
    return TextClassifier(classes=5, vocabulary=100, width=24, heads=3, inner=48).eval()


def test_six_layers_of_minilm_are_those_of_transformers():
    """States of every real token, at ragged lengths: layer norms, GELU, mask and positions."""
    from transformers import BertModel

    inputs = Tokens(minilm() / "tokenizer.json")(TEXTS)
    given = [torch.from_numpy(inputs[name]) for name in ("input_ids", "attention_mask")]
    model = from_minilm(load("minilm").path("config.json").parent, classes=2, layers=6)
    theirs = BertModel.from_pretrained(minilm(), add_pooling_layer=False).eval()
    with torch.inference_mode():
        found = model.encode(*given)
        wanted = theirs(input_ids=given[0], attention_mask=given[1]).last_hidden_state
    real = given[1].bool()
    torch.testing.assert_close(found[real], wanted[real], atol=2e-5, rtol=1e-4)


def test_a_checkpoint_gives_no_more_layers_than_it_has():
    with pytest.raises(InputError, match="layers = 7 must be from 1 to 6"):
        from_minilm(minilm(), classes=2, layers=7)


@settings(derandomize=True, deadline=None, max_examples=30)
@given(
    lengths=st.lists(st.integers(1, 20), min_size=1, max_size=6),
    more=st.integers(0, 20),
    seed=st.integers(0, 1000),
)
def test_an_answer_depends_neither_on_padding_nor_on_company(tiny, lengths, more, seed):
    """A batcher puts a text beside a longer one: its logits must stay."""
    generator = torch.Generator().manual_seed(seed)
    rows = [torch.randint(1, 100, (n,), generator=generator).tolist() for n in lengths]
    inputs = {name: torch.from_numpy(a) for name, a in pad(rows, max(lengths) + more).items()}
    with torch.inference_mode():
        together = tiny(**inputs)
        alone = [tiny(**{k: torch.from_numpy(a) for k, a in pad([row]).items()}) for row in rows]
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-5, rtol=1e-5)


def test_what_lies_under_the_mask_is_not_read(tiny):
    mask = torch.tensor([[1, 1, 0, 0]])
    with torch.inference_mode():
        a, b = (tiny(torch.tensor([[5, 6, x, x]]), mask) for x in (0, 99))
    assert torch.equal(a, b)


def test_order_matters(tiny):
    ids = torch.tensor([[5, 6, 7]])
    with torch.inference_mode():
        there, back = tiny(ids, torch.ones_like(ids)), tiny(ids.flip(1), torch.ones_like(ids))
    assert not torch.allclose(there, back)
