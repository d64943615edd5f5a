"""Every way of the lab to teach one student, by name, under one recipe: what `full` compares."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from labs.lab5_distillation import recipe as recipes
from labs.lab5_distillation.encoders import TextClassifier, classifier, freeze_embeddings, layers_of
from labs.lab5_distillation.objectives import CachedTeacher, Objective
from labs.lab5_distillation.recipe import Recipe
from labs.lab5_distillation.students import by_depth
from labs.lab5_distillation.tokens import Tokens, TokenSet


@dataclass(frozen=True)
class Task:
    """A student to be taught, by whom, on what.

    Attributes
    ----------
    layers
        The teacher's layers that the student starts from.
    answers
        The teacher's logits for ``texts``.
    encoder
        Name of the pretrained encoder that the teacher was, see `encoders.folder_of`.
    general
        Texts of no task, without labels, for a first stage.
    checkpoint
        Where the loop keeps how far it is, for methods of one training.
    """

    teacher: TextClassifier
    answers: CachedTeacher
    layers: tuple[int, ...]
    texts: TokenSet
    general: TokenSet
    tokens: Tokens
    encoder: str
    recipe: Recipe
    temperature: float
    alpha: float
    checkpoint: Path | None = None

    def student(self) -> TextClassifier:
        """The student before it is taught: layers of the teacher, and its head."""
        return self.of(self.teacher)

    def of(self, model: TextClassifier) -> TextClassifier:
        """The student's layers of a model; its word vectors stay as they are."""
        student = by_depth(model, self.layers)
        freeze_embeddings(student)
        return student

    def pretrained(self) -> TextClassifier:
        """The encoder as it was before the teacher was fine-tuned, with a head of the seed's."""
        torch.manual_seed(self.recipe.seed)
        model = classifier(self.encoder, self.teacher.names).to(self.texts.device)
        freeze_embeddings(model)
        return model

    def learn(self, objective: Objective) -> TextClassifier:
        """Minimise an objective by the recipe; its student."""
        assert isinstance(objective.student, TextClassifier)
        freeze_embeddings(objective.student)
        recipes.train(objective, self.texts, self.recipe, checkpoint=self.checkpoint)
        return objective.student

    def distilled(self, student: TextClassifier) -> TextClassifier:
        """The student after distillation from the teacher's logits."""
        objective = recipes.distillation(
            student, self.answers, temperature=self.temperature, alpha=self.alpha
        )
        return self.learn(objective)


def copied_alone(task: Task) -> TextClassifier:
    """The teacher's layers, fine-tuned on the labels: what a start from the teacher gives."""
    return task.learn(recipes.supervised(task.student()))


def pretrained_distilled(task: Task) -> TextClassifier:
    """The pretrained encoder's layers under the teacher: what copied layers are worth."""
    return task.distilled(task.of(task.pretrained()))


def soft_loss(task: Task, name: str) -> TextClassifier:
    """Another soft loss in the place of the Kullback-Leibler divergence."""
    from labs.lab5_distillation.decoupled_distillation import decoupled_loss
    from labs.lab5_distillation.soft_losses import mse_on_logits, soft_distillation

    loss = {"decoupled": decoupled_loss, "mse": mse_on_logits}[name]
    objective = soft_distillation(
        task.student(), task.answers, loss, temperature=task.temperature, alpha=task.alpha
    )
    return task.learn(objective)


def features(task: Task, name: str) -> TextClassifier:
    """What the teacher computes inside, beside its logits."""
    from labs.lab5_distillation.feature_distillation import FeatureDistillation
    from labs.lab5_distillation.feature_study import WEIGHTS, feature_losses
    from labs.lab5_distillation.layer_maps import as_cut

    student = task.student()
    layers = as_cut(task.layers, len(layers_of(task.teacher)))
    heads = task.teacher.encoder.config.num_attention_heads
    losses = feature_losses(name, student, task.teacher, layers, heads=heads)
    objective = FeatureDistillation(
        student,
        task.teacher,
        list(losses.values()),
        weights=[WEIGHTS[each] for each in losses],
        temperature=task.temperature,
        alpha=task.alpha,
    )
    return task.learn(objective.to(task.texts.device))


