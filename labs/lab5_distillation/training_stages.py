"""The first half of the run: texts, teacher, and every student with and without it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Final

import numpy as np

from common.errors import require

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import Tensor

    from common.data.labelled_texts import Part, Split
    from common.progress import Progress
    from common.runner import Run
    from labs.lab5_distillation.config import Config
    from labs.lab5_distillation.distiller import OnStep
    from labs.lab5_distillation.encoders import TextClassifier
    from labs.lab5_distillation.methods import Task
    from labs.lab5_distillation.objectives import CachedTeacher, Objective
    from labs.lab5_distillation.recipe import Recipe
    from labs.lab5_distillation.student_makers import Makers
    from labs.lab5_distillation.tokens import Tokens, TokenSet
    from labs.lab5_distillation.unfinished import Unfinished

ALONE: Final = "fine-tuned"
COPIED: Final = "copied"
TAUGHT: Final = "distilled"
NAMED = "named"


@dataclass(frozen=True)
class Material:
    """Texts as the models read them."""

    split: Split
    tokens: Tokens
    train: TokenSet
    validation: TokenSet
    test: TokenSet


@dataclass(frozen=True)
class Taught:
    """The teacher, its answers to the training texts, and to those that judge."""

    model: TextClassifier
    cached: CachedTeacher
    validation: Tensor
    test: Tensor

    @property
    def digest(self) -> str:
        """A hash of what the teacher said of the training texts."""
        said = self.cached.logits.cpu().contiguous().numpy().tobytes()
        return hashlib.sha256(said).hexdigest()


@dataclass
class Trained:
    """Students of one kind and training, a model and logits [N, C] for each seed."""

    how: str
    parameters: int
    models: list[TextClassifier] = field(default_factory=list)
    test: list[Tensor] = field(default_factory=list)
    validation: list[Tensor] = field(default_factory=list)


def read_texts(run: Run, config: Config) -> Material:
    """CLINC150, docstrings or the caller's files, as token ids."""
    from common.data.labelled_texts import read_files, read_split
    from labs.lab5_distillation.tokens import Tokens

    if config.train and config.test:
        split = read_files(config.train, config.test, seed=run.seed)
        if config.texts:
            split = replace(split, train=split.train.head(config.texts))
    else:
        split = read_split(
            config.source, limit=config.texts, libraries=config.libraries, seed=run.seed
        )
    run.data(split.dataset)
    title, n = split.dataset.entry.title, len(split.train)
    run.note(f"The texts are {title}: {n:,} to train on, {len(split.names)} labels.")
    tokens = Tokens(config.teacher, config.max_tokens)
    check_before_training(config, split, tokens)

    def encode(part: Part, most: int = 0) -> TokenSet:
        return tokens.encode(part.head(most) if most else part, run.device)

    found = Material(
        split,
        tokens,
        encode(split.train),
        encode(split.validation, config.test_texts),
        encode(split.test, config.test_texts),
    )
    _, counts = np.unique(found.test.labels, return_counts=True)
    run.metric("texts.train", len(found.train), unit="texts")
    run.metric("texts.test", len(found.test), unit="texts")
    run.metric("texts.classes", len(split.names), unit="labels")
    run.metric("texts.tokens", float(found.train.lengths.mean()), unit="tokens", n=n)
    run.metric(
        "texts.cut",
        float((found.train.lengths == config.max_tokens).mean()),
        unit="ratio",
        n=n,
        how=f"share of training texts that reach {config.max_tokens} tokens and may be cut there",
    )
    majority = counts.max() / len(found.test)
    run.metric("texts.majority_accuracy", majority, unit="ratio", n=len(found.test))
    return found


def check_before_training(config: Config, split: Split, tokens: Tokens) -> None:
    """Refuse at once what would stop the run after minutes of training.

    Raises
    ------
    InputError
        A named student with another tokenizer, or fewer texts of a label than ``--few-labels``.
    DataError
        A named student that cannot be had.
    """
    from labs.lab5_distillation.tokens import require_same_tokens

    if config.student:
        require_same_tokens(tokens, type(tokens)(config.student, config.max_tokens))
    least = int(np.bincount(split.train.labels, minlength=len(split.names)).min())
    require(
        config.few_labels <= least,
        "few_labels",
        config.few_labels,
        f"must be at most {least}, the training texts of the rarest label",
    )


def recipe_of(run: Run, config: Config, *, epochs: int, rate: float, seed: int) -> Recipe:
    """The recipe of this run with some epochs, a rate and a seed."""
    from labs.lab5_distillation.recipe import Recipe

    return Recipe(
        epochs=epochs,
        rate=rate,
        head_rate=config.head_rate,
        batch_size=config.batch_size,
        bf16=config.bf16,
        seed=seed,
    )


