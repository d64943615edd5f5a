"""The stages that make a bundle: data, baselines, train, distill, export, index, bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from capstone import baselines, bundle, figures, measure, offline, training
from capstone.context import RETRIEVAL_LAYERS, STUDENT_LAYERS, VALUE, Context
from capstone.data import histories, ranking_set
from capstone.models import EncodeUser, RankCandidates, SequenceEncoder
from common.launch import torchrun
from common.results import write_json


def data(c: Context) -> None:
    """The frozen split: checked against the committed hash, then counted."""
    feed = c.feed
    rows = ranking_set(feed)
    c.run.metric("data.users", feed.n_users, unit="count")
    c.run.metric("data.items", feed.n_items, unit="count")
    c.run.metric("data.train_interactions", sum(len(s.items) for s in feed.train), unit="count")
    c.run.metric("data.like_rate", rows.liked.mean(), unit="ratio", n=len(rows.liked))


def baseline(c: Context) -> None:
    """Popularity, EASE and logistic regression: what the models must beat."""
    from capstone.rank_metrics import hit_rate, ndcg, ranks

    train, known = c.feed.matrix(c.feed.train), c.feed.matrix(c.feed.test_history)
    scores = {
        "popularity": np.tile(baselines.popularity(train), (c.feed.n_users, 1)),
        "ease": known @ baselines.ease(train, c.config.ease_lambda),
    }
    with c.workspace.stage("baselines") as folder:
        for name, score in scores.items():
            rank = ranks(score, c.feed.test_items, c.feed.seen)
            np.save(folder / f"{name}_ndcg.npy", ndcg(rank))
            for metric, values in (("hr_at_10", hit_rate(rank)), ("ndcg_at_10", ndcg(rank))):
                c.run.metric(
                    f"baseline.{name}.{metric}", values.mean(),
                    unit="ratio", n=len(values), ci95=c.interval(values),
                )  # fmt: skip
        rows = ranking_set(c.feed)
        predicted = baselines.logistic_regression_scores(c.feed, rows)
        np.save(folder / "lr_scores.npy", predicted)
        _record_auc(c, "baseline.lr.auc", predicted)


def train(c: Context) -> None:
    """Retrieval encoder and teacher ranker over FSDP ranks (lab 1)."""
    with c.workspace.stage("train") as folder:
        jobs = {
            "encoder": _job(c, "retrieval", c.config.retrieval_width),
            "teacher": _job(c, "ranker", c.config.ranker_width),
        }
        losses = _torchrun(c, folder, jobs)
        _loss_figure(c, losses)
        encoder = c.encoder(folder)
        teacher = c.ranker(folder / "teacher.safetensors", "teacher")
        scores = measure.encoder_scores(encoder, c.feed.test_history, c.config.max_length)
        retrieved = offline.candidates(scores, c.feed.seen, c.config.candidates)
        np.save(folder / "candidates.npy", retrieved)
        values = offline.retrieval_ndcg(scores, c.feed)
        c.run.metric(
            "retrieval.ndcg_at_10", values.mean(),
            unit="ratio", n=len(values), ci95=c.interval(values),
        )  # fmt: skip
        c.run.metric(
            "retrieval.validation_ndcg_at_10", _validation_ndcg(c, encoder),
            unit="ratio", n=c.feed.n_users,
            how="the item before the test item; options are chosen on this one",
        )  # fmt: skip
        found = (retrieved == c.feed.test_items[:, None]).any(axis=1).astype(float)
        c.run.metric(
            "retrieval.recall_at_candidates", found.mean(),
            unit="ratio", n=len(found), ci95=c.interval(found),
            how=f"test item among the {c.config.candidates} candidates",
        )  # fmt: skip
        per_user = c.feed_ndcg(retrieved, measure.torch_score(teacher))
        np.save(folder / "teacher_ndcg.npy", per_user)
        c.record_ndcg("ranker.ndcg_at_10", per_user)
        predicted = measure.like_scores(teacher, c.feed, ranking_set(c.feed), c.config.max_length)
        _record_auc(c, "ranker.auc", predicted)
    _record_gains(c, values, predicted)


def distill(c: Context) -> None:
    """A student a tenth of the teacher's size, with the teacher's help (lab 5) and without."""
    source = c.workspace.need("train")
    with c.workspace.stage("distill", "train") as folder:
        alone = _job(c, "ranker", c.config.student_width, layers=STUDENT_LAYERS)
        alone |= {"epochs": c.config.student_epochs, "dropout": c.config.student_dropout}
        taught = alone | {
            "teacher": str(source / "teacher.safetensors"),
            "teacher_width": c.config.ranker_width,
            "teacher_layers": c.config.ranker_layers,
            "temperature": c.config.temperature,
            "alpha": c.config.alpha,
        }
        losses = _torchrun(c, folder, {"undistilled": alone, "student": taught})
        _loss_figure(c, losses)
        retrieved = np.load(source / "candidates.npy")
        teacher = c.ranker(source / "teacher.safetensors", "teacher")
        sizes = {"teacher": measure.parameters(teacher)}
        for name, metric in (
            ("undistilled", "student.undistilled_ndcg_at_10"),
            ("student", "student.ndcg_at_10"),
        ):
            model = c.ranker(folder / f"{name}.safetensors", "student")
            sizes[name] = measure.parameters(model)
            per_user = c.feed_ndcg(retrieved, measure.torch_score(model))
            c.record_ndcg(metric, per_user)
        reference = np.load(source / "teacher_ndcg.npy")
        ratio, interval = measure.ratio_of_means(
            per_user, reference, n_boot=c.config.n_boot, seed=c.run.seed
        )
        c.run.metric(
            "student.ndcg_retention", ratio, unit="ratio", n=len(per_user), ci95=interval,
            how="student's NDCG@10 over the teacher's; bootstrap of paired users",
        )  # fmt: skip
        c.run.metric("student.compression", sizes["teacher"] / sizes["student"], unit="ratio")


def export(c: Context) -> None:
    """ONNX, then INT8 (lab 4), each gated by parity with what it was made from."""
    import torch

    from labs.lab4_model_serving.export import export_onnx, parity, require_parity, run, session
    from labs.lab4_model_serving.quantization import quantize_int8

    trained, distilled = c.workspace.need("train"), c.workspace.need("distill")
    retrieved = np.load(trained / "candidates.npy")
    history, ratings = histories(c.feed.test_history, c.config.max_length)
    with c.workspace.stage("export", "train", "distill") as folder:
        encoder = EncodeUser(c.encoder(trained))
        example = {"history": torch.from_numpy(history[:4])}
        axes = {"history": {0: "batch"}}
        export_onnx(encoder, example, folder / "encoder.onnx", output_names=["query"], dynamic=axes)
        example |= {
            "ratings": torch.from_numpy(ratings[:4]),
            "candidates": torch.from_numpy(retrieved[:4]),
        }
        axes |= {"ratings": {0: "batch"}, "candidates": {0: "batch", 1: "candidates"}}
        names = ["p_engage", "p_like"]
        worst = 0.0
        for name, path in (
            ("teacher", trained / "teacher.safetensors"),
            ("student", distilled / "student.safetensors"),
        ):
            served = RankCandidates(c.ranker(path, name))
            target = folder / f"{name}.onnx"
            export_onnx(served, example, target, output_names=names, dynamic=axes)
            inputs = {
                "history": history[:64], "ratings": ratings[:64], "candidates": retrieved[:64]
            }  # fmt: skip
            with torch.no_grad():
                outputs = served(*(torch.from_numpy(value) for value in inputs.values()))
            reference = {key: value.numpy() for key, value in zip(names, outputs, strict=True)}
            difference = parity(reference, run(session(target), inputs))
            require_parity(difference, max_abs_error=1e-4)
            worst = max(worst, difference.max_abs_error)
        c.run.metric("export.max_abs_error", worst, unit="probability", n=64)
        int8 = quantize_int8(folder / "student.onnx", folder / "student.int8.onnx")
        ratio = (folder / "student.onnx").stat().st_size / int8.stat().st_size
        c.run.metric("int8.size_ratio", ratio, unit="ratio")
        score = measure.onnx_score(session(int8))
        c.record_ndcg("int8.ndcg_at_10", c.feed_ndcg(retrieved, score, batch=1))
        agreement = measure.top_agreement(
            score, measure.onnx_score(session(folder / "student.onnx")), history, ratings, retrieved
        )
        c.run.metric(
            "int8.top10_overlap", agreement.mean(),
            unit="ratio", n=len(agreement), ci95=c.interval(agreement),
        )  # fmt: skip
        c.run.metric(
            "int8.batch_dependence",
            measure.batch_dependence(score, history[:32], ratings[:32], retrieved[:32]),
            unit="probability", n=32,
            how="largest change seen of a score between batch sizes 1 and 32, over 32 users",
        )  # fmt: skip


def index(c: Context) -> None:
    """The item embeddings as a FAISS index (lab 2), versioned with the checkpoint."""
    from labs.lab2_vector_db.evaluation import exact_search, recall_at_k
    from labs.lab2_vector_db.index_building import build_index
    from labs.lab2_vector_db.index_types import Recipe
    from labs.lab2_vector_db.persistence import load_index, save_index
    from labs.lab2_vector_db.search import search

    trained = c.workspace.need("train")
    encoder = c.encoder(trained)
    vectors = encoder.items.weight.detach().numpy()[1:].astype(np.float32)
    ids = np.arange(1, c.feed.n_items + 1)
    version = bundle.sha256(trained / "encoder.safetensors")
    # At 1,682 items an exact scan takes microseconds: nothing approximate is worth its error.
    recipe = Recipe(metric="inner_product")
    with c.workspace.stage("index", "train") as folder:
        built = build_index(vectors, recipe, ids=ids, seed=c.run.seed)
        save_index(built, folder / "index", recipe=recipe, version=version)
        loaded, _ = load_index(folder / "index", expected_version=version)
        queries = measure.queries(encoder, c.feed.test_history, c.config.max_length)
        _, found = search(loaded, queries, 10)
        _, exact = exact_search(vectors, queries, 10, "inner_product")
        recall = recall_at_k(found, ids[exact])
        c.run.metric("index.recall_at_10", recall.mean(), unit="ratio", n=len(recall))
        c.run.metric("index.vectors", loaded.ntotal, unit="count")


def bundles(c: Context) -> None:
    """Champion (INT8 student) and reference (fp32 teacher), packed for TorchServe."""
    from capstone.serving import archive_rankers

    trained, exported = c.workspace.need("train"), c.workspace.need("export")
    indexed = c.workspace.need("index")
    with c.workspace.stage("bundle", "train", "export", "index") as folder:
        titles = ["", *c.feed.items["title"].tolist()]
        write_json(folder / "catalogue.json", titles)
        write_json(
            folder / "users.json",
            {
                str(user + 1): [sequence.items.tolist(), sequence.ratings.tolist()]
                for user, sequence in enumerate(c.feed.test_history)
            },
        )
        made = [
            bundle.assemble(
                folder / name,
                encoder=exported / "encoder.onnx",
                ranker=exported / ranker,
                index=indexed / "index",
                catalogue=folder / "catalogue.json",
                checkpoint=bundle.sha256(trained / "encoder.safetensors"),
                max_length=c.config.max_length,
                candidates=c.config.candidates,
                weights=VALUE,
            )
            for name, ranker in (("reference", "teacher.onnx"), ("champion", "student.int8.onnx"))
        ]
        archive_rankers(made, folder / "store")
        size = sum(path.stat().st_size for path in made[1].folder.rglob("*") if path.is_file())
        c.run.metric("bundle.size_mib", size / 2**20, unit="MiB")


def _record_auc(c: Context, name: str, predicted: np.ndarray) -> None:
    rows = ranking_set(c.feed)
    interval = measure.auc_interval(
        rows.liked, predicted, rows.user, n_boot=c.config.n_boot, seed=c.run.seed
    )
    c.run.metric(
        name, measure.auc(rows.liked, predicted),
        unit="ratio", n=len(predicted), ci95=interval,
        how="rating >= 4 on the two held-out interactions of each user; bootstrap of users",
    )  # fmt: skip


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
    targets = np.array([sequence.items[-2] for sequence in c.feed.sequences])
    masked = c.feed.matrix(c.feed.train) > 0
    masked[:, 0] = True
    return float(ndcg(ranks(scores, targets, masked)).mean())


def _job(c: Context, kind: training.Kind, width: int, layers: int | None = None) -> dict[str, Any]:
    retrieval = kind == "retrieval"
    automatic = "bf16" if c.run.device == "cuda" else "fp32"
    return {
        "kind": kind,
        "width": width,
        "layers": layers or (RETRIEVAL_LAYERS if retrieval else c.config.ranker_layers),
        "max_length": c.config.max_length,
        "epochs": c.config.retrieval_epochs if retrieval else c.config.ranker_epochs,
        "batch_size": c.config.batch_size,
        "learning_rate": c.config.learning_rate,
        "dropout": c.config.dropout,
        "strategy": c.config.strategy,
        "device": c.run.device,
        "precision": automatic if c.config.precision == "auto" else c.config.precision,
        "seed": c.run.seed,
    }


def _torchrun(
    c: Context, folder: Path, jobs: dict[str, dict[str, Any]]
) -> dict[str, figures.Losses]:
    """Train ``folder/<name>.safetensors`` for each job, all in one torchrun.

    Returns the loss at each step of each job.
    """
    paths = []
    for name, fields in jobs.items():
        job = training.Job(
            name=name,
            **fields,
            output=str(folder / f"{name}.safetensors"),
            checkpoints=str(c.run.work / f"{name}-checkpoints"),
        )
        paths.append(str(job.write(folder / f"{name}.job.json")))
    losses: dict[str, figures.Losses] = {name: [] for name in jobs}
    steps = {name: fields["epochs"] * c.steps_per_epoch for name, fields in jobs.items()}
    with c.run.progress_bar(f"training on {c.run.procs} ranks", sum(steps.values())) as bar:

        def on_line(line: str) -> None:
            if match := training.PROGRESS_LINE.fullmatch(line):
                name, done, loss = match.groups()
                losses[name].append((int(done), float(loss)))
                finished = sum(points[-1][0] for points in losses.values() if points)
                bar.update(finished, f"{name}: loss {loss}")

        torchrun(
            "capstone.training", paths,
            procs=c.run.procs, device=c.run.device, log=c.workspace.log("-".join(jobs)),
            on_line=on_line,
        )  # fmt: skip
    return losses


def _loss_figure(c: Context, losses: dict[str, figures.Losses]) -> None:
    names = " and ".join(losses)
    c.run.figure(
        "loss-" + "-".join(losses).replace(" ", "-"),
        figures.loss(losses),
        caption=f"Training loss of the {names} by step. The losses are not comparable.",
    )
