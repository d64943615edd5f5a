"""The stages that learn: encoder and teacher, sources, the random split, the student."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from capstone import figures, measure, offline, training
from capstone.context import RETRIEVAL_LAYERS, Context
from capstone.data import ranking_set
from capstone.data_stages import record_auc
from capstone.models import SequenceEncoder
from capstone.names import slug
from common.launch import torchrun

VALIDATION_CANDIDATES, TEST_CANDIDATES = "validation_candidates.npy", "candidates.npy"


def train(c: Context) -> None:
    """Retrieval encoder and teacher ranker over FSDP ranks (lab 1)."""
    with c.workspace.stage("train") as folder:
        jobs = {
            "encoder": job(c, "retrieval", c.config.retrieval_width),
            "teacher": job(c, "ranker", c.config.ranker_width),
        }
        losses = run_jobs(c, folder, jobs)
        loss_figure(c, losses)
        encoder = c.encoder(folder)
        scores = measure.encoder_scores(encoder, c.feed.test_history, c.config.max_length)
        values = offline.retrieval_ndcg(scores, c.feed)
        c.mean("retrieval.ndcg_at_10", values)
        c.run.metric(
            "retrieval.validation_ndcg_at_10", _validation_ndcg(c, encoder),
            unit="ratio", n=c.feed.n_users,
            how="the item before the test item; options are chosen on this one",
        )  # fmt: skip
        teacher = c.ranker(folder / "teacher.safetensors", "teacher")
        predicted = measure.like_scores(teacher, c.feed, ranking_set(c.feed), c.config.max_length)
        record_auc(c, "ranker.auc", predicted)
    _record_gains(c, values, predicted)


def retrieval(c: Context) -> None:
    """Sources beside the encoder, merged by quotas chosen on validation; the value's weights."""
    from capstone import figures_retrieval, quality, source_choice, two_tower
    from capstone.retrieval_study import study_retrieval
    from capstone.value_choice import choose_weights

    trained = c.workspace.need("train")
    encoder = c.encoder()
    teacher = measure.torch_score(c.ranker(trained / "teacher.safetensors", "teacher"))
    known = {"validation": c.feed.train, "test": c.feed.test_history}
    scores = {
        name: measure.encoder_scores(encoder, each, c.config.max_length)
        for name, each in known.items()
    }
    with c.workspace.stage("retrieval", "train") as folder:
        study = study_retrieval(
            c.feed, c.interactions, c.catalogue, scores["validation"], scores["test"],
            limit=c.config.candidates, regularisation=c.config.ease_lambda,
            n_boot=c.config.n_boot, seed=c.run.seed,
        )  # fmt: skip
        tables = study.chosen.tables
        tables.save(folder / "sources.npz")
        at = source_choice.before_validation(c.feed, scores["validation"])
        limit, visible = c.config.candidates, c.catalogue.visible
        offered = source_choice.offers_of_all(at, tables, visible, limit=limit)
        merged = source_choice.merge_all(offered, at, visible, tables.quotas, limit=limit)
        validation = np.stack([each.ids for each in merged])
        np.save(folder / VALIDATION_CANDIDATES, validation)
        np.save(folder / TEST_CANDIDATES, study.candidates)
        answers = quality.ask(
            teacher, c.feed, validation, length=c.config.max_length, held_out=quality.VALIDATION
        )
        chosen, _ = choose_weights(answers, quality.fit_calibration(answers))
        c.save_weights(folder, chosen)
        c.record_ndcg("ranker.ndcg_at_10", c.feed_ndcg(study.candidates, teacher, chosen))
    for each in study.sources:
        for what, share in (("recall", each.recall), ("contribution", each.contribution)):
            c.run.metric(
                f"sources.{each.name}.{what}", share.value,
                unit="ratio", n=c.feed.n_users, ci95=share.ci95,
            )  # fmt: skip
        c.run.metric(f"sources.{each.name}.quota", each.quota, unit="count")
    for name in ("merged", "nearest", "gain"):
        share = getattr(study, name)
        c.run.metric(
            f"sources.{name}_recall", share.value,
            unit="ratio", n=c.feed.n_users, ci95=share.ci95,
            how=f"test item among {c.config.candidates} candidates",
        )  # fmt: skip
    c.run.metric(
        "sources.gain_recall.low", study.gain.ci95[0], unit="ratio", n=c.feed.n_users,
        how="low end of the interval",
    )  # fmt: skip
    for name in ("coverage", "nearest_coverage", "cold_share", "cold_catalogue"):
        c.run.metric(f"sources.{name}", getattr(study, name), unit="ratio")
    for name, weight in chosen.as_json().items():
        c.run.metric(f"value.weight.{name}", weight, unit="weight", how="chosen on validation")
    c.run.figure(
        "sources", figures_retrieval.draw_sources(study),
        caption="Recall of the test item by source, and what only that source finds.",
    )  # fmt: skip
    recipe = replace(two_tower.SMOKE, epochs=1) if c.smoke else two_tower.Recipe()
    study_q = two_tower.study_log_q(c.feed, recipe, n_seeds=1 if c.smoke else 2, seed=c.run.seed)
    for objective in study_q.objectives:
        c.run.metric(
            f"log_q.{slug(objective.name)}.recall_at_{study_q.k}",
            objective.recall, unit="ratio", n=c.feed.n_users * len(objective.recall_by_seed),
            how="two towers trained for a few epochs, to compare objectives",
        )  # fmt: skip
    c.run.figure(
        "log-q", figures_retrieval.draw_log_q(study_q),
        caption="Sampled softmax with and without the logQ correction, by popularity decile.",
    )  # fmt: skip


