"""Lab 5: a large classifier teaches small ones, and the same small ones learn alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from common.runner import Claim, Run, main
from labs.lab5_distillation.config import SCALES, Config

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray
    from torch import nn

    from labs.lab5_distillation.features import TextSet

TEST_SHARE = 0.2
MAX_CHARACTERS = 4000
EVALUATION_BATCH = 512

CLAIMS = (
    Claim(
        "L5.retention",
        "the reported student keeps > 95 % of its teacher's accuracy",
        metric="student.retention",
        op=">",
        target=0.95,
    ),
    Claim(
        "L5.bert",
        "BERT-Large to BERT-Small with < 5 % accuracy loss",
        metric="bert.retention",
        op=">",
        target=0.95,
    ),
)


@dataclass(frozen=True)
class Texts:
    """Training and test texts as features, and how many classes and features there are."""

    train: TextSet
    test: TextSet
    n_features: int
    n_classes: int

    def batches(self, size: int) -> int:
        """Training batches of that size in one epoch."""
        return -(-len(self.train) // size)


@dataclass(frozen=True)
class Answers:
    """Classes that models of one size chose for the test texts: int [seeds, n_test]."""

    parameters: int
    chosen: NDArray[np.int64]

    def like(self, classes: NDArray[np.int64]) -> NDArray[np.float64]:
        """For each test text, the share of seeds that chose the given class: [n_test]."""
        return (self.chosen == classes).mean(axis=0)


def story(run: Run, config: Config) -> None:
    """Read texts, train a teacher, train each student twice, compare."""
    with run.stage("Read the docstrings", key="texts"):
        texts = read_texts(run, config)
    with run.stage("Train the teacher", key="teacher"):
        teacher, reference = train_teacher(run, config, texts)
    with run.stage("Train every student with and without the teacher", key="students"):
        alone, distilled = train_students(run, config, texts, teacher)
    with run.stage("Compare", key="compare"):
        compare(run, config, texts, reference, alone, distilled)
        draw(run, texts, reference, alone, distilled)
    run.unmeasured(
        "L5.bert",
        "this run distils a perceptron over words; no fine-tuned BERT-Large is at hand",
    )


def read_texts(run: Run, config: Config) -> Texts:
    """Docstrings of the largest libraries, split 80 : 20; the features are fitted on the 80."""
    import numpy as np

    from common.data import load
    from common.data.docstrings import topics
    from labs.lab5_distillation.features import TextSet, vectorizer

    docstrings = load("docstrings")
    run.data(docstrings)
    table = topics(docstrings.table("docstrings"), n=config.classes)
    table = table.sample(n=min(config.texts, len(table)), random_state=run.seed)
    names = sorted(table["label"].unique())
    labels = table["label"].map({name: i for i, name in enumerate(names)}).to_numpy(np.int64)
    content = table["text"].str.slice(0, MAX_CHARACTERS).tolist()
    n_test = int(len(content) * TEST_SHARE)
    features = vectorizer(config.features)
    train = TextSet(features.fit_transform(content[n_test:]), labels[n_test:], run.device)
    test = TextSet(features.transform(content[:n_test]), labels[:n_test], run.device)
    run.metric("texts.train", len(train), unit="texts")
    run.metric("texts.test", len(test), unit="texts")
    run.metric("texts.classes", len(names), unit="classes")
    majority = np.bincount(test.labels).max() / len(test)
    run.metric("texts.majority_accuracy", majority, unit="ratio", n=len(test))
    return Texts(train, test, config.features, len(names))


def train_teacher(run: Run, config: Config, texts: Texts) -> tuple[nn.Module, Answers]:
    """One wide model with dropout, trained on the labels."""
    import torch

    from labs.lab5_distillation.models import BagClassifier, n_parameters

    torch.manual_seed(run.seed)
    teacher = BagClassifier(
        texts.n_features, config.teacher_width, texts.n_classes, dropout=config.dropout
    ).to(run.device)
    steps = config.teacher_epochs * texts.batches(config.batch_size)
    with run.progress_bar("teacher", steps) as bar:
        chosen = train_and_answer(
            teacher,
            texts,
            config,
            teacher=None,
            epochs=config.teacher_epochs,
            rate=config.teacher_rate,
            seed=run.seed,
            on_step=lambda done, loss: bar.update(done, f"loss {loss:.3f}"),
        )
    return teacher, Answers(n_parameters(teacher), chosen[None])


def train_students(
    run: Run, config: Config, texts: Texts, teacher: nn.Module
) -> tuple[list[Answers], list[Answers]]:
    """Students of each width from the same initial weights: on the labels, and distilled."""
    from itertools import count

    import numpy as np
    import torch

    from labs.lab5_distillation.models import BagClassifier, n_parameters

    answers: tuple[list[Answers], list[Answers]] = ([], [])
    steps = config.student_epochs * texts.batches(config.batch_size)
    total, done = 2 * len(config.widths) * config.seeds * steps, count(1)
    with run.progress_bar("students", total) as bar:
        for width in config.widths:
            for taught, kept in zip((None, teacher), answers):
                chosen = []
                for seed in range(run.seed, run.seed + config.seeds):
                    torch.manual_seed(seed)
                    student = BagClassifier(texts.n_features, width, texts.n_classes).to(run.device)
                    chosen.append(
                        train_and_answer(
                            student,
                            texts,
                            config,
                            teacher=taught,
                            epochs=config.student_epochs,
                            rate=config.student_rate,
                            seed=seed,
                            on_step=lambda _, loss: bar.update(next(done), f"loss {loss:.3f}"),
                        )
                    )
                kept.append(Answers(n_parameters(student), np.stack(chosen)))
    return answers


def train_and_answer(
    model: nn.Module,
    texts: Texts,
    config: Config,
    *,
    teacher: nn.Module | None,
    epochs: int,
    rate: float,
    seed: int,
    on_step: Callable[[int, float], None],
) -> NDArray[np.int64]:
    """Train a model in place, on a teacher or on the labels alone; its choices [n_test]."""
    import torch

    from labs.lab5_distillation.distil import distil, predict, train_alone
    from labs.lab5_distillation.features import Batches

    loader = Batches(texts.train, config.batch_size, seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, rate, total_steps=epochs * len(loader)
    )
    if teacher is None:
        train_alone(model, loader, optimizer, epochs=epochs, scheduler=scheduler, on_step=on_step)
    else:
        distil(
            model,
            teacher,
            loader,
            optimizer,
            epochs=epochs,
            temperature=config.temperature,
            alpha=config.alpha,
            scheduler=scheduler,
            on_step=on_step,
        )
    return predict(model, Batches(texts.test, EVALUATION_BATCH)).argmax(1).numpy()


def compare(
    run: Run,
    config: Config,
    texts: Texts,
    teacher: Answers,
    alone: list[Answers],
    distilled: list[Answers],
) -> None:
    """Accuracy, what is kept of it, agreement with the teacher, and what the teacher added."""
    from common.statistics import bootstrap_ci
    from labs.lab5_distillation.distil import retention

    labels, n = texts.test.labels, len(texts.test)
    reported = config.widths.index(config.student_width)
    baseline, student = alone[reported], distilled[reported]
    how = f"held-out docstrings, mean of {config.seeds} seed(s)"
    for name, answers in (
        ("teacher.accuracy", teacher),
        ("student.accuracy", student),
        ("student.baseline_accuracy", baseline),
    ):
        right = answers.like(labels)
        run.metric(
            name, right.mean(), unit="ratio", n=n, ci95=bootstrap_ci(right, seed=run.seed),
            how="held-out docstrings, one model" if answers is teacher else how,
        )  # fmt: skip
    for name, answers in (("student.retention", student), ("student.baseline_retention", baseline)):
        kept = retention(answers.like(labels), teacher.like(labels), seed=run.seed)
        run.metric(
            name, kept.value, unit="ratio", n=n, ci95=kept.ci95,
            how="accuracy / teacher's accuracy; interval over test texts, drawn together",
        )  # fmt: skip
    gain = student.like(labels) - baseline.like(labels)
    run.metric(
        "student.distillation_gain", gain.mean(), unit="accuracy", n=n,
        ci95=bootstrap_ci(gain, seed=run.seed),
        how="distilled - the same students trained on the labels alone, paired by test text",
    )  # fmt: skip
    for name, answers in (("student.agreement", student), ("student.baseline_agreement", baseline)):
        same = answers.like(teacher.chosen[0])
        run.metric(
            name, same.mean(), unit="ratio", n=n, ci95=bootstrap_ci(same, seed=run.seed),
            how="same answer as the teacher, right or wrong",
        )  # fmt: skip
    run.metric("teacher.parameters", teacher.parameters, unit="parameters")
    run.metric("student.parameters", student.parameters, unit="parameters")
    run.metric(
        "student.compression", teacher.parameters / student.parameters, unit="ratio",
        how="teacher's parameters / student's",
    )  # fmt: skip


def draw(
    run: Run, texts: Texts, teacher: Answers, alone: list[Answers], distilled: list[Answers]
) -> None:
    """Size against accuracy: the two lines differ only by the teacher."""
    import numpy as np
    from matplotlib.figure import Figure

    from common.statistics import bootstrap_ci

    labels = texts.test.labels
    figure = Figure(figsize=(7, 4.5))
    axes = figure.subplots()
    for name, students in (("labels alone", alone), ("distilled", distilled)):
        right = [answers.like(labels) for answers in students]
        means = np.array([each.mean() for each in right])
        ends = np.array([bootstrap_ci(each, seed=run.seed) for each in right])
        axes.errorbar(
            [answers.parameters for answers in students],
            means,
            yerr=[means - ends[:, 0], ends[:, 1] - means],
            fmt="o-",
            capsize=3,
            label=name,
        )
    axes.plot(teacher.parameters, teacher.like(labels).mean(), "k*", markersize=12, label="teacher")
    axes.set_xscale("log")
    axes.set_xlabel("parameters")
    axes.set_ylabel("accuracy on held-out docstrings")
    axes.legend()
    run.figure(
        "frontier",
        figure,
        caption="Students of the same sizes and initial weights, with and without the teacher; "
        "bars are 95 % intervals over the test texts, the same texts for all models.",
    )


if __name__ == "__main__":
    main(
        "lab5_distillation",
        SCALES,
        story,
        title="Lab 5: knowledge distillation",
        claims=CLAIMS,
        reading=(
            "Hinton, Vinyals, Dean: Distilling the Knowledge in a Neural Network (2015), "
            "https://arxiv.org/abs/1503.02531",
            "Turc et al.: Well-Read Students Learn Better (2019), https://arxiv.org/abs/1908.08962",
            "Wang et al.: MiniLMv2 (2020), https://arxiv.org/abs/2012.15828",
        ),
    )
