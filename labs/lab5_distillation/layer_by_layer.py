"""An encoder run one layer at a time: what a head in the middle or an early exit needs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor

from common.errors import InputError
from labs.lab5_distillation.encoders import TextClassifier, layers_of, layers_path

KNOWN = ("encoder.encoder.layer", "encoder.transformer.layer")  # BERT's and DistilBERT's


def embedded(
    model: TextClassifier, input_ids: Tensor, attention_mask: Tensor
) -> tuple[Tensor, Tensor | None]:
    """Token states before the first layer, and the mask in the form that the layers take.

    The mask of a batch, 1 for a token and 0 for padding, is not what a layer of transformers
    reads. Which form it reads depends on the attention: a bool [B, 1, L, L] for sdpa, numbers to
    be added to the scores for eager, nothing where no token is padding. The library's own function
    makes it, as its encoder does.

    Parameters
    ----------
    input_ids, attention_mask
        Int64 [B, L].

    Returns
    -------
    states
        [B, L, H].
    mask
        What to hand to each layer.

    Raises
    ------
    InputError
        An encoder whose layers take more than states and a mask, or follow other rules.
    """
    from transformers.masking_utils import create_bidirectional_mask

    if (path := layers_path(model)) not in KNOWN:
        raise InputError(
            f"{type(model.encoder).__name__} keeps its layers at {path}; layer by layer, only "
            f"encoders like BERT and DistilBERT are run ({', '.join(KNOWN)})"
        )
    encoder: Any = model.encoder
    states: Tensor = encoder.embeddings(input_ids)
    mask: Any = create_bidirectional_mask(
        config=encoder.config, inputs_embeds=states, attention_mask=attention_mask
    )
    return states, mask


def states_after_each_layer(
    model: TextClassifier, input_ids: Tensor, attention_mask: Tensor
) -> Iterator[Tensor]:
    """States [B, L, H] after the first layer, the second, and so on; a layer runs when asked for.

    The same as ``encoder(..., output_hidden_states=True).hidden_states[1:]``, except that who
    stops asking spares the layers above.
    """
    states, mask = embedded(model, input_ids, attention_mask)
    for layer in layers_of(model):
        states = layer(states, mask)
        yield states