def auc(c: Context) -> None:
    """The ranker on the random 8:1:1 split of the published figures, label rating >= 4."""
    from capstone import figures_ranking
    from capstone.random_split_study import RANKS, SetRecipe, study_random_split

    epochs = c.config.random_split_epochs
    with c.run.progress_bar("random split", epochs) as bar:
        found = study_random_split(
            c.feed, epochs=epochs, recipe=SetRecipe(draws=1 if c.smoke else 4),
            ranks=RANKS[:1] if c.smoke else RANKS,
            n_boot=c.config.n_boot, seed=c.run.seed, on_epoch=bar.update,
        )  # fmt: skip
    for name, each in (
        ("lr_", found.logistic_regression), ("wide_", found.wide), ("deep_", found.deep),
        ("", found.ranker),
    ):  # fmt: skip
        c.run.metric(
            f"random_split.{name}auc", each.auc, unit="ratio", n=found.n_test, ci95=each.auc_ci95,
            how=f"test tenth, bootstrap of users; validation {each.validation_auc:.4f}",
        )  # fmt: skip
        c.run.metric(f"random_split.{name}log_loss", each.log_loss, unit="nats", n=found.n_test)
    c.run.figure(
        "random-split", figures_ranking.draw_random_split(found),
        caption="AUC on the test tenth of the random split, with intervals over users.",
    )  # fmt: skip


def distill(c: Context) -> None:
    """A student much smaller than the teacher, with the teacher's help (lab 5) and without."""
    source = c.workspace.need("train")
    retrieved, weights = c.candidates(), c.weights()
    with c.workspace.stage("distill", "train") as folder:
        alone = job(c, "ranker", c.config.student_width, layers=c.config.student_layers)
        alone |= {"epochs": c.config.student_epochs, "dropout": c.config.student_dropout}
        taught = alone | {
            "teacher": str(source / "teacher.safetensors"),
            "teacher_width": c.config.ranker_width,
            "teacher_layers": c.config.ranker_layers,
            "teacher_attention": c.config.attention,
            "temperature": c.config.temperature,
            "alpha": c.config.alpha,
        }
        losses = run_jobs(c, folder, {"undistilled": alone, "student": taught})
        loss_figure(c, losses)
        sizes = {"teacher": measure.parameters(c.ranker(source / "teacher.safetensors", "teacher"))}
        for name, metric in (
            ("undistilled", "student.undistilled_ndcg_at_10"),
            ("student", "student.ndcg_at_10"),
        ):
            model = c.ranker(folder / f"{name}.safetensors", "student")
            sizes[name] = measure.parameters(model)
            c.record_ndcg(metric, c.feed_ndcg(retrieved, measure.torch_score(model), weights))
        for name in ("teacher", "student"):
            c.run.metric(f"{name}.parameters", sizes[name], unit="count")
        c.run.metric("student.compression", sizes["teacher"] / sizes["student"], unit="ratio")


