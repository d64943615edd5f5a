"""Which attention heads and feed-forward neurons of an encoder matter.

Measured on texts: by how much the loss would change, to first order, if a head or a neuron gave 0
(Michel et al. 2019; DynaBERT, Hou et al. 2020). `width_pruning` cuts out those that matter least.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.errors import InputError, require
from common.exercises import exercise
from labs.lab5_distillation.encoders import TextClassifier, layers_of, read
from labs.lab5_distillation.tokens import Batches, TokenSet


@dataclass(frozen=True)
class Places:
    """Where a layer keeps what is cut: paths below the layer, and the attributes that count heads.

    ``into`` are the linear maps whose rows belong to heads, ``out`` the one whose columns do;
    ``first`` and ``second`` are the feed-forward pair.
    """

    attention: str
    into: tuple[str, str, str]
    out: str
    first: str
    second: str
    counts: str


PLACES = (
    Places(  # BERT, RoBERTa, ELECTRA
        "attention.self",
        ("attention.self.query", "attention.self.key", "attention.self.value"),
        "attention.output.dense",
        "intermediate.dense",
        "output.dense",
        "num_attention_heads",
    ),
    Places(  # DistilBERT
        "attention",
        ("attention.q_lin", "attention.k_lin", "attention.v_lin"),
        "attention.out_lin",
        "ffn.lin1",
        "ffn.lin2",
        "n_heads",
    ),
)


def places_of(model: TextClassifier) -> Places:
    """Where the layers of this encoder keep their heads and neurons.

    Raises
    ------
    InputError
        An encoder built otherwise, for example with one matrix for queries, keys and values.
    """
    layer = layers_of(model)[0]
    modules = dict(layer.named_modules())
    for places in PLACES:
        paths = (places.attention, *places.into, places.out, places.first, places.second)
        if all(path in modules for path in paths) and hasattr(
            modules[places.attention], places.counts
        ):
            return places
    raise InputError(
        f"{type(layer).__name__} keeps its heads or neurons elsewhere than BERT, RoBERTa, ELECTRA "
        "and DistilBERT do; add where to PLACES, or make a student by depth"
    )


def widths(model: TextClassifier) -> list[tuple[int, int]]:
    """Heads and feed-forward neurons of each layer."""
    places = places_of(model)
    return [
        (
            int(getattr(layer.get_submodule(places.attention), places.counts)),
            linear(layer, places.first).out_features,
        )
        for layer in layers_of(model)
    ]


@dataclass(frozen=True)
class Importance:
    """How much each head [layers][heads] and neuron [layers][neurons] matters; more is kept."""

    heads: list[Tensor]
    neurons: list[Tensor]


@exercise(
    "5.5",
    points=10,
    title="Which heads and neurons matter",
    hint="Write the loss as a function of a factor 1 before the group's outputs. Its derivative "
    "there is a sum over all that the factor multiplies. Over what may contributions of opposite "
    "sign cancel, and over what must they not?",
)
def taylor_scores(values: Tensor, gradients: Tensor, groups: int) -> Tensor:
    """To first order, by how much the loss of a text changes when a group gives 0 instead.

    For group g with the components C_g, and the loss L_n of text n,

        score_g = mean over n of | sum over tokens t and c in C_g of  v[n,t,c] dL_n / dv[n,t,c] |

    Removing the group moves v to 0 in all its places at once, so the sum over them comes before the
    absolute value. Texts are asked one by one: a head that helps one and harms another matters.

    Parameters
    ----------
    values
        Float tensor [N, T, W]: what the groups give for N texts of T tokens, the groups one after
        another, each W / groups wide. Attention heads: the input of the output matrix. Neurons:
        the activations, with groups = W.
    gradients
        Float tensor [N, T, W]: of the sum of the texts' losses, so that each text's are its own;
        0 at padding.
    groups
        Number of groups, a divisor of W.

    Returns
    -------
    Tensor
        Float tensor [groups], >= 0.

    Raises
    ------
    InputError
        Shapes that differ, or a width that the groups do not divide.

    Notes
    -----
    Michel, Levy, Neubig (2019), arXiv 1905.10650, section 4.1 (heads); Molchanov et al. (2017),
    arXiv 1611.06440, section 2.2 (the expansion); Hou et al. (2020), arXiv 2004.04037, section 3.1.
    """
    check_scores(values, gradients, groups)
    # BEGIN SOLUTION
    texts, tokens, width = values.shape
    products = (values * gradients).reshape(texts, tokens, groups, width // groups)
    return products.sum(dim=(1, 3)).abs().mean(dim=0)
    # END SOLUTION


def check_scores(values: Tensor, gradients: Tensor, groups: int) -> None:
    """Refuse what `taylor_scores` cannot divide among the groups."""
    if values.ndim != 3 or values.shape != gradients.shape:
        raise InputError(
            f"values {tuple(values.shape)} and gradients {tuple(gradients.shape)} must both be "
            "[texts, tokens, width]"
        )
    width = values.shape[2]
    require(
        1 <= groups <= width and width % groups == 0,
        "groups",
        groups,
        f"must divide the width, {width}",
    )


def taylor_importance(
    model: TextClassifier, texts: TokenSet, *, batch_size: int = 32
) -> Importance:
    """`taylor_scores` of every head and neuron for the cross-entropy of labelled texts.

    The model answers as when served (no dropout) and is left as it was, gradients included. Costs
    a forward and a backward pass over the texts; a few hundred are enough.

    Raises
    ------
    InputError
        A text without a label, or an encoder that `places_of` does not know.
    """
    if (texts.labels < 0).any():
        raise InputError(
            f"{int((texts.labels < 0).sum())} of {len(texts)} texts have no label; importance is "
            "the change of the loss with the labels"
        )
    places, sizes = places_of(model), widths(model)
    heads = [torch.zeros(n) for n, _ in sizes]
    neurons = [torch.zeros(n) for _, n in sizes]
    caught: list[Tensor] = []

    def catch(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        # A frozen model's values need no gradient of themselves; then the graph begins here.
        value = inputs[0] if inputs[0].requires_grad else inputs[0].detach().requires_grad_(True)
        caught.append(value)
        return (value,)

    hooks = [
        layer.get_submodule(path).register_forward_pre_hook(catch)
        for layer in layers_of(model)
        for path in (places.out, places.second)
    ]
    was = model.training
    model.eval()
    try:
        for batch in Batches(texts, batch_size):
            caught.clear()
            with torch.enable_grad():
                loss = F.cross_entropy(read(model, batch), batch.labels, reduction="sum")
            gradients = torch.autograd.grad(loss, caught)
            for at, (value, gradient) in enumerate(zip(caught, gradients)):
                layer, is_neuron = divmod(at, 2)
                total = (neurons if is_neuron else heads)[layer]
                scores = taylor_scores(value.detach(), gradient, len(total))
                total += len(batch) * scores.float().cpu()
    finally:
        model.train(was)
        for hook in hooks:
            hook.remove()
    return Importance(
        [each / len(texts) for each in heads], [each / len(texts) for each in neurons]
    )


@torch.no_grad()
def magnitude_importance(model: TextClassifier) -> Importance:
    """The norm of the weights that a head's or neuron's output goes through; it needs no texts."""
    places = places_of(model)
    heads, neurons = [], []
    for layer, (n_heads, _) in zip(layers_of(model), widths(model)):
        out, second = linear(layer, places.out).weight, linear(layer, places.second).weight
        heads.append(out.reshape(len(out), n_heads, -1).square().sum(dim=(0, 2)).sqrt().cpu())
        neurons.append(second.norm(dim=0).cpu())
    return Importance(heads, neurons)


def random_importance(model: TextClassifier, seed: int = 0) -> Importance:
    """A ranking that knows nothing: what every other one has to beat."""
    generator = torch.Generator().manual_seed(seed)
    sizes = widths(model)
    return Importance(
        [torch.rand(n, generator=generator) for n, _ in sizes],
        [torch.rand(n, generator=generator) for _, n in sizes],
    )


def linear(layer: nn.Module, path: str) -> nn.Linear:
    found = layer.get_submodule(path)
    assert isinstance(found, nn.Linear), path
    return found