def born_again(task: Task) -> TextClassifier:
    """The student's own kind as its teacher: generation 1 under generation 0."""
    from labs.lab5_distillation.born_again import born_again as generations

    found = generations(
        lambda _: task.student(),
        task.texts,
        task.recipe,
        2,
        temperature=task.temperature,
        alpha=task.alpha,
    )
    return found[-1]


def deeper_head(task: Task) -> TextClassifier:
    """An exit of the pretrained encoder, taught by the network's own last head, and cut out."""
    from labs.lab5_distillation.own_deeper_head import DeeperHead, cut, with_exits

    depth = len(task.layers)
    network = with_exits(task.pretrained(), [depth]).to(task.texts.device)
    objective = DeeperHead(network, temperature=2.0, alpha=0.5)
    task.learn(objective)
    return cut(network, depth)


def assistant(task: Task) -> TextClassifier:
    """By way of a student of a size between the two."""
    from labs.lab5_distillation.teacher_assistant import chain, from_layers_of

    last, between = len(task.layers), (len(layers_of(task.teacher)) + len(task.layers)) // 2
    spaced = from_layers_of(task.teacher)
    links = chain(
        task.teacher,
        (between, last),
        task.texts,
        task.recipe,
        temperature=task.temperature,
        alpha=task.alpha,
        maker=lambda depth: task.student() if depth == last else spaced(depth),
    )
    return links[-1].model


def theseus(task: Task) -> TextClassifier:
    """Inside the teacher, whose layers are replaced one draw at a time, on the labels."""
    from labs.lab5_distillation.layer_dropping import Replacement, Theseus

    schedule = Replacement(0.3, max(1, steps_of(task) // 2))
    return task.learn(Theseus(task.teacher, len(task.layers), schedule, seed=task.recipe.seed))


def dropped(task: Task) -> TextClassifier:
    """As deep as the teacher at first, one layer less at each drop."""
    from labs.lab5_distillation.layer_dropping import LayerDropping, even_drops

    has = len(layers_of(task.teacher))
    drops = even_drops(steps_of(task), has - len(task.layers))
    student = by_depth(task.teacher, range(has))
    freeze_embeddings(student)
    objective = LayerDropping(
        student, task.answers, drops, temperature=task.temperature, alpha=task.alpha
    )
    recipes.train(objective, task.texts, task.recipe)  # a student that shrinks has no checkpoint
    return student


def augmented(task: Task) -> TextClassifier:
    """Texts masked, cut and with other words, anew in every epoch; the teacher answers them."""
    from labs.lab5_distillation.augmentation import augmenter
    from labs.lab5_distillation.two_stage import task_stage

    student = task.student()
    made_by = augmenter(task.tokens, task.teacher, task.texts)
    task_stage(
        student,
        task.teacher,
        task.texts,
        task.recipe,
        made_by=made_by,
        temperature=task.temperature,
        checkpoint=task.checkpoint,
    )
    return student


def two_stage(task: Task) -> TextClassifier:
    """The pretrained encoder's geometry on general texts first, then the task, half and half."""
    from labs.lab5_distillation.two_stage import two_stage as stages

    pretrained = task.pretrained()
    student = task.of(pretrained)
    half = task.recipe.but(epochs=max(1, task.recipe.epochs // 2))
    rounds = -(-half.epochs * len(task.texts) // len(task.general))
    stages(
        student,
        pretrained,
        task.teacher,
        general=task.general,
        general_recipe=half.but(epochs=rounds),
        task=task.texts,
        task_recipe=half,
        temperature=task.temperature,
    )
    return student


def steps_of(task: Task) -> int:
    """Optimizer steps of the recipe on the task's texts."""
    return task.recipe.epochs * -(-len(task.texts) // task.recipe.batch_size)


METHODS: Mapping[str, Callable[[Task], TextClassifier]] = {
    "copied_alone": copied_alone,
    "pretrained_distilled": pretrained_distilled,
    "decoupled": partial(soft_loss, name="decoupled"),
    "mse": partial(soft_loss, name="mse"),
    "hidden_states": partial(features, name="hidden states"),
    "attention_maps": partial(features, name="attention maps"),
    "relations": partial(features, name="relations"),
    "born_again": born_again,
    "deeper_head": deeper_head,
    "assistant": assistant,
    "theseus": theseus,
    "dropped": dropped,
    "augmented": augmented,
    "two_stage": two_stage,
}
