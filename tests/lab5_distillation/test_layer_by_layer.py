"""An encoder run layer by layer computes what transformers computes in one call."""

import pytest
import torch

from common.errors import InputError
from labs.lab5_distillation.encoders import TextClassifier, layers_of
from labs.lab5_distillation.layer_by_layer import states_after_each_layer
from tests.lab5_distillation.conftest import tiny_classifier


def distilbert():
    from transformers import DistilBertConfig, DistilBertModel

    config = DistilBertConfig(
        vocab_size=120, dim=32, n_layers=3, n_heads=4, hidden_dim=64, max_position_embeddings=32
    )
    torch.manual_seed(0)
    return TextClassifier(DistilBertModel(config), ("a", "b")).eval()


@pytest.mark.parametrize("kind", ["eager", "sdpa", "distilbert"])
def test_states_are_those_of_the_library_with_padding_and_without(tiny_texts, kind):
    """A mask in the wrong form raises nothing: padding is then read as words.

    Held against ``output_hidden_states=True``, for both ways to compute attention.
    """
    model = distilbert() if kind == "distilbert" else tiny_classifier(attention=kind)
    for rows in ([0, 1, 2, 3, 4, 5], [7]):
        batch = tiny_texts.batch(torch.tensor(rows).numpy())
        padded = bool((batch.attention_mask == 0).any())
        assert padded == (len(rows) > 1), "the example should have padding exactly in the batch"
        with torch.no_grad():
            ours = list(states_after_each_layer(model, batch.input_ids, batch.attention_mask))
            theirs = model.encoder(
                input_ids=batch.input_ids,
                attention_mask=batch.attention_mask,
                output_hidden_states=True,
            ).hidden_states[1:]
        assert len(ours) == len(theirs) == len(layers_of(model))
        real = batch.attention_mask.bool()
        for mine, its in zip(ours, theirs, strict=True):
            assert torch.allclose(mine[real], its[real], atol=1e-5)


def test_who_stops_asking_spares_the_layers_above(tiny_teacher, tiny_texts):
    """That is all there is to an early exit's saving."""
    ran = []
    for place, layer in enumerate(layers_of(tiny_teacher)):
        layer.register_forward_hook(lambda *_, place=place: ran.append(place))
    batch = tiny_texts.batch(torch.arange(4).numpy())
    states = states_after_each_layer(tiny_teacher, batch.input_ids, batch.attention_mask)
    next(states), next(states)
    assert ran == [0, 1]


def test_an_encoder_with_other_rules_is_refused():
    """Other encoders' layers want more than states and a mask; half-right states are worse."""
    from transformers import GPT2Config, GPT2Model

    config = GPT2Config(vocab_size=120, n_embd=32, n_layer=2, n_head=4)
    model = TextClassifier(GPT2Model(config), ("a", "b"))
    ids = torch.ones(1, 4, dtype=torch.long)
    with pytest.raises(InputError, match="layer by layer"):
        next(states_after_each_layer(model, ids, ids))
