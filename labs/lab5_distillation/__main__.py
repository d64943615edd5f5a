"""Lab 5: one fine-tuned encoder teaches small ones, and the same small ones learn alone."""

from __future__ import annotations

from common.runner import Run, main
from labs.lab5_distillation.claims import CLAIMS
from labs.lab5_distillation.config import SCALES, Config


def story(run: Run, config: Config) -> None:
    """Read, teach, distil, quantize, measure, decide."""
    from labs.lab5_distillation import deployment_stages as deploy
    from labs.lab5_distillation import report
    from labs.lab5_distillation import training_stages as train
    from labs.lab5_distillation.unfinished import Unfinished, key_of

    with run.stage("Read the texts", key="texts"):
        material = train.read_texts(run, config)
    with run.stage("Fine-tune the teacher, or take it from the cache", key="teacher"):
        taught = train.train_teacher(run, config, material)
        report.judge_teacher(run, material, taught)
    unfinished = Unfinished(
        key_of(
            config,
            seed=run.seed,
            device=run.device,
            data=material.split.dataset.provenance.sha256,
            teacher=taught.digest,
        )
    )
    with run.stage("Is the loss the formula, and does a stopped run go on?", key="proofs"):
        train.proofs(run, config, material, taught)
    with run.stage("Every student with and without the teacher", key="students"):
        students = train.train_students(run, config, material, taught, unfinished)
    methods = {}
    if config.methods:
        with run.stage("Every other way to teach the first student", key="methods"):
            methods = train.train_methods(run, config, material, taught, unfinished)
    if config.few_labels:
        with run.stage("Few labels and many texts", key="few_labels"):
            train.few_labels(run, config, material)
    with run.stage("INT8: after training, and aware of it", key="int8"):
        exported = deploy.quantize(run, config, material, taught, students, unfinished)
    with run.stage("Texts a second, one thread, one runtime", key="speed"):
        speed = deploy.speeds(run, config, material, exported)
    with run.stage("Compare and decide", key="compare"):
        gained = report.gains(run, config, material, students, methods)
        found = report.candidates(run, material, taught, students, exported, speed)
        report.record(run, config, found)
        report.aware_gain(run, config, material, exported)
        by_validation = report.candidates(
            run, material, taught, students, exported, speed, "validation"
        )
        report.show(run, config, material, taught, students, found, by_validation, gained, speed)
    report.what_is_left_open(run, config, material)
    unfinished.discard()


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
            "Jiao et al.: TinyBERT (2020), https://arxiv.org/abs/1909.10351",
            "Wang et al.: MiniLMv2 (2021), https://arxiv.org/abs/2012.15828",
            "Stanton et al.: Does Knowledge Distillation Really Work? (2021), "
            "https://arxiv.org/abs/2106.05945",
        ),
    )