def job(c: Context, kind: training.Kind, width: int, layers: int | None = None) -> dict[str, Any]:
    """Fields of a training job that the run's options give."""
    is_retrieval = kind == "retrieval"
    automatic = "bf16" if c.run.device == "cuda" else "fp32"
    return {
        "kind": kind,
        "width": width,
        "layers": layers or (RETRIEVAL_LAYERS if is_retrieval else c.config.ranker_layers),
        "max_length": c.config.max_length,
        "epochs": c.config.retrieval_epochs if is_retrieval else c.config.ranker_epochs,
        "batch_size": c.config.batch_size,
        "learning_rate": c.config.learning_rate,
        "dropout": c.config.dropout,
        "attention": c.config.attention,
        "strategy": c.config.strategy,
        "device": c.run.device,
        "precision": automatic if c.config.precision == "auto" else c.config.precision,
        "seed": c.run.seed,
    }


def run_jobs(
    c: Context, folder: Path, jobs: Mapping[str, Mapping[str, Any]]
) -> dict[str, figures.Losses]:
    """Train ``folder/<name>.safetensors`` for each job, all in one torchrun.

    Where an earlier process was killed, it goes on from that one's last checkpoint.

    Returns the loss at each step of each job.
    """
    paths, progress = [], c.checkpoints / "progress.txt"
    progress.parent.mkdir(parents=True, exist_ok=True)
    for name, fields in jobs.items():
        made = training.Job(
            name=name,
            **fields,
            output=str(folder / f"{name}.safetensors"),
            checkpoints=str(c.checkpoints / name),
        )
        paths.append(str(made.write(folder / f"{name}.job.json")))
    losses: dict[str, dict[int, float]] = {name: {} for name in jobs}
    steps = {name: fields["epochs"] * c.steps_per_epoch for name, fields in jobs.items()}
    with (
        c.run.progress_bar(f"training on {c.run.procs} ranks", sum(steps.values())) as bar,
        progress.open("a+", encoding="utf-8", buffering=1) as stream,
    ):

        def take(line: str) -> bool:
            match = training.PROGRESS_LINE.fullmatch(line)
            if match:
                name, done, loss = match.groups()
                losses[name][int(done)] = float(loss)
                finished = sum(max(points) for points in losses.values() if points)
                bar.update(finished, f"{name}: loss {loss}")
            return match is not None

        def on_line(line: str) -> None:
            if take(line):
                stream.write(f"{line}\n")

        stream.seek(0)
        for line in stream.read().splitlines():
            take(line)
        if any(losses.values()):
            c.run.note(f"The training of {' and '.join(jobs)} went on from a checkpoint.")
        torchrun(
            "capstone.training", paths,
            procs=c.run.procs, device=c.run.device, log=c.workspace.log("-".join(jobs)),
            on_line=on_line,
        )  # fmt: skip
    return {name: sorted(points.items()) for name, points in losses.items()}


def loss_figure(c: Context, losses: dict[str, figures.Losses]) -> None:
    names = " and ".join(losses)
    c.run.figure(
        "loss-" + "-".join(losses).replace(" ", "-"),
        figures.loss(losses),
        caption=f"Training loss of the {names} by step. The losses are not comparable.",
    )


def _record_gains(c: Context, retrieval_ndcg: np.ndarray, predicted: np.ndarray) -> None:
    """What the models add to the baselines, paired by user; the low end is what a claim needs."""
    names = ("retrieval.gain_over_ease", "ranker.auc_gain_over_lr")
    if not c.workspace.has("baselines"):
        for name in names:
            reason = "stage 'baselines' has not run"
            c.run.metric(f"{name}.low", None, unit="ratio", reason=reason)
        return
    folder, rows = c.workspace.need("baselines"), ranking_set(c.feed)
    gain = retrieval_ndcg - np.load(folder / "ease_ndcg.npy")
    auc_gain, auc_interval = measure.auc_difference(
        rows.liked, predicted, np.load(folder / "lr_scores.npy"), rows.user,
        n_boot=c.config.n_boot, seed=c.run.seed,
    )  # fmt: skip
    for name, value, interval, n in (
        (names[0], float(gain.mean()), c.interval(gain), len(gain)),
        (names[1], auc_gain, auc_interval, len(predicted)),
    ):
        c.run.metric(name, value, unit="ratio", n=n, ci95=interval, how="paired bootstrap of users")
        c.run.metric(f"{name}.low", interval[0], unit="ratio", n=n, how="low end of the interval")


def _validation_ndcg(c: Context, encoder: SequenceEncoder) -> float:
    """Mean NDCG@10 of retrieval on the item before the test item."""
    from capstone.rank_metrics import ndcg, ranks

    scores = measure.encoder_scores(encoder, c.feed.train, c.config.max_length)
    masked = c.feed.matrix(c.feed.train) > 0
    masked[:, 0] = True
    return float(ndcg(ranks(scores, c.feed.validation_items, masked)).mean())
