"""The studies of self-distillation and progressive distillation: students by name, and their cost.

Each function trains one method and its controls under one recipe and gives the models back; what
they are worth is for the evaluation to say, on texts that none of them has seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from labs.lab5_distillation.born_again import (
    Maker,
    born_again,
    independent,
    under_permuted,
)
from labs.lab5_distillation.encoders import (
    TextClassifier,
    clone,
    freeze_embeddings,
    layers_of,
)
from labs.lab5_distillation.layer_dropping import (
    LayerDropping,
    Replacement,
    Theseus,
    even_drops,
)
from labs.lab5_distillation.own_deeper_head import (
    DeeperHead,
    ExitClassifier,
    cut,
    with_exits,
)
from labs.lab5_distillation.recipe import Recipe, cached, distillation, supervised, train
from labs.lab5_distillation.students import by_depth
from labs.lab5_distillation.teacher_assistant import as_long_as, chain, from_layers_of
from labs.lab5_distillation.tokens import Batches, TokenSet


@dataclass(frozen=True)
class Trained:
    """A model of a study.

    Attributes
    ----------
    layer_epochs
        Layers times epochs of every model that was trained to get this one, the teacher that the
        study was given excepted. A student of 2 layers trained for 4 epochs: 8.
    """

    name: str
    model: TextClassifier
    layer_epochs: float


def self_study(
    maker: Maker,
    texts: TokenSet,
    recipe: Recipe,
    *,
    n: int = 3,
    temperature: float = 2.0,
    alpha: float = 0.5,
    label_smoothing: float = 0.1,
) -> list[Trained]:
    """Born-again generations and what could explain their gain.

    ``born-again-<k>``, generation k; ``independent-<k>``, the same starts and seeds from labels
    alone (0 is generation 0); ``smoothed-<k>``, those with label smoothing; ``permuted-1``,
    generation 1 under shuffled wrong classes. Compare generation k with the model of the same
    number, and the ensemble of one kind with that of another (`ensemble.mean_of_probabilities`).

    Trains 3 n models: n generations, n - 1 independent, n smoothed, 1 permuted.
    """
    born = born_again(maker, texts, recipe, n, temperature=temperature, alpha=alpha)
    depth = len(layers_of(born[0]))
    once = float(depth * recipe.epochs)
    found = [Trained(f"born-again-{k}", model, (k + 1) * once) for k, model in enumerate(born)]
    found.append(Trained("independent-0", born[0], once))
    if n > 1:
        later = independent(lambda k: maker(k + 1), texts, recipe.but(seed=recipe.seed + 1), n - 1)
        found += [Trained(f"independent-{k}", each, once) for k, each in enumerate(later, start=1)]
    smoothed = independent(maker, texts, recipe, n, label_smoothing=label_smoothing)
    found += [Trained(f"smoothed-{k}", model, once) for k, model in enumerate(smoothed)]
    shuffled = under_permuted(
        maker(1),
        born[0],
        texts,
        recipe.but(seed=recipe.seed + 1),
        temperature=temperature,
        alpha=alpha,
    )
    return [*found, Trained("permuted-1", shuffled, 2 * once)]


def exits_study(
    start: TextClassifier,
    exits: Sequence[int],
    texts: TokenSet,
    recipe: Recipe,
    *,
    temperature: float = 2.0,
    alpha: float = 0.5,
) -> tuple[list[Trained], ExitClassifier]:
    """Exits taught by the deepest head, exits taught by labels, and shallow students alone.

    Word vectors stay as they are, in this study and in the others.

    ``deeper-head-<d>`` and ``labels-only-<d>``: cut at d layers, the full depth included;
    ``alone-<d>``: the first d layers of ``start`` fine-tuned without the layers above.

    Trains the encoder twice at full depth, and once at each exit's. Returns the students and the
    network with all exits of the first kind, for `early_exit`.

    Parameters
    ----------
    start
        A pretrained classifier that is not fine-tuned: the deepest head learns here too.
    """
    found: list[Trained] = []
    networks = {}
    depth = len(layers_of(start))
    for name, weight in (("deeper-head", alpha), ("labels-only", 0.0)):
        torch.manual_seed(recipe.seed)
        network = with_exits(start, exits)
        freeze_embeddings(network)
        train(DeeperHead(network, temperature=temperature, alpha=weight), texts, recipe)
        networks[name] = network
        cost = float(depth * recipe.epochs)
        found += [Trained(f"{name}-{d}", cut(network, d), cost) for d in network.depths]
    for layers in exits:
        alone = by_depth(start, range(layers))
        freeze_embeddings(alone)
        train(supervised(alone), texts, recipe)
        found.append(Trained(f"alone-{layers}", alone, float(layers * recipe.epochs)))
    return found, networks["deeper-head"]


def progressive_study(
    teacher: TextClassifier,
    texts: TokenSet,
    recipe: Recipe,
    *,
    depth: int = 1,
    assistants: Sequence[int] = (3,),
    temperature: float = 4.0,
    alpha: float = 1.0,
    start_rate: float = 0.3,
) -> list[Trained]:
    """One small student by five ways of getting there, and by direct distillation for longer.

    ``finetuned``: labels alone; ``direct``; ``assisted``: by way of ``assistants``;
    ``direct-long``: direct with the epochs that the chain has cost in layer-epochs; ``theseus``:
    modules replaced, the rate at 1 after half of the steps; ``dropped``: layers dropped one at a
    time within the first half of the steps. All students have ``depth`` layers and, except for
    `dropped`, which chooses, and `theseus`, which takes the last layer of each module, start from
    the same layers of the teacher.

    Trains the student four times (once longer), and each assistant; `theseus` and `dropped` run
    more layers in the first half. Costs are counted, not estimated.
    """
    make = from_layers_of(teacher)
    known = cached(teacher, texts)
    once = float(depth * recipe.epochs)
    finetuned = make(depth)
    train(supervised(finetuned), texts, recipe)
    (direct,) = chain(teacher, [depth], texts, recipe, temperature=temperature, alpha=alpha)
    links = chain(
        teacher, [*assistants, depth], texts, recipe, temperature=temperature, alpha=alpha
    )
    long = make(depth)
    longer = as_long_as(links, recipe)
    train(distillation(long, known, temperature=temperature, alpha=alpha), texts, longer)
    found = [
        Trained("finetuned", finetuned, once),
        Trained("direct", direct.model, once),
        Trained("assisted", links[-1].model, links[-1].layer_epochs),
        Trained("direct-long", long, float(depth * longer.epochs)),
    ]
    batches = len(Batches(texts, recipe.batch_size))
    total = recipe.epochs * batches
    if len(layers_of(teacher)) % depth == 0:
        schedule = Replacement(start_rate, max(1, total // 2))
        theseus = Theseus(teacher, depth, schedule, seed=recipe.seed)
        freeze_embeddings(theseus.student)
        train(theseus, texts, recipe)
        found.append(Trained("theseus", theseus.student, int(theseus.layers_run) / batches))
    drops = even_drops(total, len(layers_of(teacher)) - depth)
    whole = clone(teacher).requires_grad_(True)
    freeze_embeddings(whole)
    dropping = LayerDropping(whole, known, drops, temperature=temperature, alpha=alpha)
    train(dropping, texts, recipe)
    found.append(Trained("dropped", dropping.student, dropping.layers_run / batches))
    return found