def train_teacher(run: Run, config: Config, material: Material) -> Taught:
    """Fine-tune the encoder, or take it from the cache; ask it once for all that is needed."""
    from labs.lab5_distillation import recipe as recipes
    from labs.lab5_distillation.encoders import layers_of, n_parameters
    from labs.lab5_distillation.teacher import fine_tuned
    from labs.lab5_distillation.teacher_cache import cached_logits

    recipe = recipe_of(
        run, config, epochs=config.teacher_epochs, rate=config.teacher_rate, seed=run.seed
    )
    steps = recipe.epochs * -(-len(material.train) // recipe.batch_size)
    with run.progress_bar("teacher", steps) as bar:
        model = fine_tuned(
            material.split,
            material.tokens,
            recipe,
            name=config.teacher,
            device=run.device,
            progress=lambda done, loss: bar.update(done, f"loss {loss:.3f}"),
        )
    run.metric("teacher.parameters", n_parameters(model), unit="parameters")
    if "theseus" in config.methods:
        has, layers = len(layers_of(model)), 2 if config.students[0] == "two_layers" else 1
        require(
            has % layers == 0,
            "layers of the teacher",
            has,
            f"must be a multiple of {layers}",
            "leave theseus out of --methods",
        )
    return Taught(
        model,
        cached_logits(model, material.train),
        recipes.logits(model, material.validation),
        recipes.logits(model, material.test),
    )


def train_students(
    run: Run, config: Config, material: Material, taught: Taught, unfinished: Unfinished
) -> dict[str, dict[str, Trained]]:
    """Every kind and seed by one recipe: on the labels alone, and under the teacher.

    Alone means alone: the baseline starts from the pretrained encoder. Layers of a fine-tuned
    teacher are the teacher's gift too, so the last kind is trained a third time, from the
    teacher's layers on the labels: `COPIED` tells the start from the answers.
    """
    from labs.lab5_distillation.student_makers import makers_of, named_makers
    from labs.lab5_distillation.unfinished import Job

    makers: dict[str, Makers] = {
        kind: makers_of(kind, config, material, taught) for kind in config.students
    }
    seeds: dict[str, int] = {kind: config.seeds_of(kind) for kind in config.students}
    if config.student:
        makers[NAMED], seeds[NAMED] = named_makers(config, material, taught), config.seeds
    jobs = [
        (kind, partial(maker, seed), seed, how)
        for kind, both in makers.items()
        for seed in range(run.seed, run.seed + seeds[kind])
        for how, maker in (
            (ALONE, both.from_pretrained),
            (COPIED, both.from_teacher),
            (TAUGHT, both.from_teacher),
        )
        if how != COPIED or kind == config.students[-1]
    ]
    each = config.student_epochs * -(-len(material.train) // config.batch_size)
    with run.progress_bar("students", len(jobs) * each) as bar:
        work = []
        for i, (kind, make, seed, how) in enumerate(jobs):
            recipe = recipe_of(
                run, config, epochs=config.student_epochs, rate=config.student_rate, seed=seed
            )
            told = partial(_tell, bar, i * each, f"{kind}, {how}")
            learn = partial(_train_one, config, material, taught, recipe, make, how, told)
            work.append(Job(f"{kind}-{how}-{seed}", make, learn))
        students = dict(unfinished.students(work))
        bar.update(len(jobs) * each)
    found: dict[str, dict[str, Trained]] = {}
    for i, (kind, _, _, how) in enumerate(jobs):
        keep(found.setdefault(kind, {}), how, students[i], material)
    return found


def _tell(bar: Progress, before: int, what: str, done: int, loss: float) -> None:
    bar.update(before + done, f"{what}, loss {loss:.3f}")


def _train_one(
    config: Config,
    material: Material,
    taught: Taught,
    recipe: Recipe,
    make: Callable[[], TextClassifier],
    how: str,
    told: OnStep,
    checkpoint: Path,
) -> TextClassifier:
    """One student, with or without the teacher."""
    from labs.lab5_distillation import recipe as recipes

    student = make()
    objective: Objective
    if how in (ALONE, COPIED):
        objective = recipes.supervised(student)
    else:
        objective = recipes.distillation(
            student, taught.cached, temperature=config.temperature, alpha=config.alpha
        )
    recipes.train(objective, material.train, recipe, checkpoint=checkpoint, on_step=told)
    return student


def keep(found: dict[str, Trained], how: str, student: TextClassifier, material: Material) -> None:
    """Add one seed's student to those of its kind."""
    from labs.lab5_distillation import recipe as recipes
    from labs.lab5_distillation.encoders import n_parameters

    entry = found.setdefault(how, Trained(how, n_parameters(student)))
    entry.models.append(student)
    entry.test.append(recipes.logits(student, material.test))
    entry.validation.append(recipes.logits(student, material.validation))


def train_methods(
    run: Run, config: Config, material: Material, taught: Taught, unfinished: Unfinished
) -> dict[str, Trained]:
    """The first of the students, taught in every other way that was asked for."""
    from common.data.labelled_texts import read_split
    from labs.lab5_distillation.encoders import layers_of
    from labs.lab5_distillation.methods import Task
    from labs.lab5_distillation.student_makers import layers_for
    from labs.lab5_distillation.unfinished import Job

    layers = layers_for(config.students[0], len(layers_of(taught.model)))
    # With the same seed and libraries its training part shares no text with our test part.
    general = read_split("docstrings", libraries=config.libraries, seed=run.seed).train
    general = general.head(len(material.train))
    task = Task(
        teacher=taught.model,
        answers=taught.cached,
        layers=layers,
        texts=material.train,
        general=material.tokens.encode(general, run.device).without_labels(),
        tokens=material.tokens,
        encoder=config.teacher,
        recipe=recipe_of(
            run, config, epochs=config.student_epochs, rate=config.student_rate, seed=run.seed
        ),
        temperature=config.temperature,
        alpha=config.alpha,
    )
    jobs = [(name, run.seed + s) for name in config.methods for s in range(config.seeds)]
    work = [
        Job(f"{name}-{seed}", task.student, partial(_by_method, task, name, seed))
        for name, seed in jobs
    ]
    students = {}
    with run.progress_bar("methods", len(jobs)) as bar:
        for i, student in unfinished.students(work):
            students[i] = student
            bar.update(len(students), jobs[i][0])
    found: dict[str, Trained] = {}
    for i, (name, _) in enumerate(jobs):
        keep(found, name, students[i], material)
    return found


def _by_method(task: Task, name: str, seed: int, checkpoint: Path) -> TextClassifier:
    from labs.lab5_distillation.methods import METHODS

    chosen = replace(task, recipe=task.recipe.but(seed=seed), checkpoint=checkpoint)
    return METHODS[name](chosen)


def proofs(run: Run, config: Config, material: Material, taught: Taught) -> None:
    """The loss's gradient against its closed form, and a stopped distillation that goes on."""
    from labs.lab5_distillation.objectives import CachedTeacher
    from labs.lab5_distillation.proofs import gradient_error, resume_difference
    from labs.lab5_distillation.student_makers import makers_of
    from labs.lab5_distillation.tokens import TokenSet

    run.metric("loss.gradient_error", gradient_error(len(material.split.names)), unit="1/logit")
    n = min(256, len(material.train))
    few = TokenSet(material.train.ids[:n], material.train.labels[:n], material.train.device)
    answers = CachedTeacher(taught.cached.logits[:n])
    recipe = recipe_of(run, config, epochs=2, rate=config.student_rate, seed=run.seed)
    steps = 2 * -(-n // config.batch_size)
    difference = resume_difference(
        partial(makers_of("one_layer", config, material, taught).from_teacher, run.seed),
        answers,
        few,
        recipe,
        stop_after=steps // 4 + 2,  # inside an epoch, a step after a checkpoint
    )
    run.metric("resume.loss_difference", difference, unit="nats", n=steps)


def few_labels(run: Run, config: Config, material: Material) -> None:
    """A few labelled texts of each label: what a student gains from all the others, unlabelled."""
    from labs.lab5_distillation.encoders import classifier, freeze_embeddings, layers_of
    from labs.lab5_distillation.few_labels import few_labels_study
    from labs.lab5_distillation.student_makers import layers_for
    from labs.lab5_distillation.students import by_depth

    def teacher() -> TextClassifier:
        model = classifier(config.teacher, material.split.names).to(run.device)
        freeze_embeddings(model)
        return model

    def student(model: TextClassifier) -> TextClassifier:
        made = by_depth(model, layers_for(config.students[0], len(layers_of(model))))
        freeze_embeddings(made)
        return made

    recipe = recipe_of(
        run, config, epochs=config.student_epochs, rate=config.student_rate, seed=run.seed
    )
    rows = few_labels_study(
        teacher,
        student,
        material.train,
        material.test,
        recipe,
        teacher_recipe=recipe.but(epochs=4 * config.teacher_epochs, rate=config.teacher_rate),
        per_class=config.few_labels,
        seeds=tuple(range(run.seed, run.seed + config.seeds)),
        temperature=config.temperature,
    )
    for method in dict.fromkeys(row.method for row in rows):
        found = [row.accuracy for row in rows if row.method == method]
        slug = method.replace(", ", ".").replace(" ", "_").replace("-", "_")
        run.metric(f"few_labels.{slug}", float(np.mean(found)), unit="ratio", n=len(material.test))
