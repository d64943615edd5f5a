"""What the run writes down of each stage: metrics with n and intervals, figures, sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from common.data.fetch import cache_folder
from common.runner import Run
from common.statistics import bootstrap_ci
from labs.lab2_vector_db.config import Config

if TYPE_CHECKING:
    import faiss
    from matplotlib.figure import Figure

    from labs.lab2_vector_db.collection_stats import CollectionStats
    from labs.lab2_vector_db.comparison import Kind
    from labs.lab2_vector_db.cost_model import QueryCost
    from labs.lab2_vector_db.crash_test import CrashReport
    from labs.lab2_vector_db.generated import Fit, Hardness
    from labs.lab2_vector_db.gpu import GpuPoint
    from labs.lab2_vector_db.hnsw import EfScore
    from labs.lab2_vector_db.hybrid_evaluation import HybridReport
    from labs.lab2_vector_db.index_types import Recipe
    from labs.lab2_vector_db.inverted_file import ProbeScore
    from labs.lab2_vector_db.measuring import Filtered, Measured, Sharded, Written
    from labs.lab2_vector_db.product_quantization import CodeScore
    from labs.lab2_vector_db.readiness import Readiness
    from labs.lab2_vector_db.runbook import RunbookReport
    from labs.lab2_vector_db.tuner import Tuned


def slug(name: str) -> str:
    """A name as part of a metric's name: ``"IVF, SQ8"`` is ``ivf_sq8``."""
    return "_".join("".join(c if c.isalnum() else " " for c in name.lower()).split())


def working_folder(run: Run, config: Config, fingerprint: str) -> Path:
    """Where the large data go: into the cache, for a run that goes on, or the run's own folder."""
    folder = cache_folder() / "lab2" if config.cache else run.work
    return folder / fingerprint


def data(run: Run, fit: Fit, kept: float, words: int) -> None:
    """The real vectors, and how like them the generated ones are."""
    run.metric("words.n", words, unit="vectors")
    run.metric(
        "embeddings.kept_variance", kept, unit="ratio",
        how="share of the variance of the 384 components that the projection keeps",
    )  # fmt: skip
    for name, found in (("real", fit.real), ("generated", fit.generated)):
        run.metric(
            f"{name}.local_dimension", found.local_dimension, unit="components", n=found.n,
            how="maximum likelihood from 20 neighbours, median over 500 queries",
        )  # fmt: skip
        run.metric(
            f"{name}.contrast", found.contrast, unit="ratio", n=found.n,
            how="mean distance to all points / mean distance to the nearest",
        )  # fmt: skip
    run.note(
        f"The large index holds synthetic vectors: a mixture of {fit.components} Gaussians of rank "
        f"{fit.rank}, fitted to MiniLM embeddings of docstrings. At {fit.real.n:,} points the real "
        f"ones have local intrinsic dimension {fit.real.local_dimension:.1f} and contrast "
        f"{fit.real.contrast:.2f}, the generated ones {fit.generated.local_dimension:.1f} and "
        f"{fit.generated.contrast:.2f}."
    )


def index_types(run: Run, compared: Sequence[Kind], k: int) -> None:
    """Size, build time and best setting of each kind, and the frontier."""
    from labs.lab2_vector_db.frontier import best_in_buckets, draw, p50

    points = [point for kind in compared for point in kind.points]
    for kind in compared:
        name, n = slug(kind.name), kind.points[0].n_vectors
        run.metric(f"{name}.build_s", kind.build_s, unit="s", n=n)
        run.metric(
            f"{name}.bytes_per_vector", kind.measured_bytes, unit="bytes", n=n,
            how="size of the written index / vectors",
        )  # fmt: skip
        run.metric(
            f"{name}.predicted_bytes_per_vector", kind.predicted_bytes, unit="bytes",
            how=f"formula of {kind.recipe.factory}",
        )  # fmt: skip
    worst = max(compared, key=lambda kind: kind.error)
    run.metric(
        "index_types.largest_error", worst.error, unit="ratio", n=len(compared),
        how=f"|predicted / measured bytes - 1|; the largest is that of {worst.name}",
    )  # fmt: skip
    (bucket,) = best_in_buckets(points, buckets=(0.95,), key=lambda point: -p50(point))
    for point in bucket.best:
        run.metric(
            f"{slug(point.name)}.p50_ms_at_recall_95", p50(point), unit="ms", n=point.latency.n,
            how=f"fastest setting with recall@{k} >= 0.95: {dict(point.settings)}, "
            f"{point.recall:.3f}",
        )  # fmt: skip
    for missing, recall in bucket.missing.items():
        run.metric(
            f"{slug(missing)}.p50_ms_at_recall_95", None, unit="ms",
            reason=f"no setting reaches recall@{k} 0.95; the best is {recall:.3f}",
        )  # fmt: skip
    run.figure(
        "frontier",
        draw(points, title=f"{points[0].n_vectors:,} word vectors of 300 components"),
        caption=f"Recall@{k} against latency (up and to the left is better), and bytes a vector. "
        "A curve ends where more effort no longer helps: a code without refinement cannot order "
        "what it found.",
    )


def by_hand(
    run: Run, codes: Sequence[CodeScore], lists: Sequence[ProbeScore], graph: Sequence[EfScore]
) -> None:
    """What each code keeps, and that our lists and graph find what faiss's do."""
    for code in codes:
        run.metric(
            f"by_hand.{slug(code.name)}.recall_at_10", code.recall_at_10, unit="ratio",
            how=f"codes alone, every vector compared; {code.bytes_per_vector:g} bytes each",
        )  # fmt: skip
    run.metric(
        "by_hand.ivf_same_as_faiss", min(each.same_as_faiss for each in lists), unit="ratio",
        n=len(lists), how="ids equal, position by position, at the worst nprobe",
    )  # fmt: skip
    gap = max(abs(each.recall_at_10 - each.faiss_recall_at_10) for each in graph)
    run.metric(
        "by_hand.hnsw_recall_gap", gap, unit="ratio", n=len(graph),
        how="largest difference of recall@10 from faiss's graph over the ef tried",
    )  # fmt: skip


def generated(run: Run, found: Hardness, n: int) -> None:
    """The large data set: how many, and how hard at its own density."""
    run.metric("index.n", n, unit="vectors")
    run.metric("large.local_dimension", found.local_dimension, unit="components", n=found.n)
    run.metric("large.contrast", found.contrast, unit="ratio", n=found.n)


def built(run: Run, index: faiss.Index, recipe: Recipe, seconds: float, *, resumed: bool) -> None:
    """Size of the large index beside its prediction, and the time it took."""
    from labs.lab2_vector_db.evaluation import bytes_per_vector

    n = index.ntotal
    if resumed:
        run.metric(
            "index.build_s", None, unit="s",
            reason="this run went on with a build that another one had begun",
        )  # fmt: skip
    else:
        run.metric("index.build_s", seconds, unit="s", n=n, how="training, adding, writing")
    run.metric(
        "index.bytes_per_vector", bytes_per_vector(index), unit="bytes", n=n,
        how="size of the written index / vectors: codes, refinement, ids, centroids",
    )  # fmt: skip
    run.metric(
        "index.predicted_bytes_per_vector", recipe.bytes_per_vector(index.d, n_vectors=n),
        unit="bytes", how=f"formula of {recipe.factory}",
    )  # fmt: skip


def tuned(run: Run, found: Tuned) -> None:
    """How the setting was found."""
    run.metric("search.settings_tried", len(found.trials), unit="count")
    run.note(f"The tuner: {found.reason}. Recall in this report is of queries it did not see.")


def search(run: Run, config: Config, found: Measured, settings: Mapping[str, Any]) -> None:
    """The reported search: recall with its interval, serial latency, two views of throughput."""
    words = ", ".join(f"{name} {value:g}" for name, value in settings.items())
    run.metric(
        f"search.recall_at_{config.k}", found.recall.mean(), unit="ratio", n=len(found.recall),
        ci95=bootstrap_ci(found.recall, seed=run.seed),
        how=f"queries that did not choose the setting, exact neighbours; {words}",
    )  # fmt: skip
    run.latency("search", found.latency)
    run.metric(
        "search.qps_1_thread", found.qps, unit="queries/s", n=found.latency.n,
        how="1 / mean of the serial latencies",
    )  # fmt: skip
    for name, value in settings.items():
        run.metric(f"search.{name}", float(value), unit="count" if name == "nprobe" else "ratio")
    closed, opened = found.closed, found.open
    run.metric(
        "search.closed_loop_qps", closed.qps, unit="queries/s", n=closed.n, how=closed.latency.how
    )
    if opened.best is None:
        run.metric(
            "search.open_loop_qps", None, unit="queries/s",
            reason=f"no rate tried had a p99 below {opened.p99_ms:g} ms",
        )  # fmt: skip
    else:
        run.metric(
            "search.open_loop_qps", opened.qps, unit="queries/s", n=opened.best.n,
            how=f"highest rate with p99 < {opened.p99_ms:g} ms; {opened.best.latency.how}",
        )  # fmt: skip


def cost(run: Run, found: Measured, expected: QueryCost, bytes_per_s: float) -> None:
    """What a query should read, and how far its time is from reading alone."""
    run.metric(
        "search.codes_scored", expected.codes, unit="codes",
        how="formula: n nprobe / n_lists, times the imbalance of the lists",
    )  # fmt: skip
    run.metric("search.bytes_read", expected.bytes_read, unit="bytes", how="formula, a query")
    run.metric(
        "memory.read_gb_per_s", bytes_per_s / 1e9, unit="GB/s",
        how="one thread, sum over 256 MiB, best of 5",
    )  # fmt: skip
    bound = expected.bytes_read / bytes_per_s * 1000
    run.metric(
        "search.memory_bound_ms", bound, unit="ms", how="bytes read / bandwidth: a lower bound"
    )
    run.metric(
        "search.times_memory_bound", found.latency.p50_ms / bound, unit="ratio",
        n=found.latency.n, how="measured p50 / that bound",
    )  # fmt: skip


def gpu(run: Run, points: Sequence[GpuPoint]) -> None:
    """Recall, latency and throughput on the GPU at each nprobe."""
    for point in points:
        area, n = f"gpu.nprobe_{point.nprobe}", point.latency.n
        run.metric(f"{area}.recall_at_10", point.recall.mean(), unit="ratio", n=n, how=point.recipe)
        run.metric(f"{area}.p50_ms", point.latency.p50_ms, unit="ms", n=n, how=point.latency.how)
        run.metric(f"{area}.p99_ms", point.latency.p99_ms, unit="ms", n=n, how=point.latency.how)
        run.metric(
            f"{area}.qps_batch_1000", point.qps_1000, unit="queries/s", how="1,000 queries a call"
        )
    run.metric("gpu.build_s", points[0].build_s, unit="s", how=points[0].recipe)


def written(run: Run, found: Written, stats: CollectionStats) -> None:
    """How fast writes became durable."""
    run.metric(
        "collection.upserts_per_s", found.rows_per_s, unit="rows/s", n=found.rows,
        how=f"{found.batch.how}; flushes into segments included",
    )  # fmt: skip
    run.latency("collection.batch", found.batch)
    run.metric("collection.rows", stats.n_rows, unit="rows")


def filters(run: Run, swept: Sequence[Filtered]) -> None:
    """Recall and latency at each selectivity."""
    for found in swept:
        area = f"filter_{found.selectivity * 100:g}pct".replace(".", "_")
        run.metric(
            f"{area}.recall_at_10", found.recall.mean(), unit="ratio", n=len(found.recall),
            ci95=bootstrap_ci(found.recall, seed=run.seed),
            how=f"{found.n_matching:,} rows match; exact neighbours among them",
        )  # fmt: skip
        run.metric(f"{area}.p50_ms", found.latency.p50_ms, unit="ms", n=found.latency.n)
    worst = min(swept, key=lambda found: float(found.recall.mean()))
    run.metric(
        "filter.least_recall", worst.recall.mean(), unit="ratio", n=len(swept),
        how=f"the lowest of the selectivities, at {worst.selectivity:.3%}",
    )  # fmt: skip
    run.figure("filters", _draw_filters(swept), caption=(
        "The same search under a filter that fewer and fewer rows pass. Few matching rows are "
        "compared one by one, which is exact and fast; in between the index visits more lists."
    ))  # fmt: skip


def _draw_filters(swept: Sequence[Filtered]) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.4), layout="constrained")
    recall, latency = figure.subplots(1, 2)
    shares = [found.selectivity * 100 for found in swept]
    recall.plot(shares, [found.recall.mean() for found in swept], "o-")
    recall.set_ylim(min(0.9, *(found.recall.mean() for found in swept)) - 0.01, 1.005)
    recall.axhline(0.95, color="0.7", ls=":", lw=1)
    recall.set_ylabel("recall@10")
    latency.plot(shares, [found.latency.p50_ms for found in swept], "o-", label="p50")
    latency.plot(shares, [found.latency.p99_ms for found in swept], "o--", label="p99")
    latency.set_ylabel("latency, one thread (ms)")
    latency.set_ylim(0)
    latency.legend(frameon=False)
    for axes in (recall, latency):
        axes.set_xscale("log")
        axes.set_xticks(shares, [f"{share:g} %" for share in shares])
        axes.minorticks_off()
        axes.set_xlabel("rows that pass the filter")
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def crash(run: Run, found: CrashReport) -> None:
    """What the kills did, and what was found afterwards."""
    findings = found.lost + found.phantom + found.mismatches
    run.metric(
        "crash.findings", findings, unit="count", n=found.kills,
        how=f"{found.acknowledged:,} acknowledged operations, {found.kills} kills, "
        f"{found.power_cuts} of them with all unsynced bytes lost; after each the reopened "
        "collection is compared with a model in plain Python",
    )  # fmt: skip
    run.metric("crash.kills", found.kills, unit="count")
    run.metric("crash.acknowledged", found.acknowledged, unit="count")
    run.metric("crash.lost", found.lost, unit="count", n=found.acknowledged)
    run.metric("crash.phantom", found.phantom, unit="count", n=found.acknowledged)
    run.metric("crash.mismatches", found.mismatches, unit="count", n=found.kills)
    for name in ("done", "absent"):
        run.metric(
            f"crash.in_flight_{name}", getattr(found, f"in_flight_{name}"), unit="count",
            how="operations that were not acknowledged: the kills fell on both sides",
        )  # fmt: skip
    run.metric("crash.reopen_p50_ms", found.reopen_p50_s * 1000, unit="ms", n=found.kills)
    during = ", ".join(f"{what} {n}" for what, n in sorted(found.killed_during.items()))
    run.note(f"Killed during: {during}.")
    if found.first_finding:
        run.note(f"Found after a kill: {found.first_finding}")


def updates(run: Run, reports: Sequence[RunbookReport], ready: Readiness) -> None:
    """Recall at every checkpoint of the runbook, and how long a write takes to be found."""
    for found in reports:
        name = {False: "never", "auto": "on_drift", True: "always"}[found.retrain]
        run.metric(
            f"updates.recall_trained_{name}", found.recall_last, unit="ratio",
            n=len(found.checkpoints),
            how=f"at the last checkpoint; the least of all is {found.recall_least:.3f}; "
            f"{found.n_inserted:,} inserted, {found.n_deleted:,} deleted, "
            f"{found.n_replaced:,} replaced",
        )  # fmt: skip
    run.figure("updates", _draw_updates(reports), caption=(
        "A runbook whose clusters arrive one after the other. Centroids trained on the first ones "
        "serve the later ones badly: recall falls, or the few lists that all new rows crowd into "
        "have to be read whole. Training again where drift is found repairs it."
    ))  # fmt: skip
    for name in ("acknowledged", "searchable", "searchable_by_reader", "indexed"):
        summary = getattr(ready, name)
        run.metric(f"ready.{name}_p50_ms", summary.p50_ms, unit="ms", n=summary.n, how=summary.how)


def _draw_updates(reports: Sequence[RunbookReport]) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3.4), layout="constrained")
    panels = figure.subplots(1, 3)
    styles = {False: ("never trained again", "o-"), "auto": ("trained again on drift", "s--"),
              True: ("at every compaction", "^:")}  # fmt: skip
    shown = {"recall": f"recall@{reports[0].k}", "recall_of_new": "recall of the newest",
             "codes_read": "codes read a query"}  # fmt: skip
    for axes, (name, label) in zip(panels, shown.items()):
        for found in reports:
            text, style = styles[found.retrain]
            live = [checkpoint.n_live for checkpoint in found.checkpoints]
            axes.plot(live, [getattr(each, name) for each in found.checkpoints], style, label=text)
        axes.set_xlabel("vectors alive")
        axes.set_ylabel(label)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].legend(frameon=False)
    return figure


def hybrid(run: Run, found: HybridReport) -> None:
    """nDCG and MRR of each system, and what fusion adds to the better one of its parts."""
    names = ("bm25", "dense", "rrf", "rrf, chosen", "weighted scores")
    for name in names:
        score = found.score(name)
        for metric in ("ndcg_at_10", "mrr_at_10"):
            each = getattr(score, metric)
            run.metric(
                f"hybrid.{slug(name)}.{metric}", each.value, unit="ratio", n=score.n_queries,
                ci95=(each.low, each.high), how=score.setting,
            )  # fmt: skip
    chosen = found.hybrid
    assert chosen.gain is not None
    run.metric(
        "hybrid.gain", chosen.gain.value, unit="ratio", n=chosen.n_queries,
        ci95=(chosen.gain.low, chosen.gain.high),
        how=f"nDCG@10 of {chosen.system} less that of {chosen.over}, query by query",
    )  # fmt: skip
    run.metric("hybrid.gain_low", chosen.gain.low, unit="ratio", n=chosen.n_queries)
    rows = [found.score(name) for name in names]
    run.figure("hybrid", _draw_hybrid(rows), caption=(
        f"nDCG@10 over {chosen.n_queries:,} known-item queries with 95 % intervals; the query's "
        "text was taken out of the document it looks for."
    ))  # fmt: skip
    left_out = ", ".join(f"{reason}: {n:,}" for reason, n in found.dropped.items())
    run.note(f"Left out of the hybrid evaluation: {left_out}.")


def _draw_hybrid(rows: Sequence[Any]) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 2.8), layout="constrained")
    axes = figure.subplots()
    places = np.arange(len(rows))[::-1]
    for place, row in zip(places, rows):
        value = row.ndcg_at_10
        spread = [[value.value - value.low], [value.high - value.value]]
        colour = "#0072B2" if row.gain is not None else "0.5"
        axes.errorbar(value.value, place, xerr=spread, fmt="o", color=colour, capsize=3)
    axes.set_yticks(places, [row.system for row in rows])
    axes.set_xlabel("nDCG@10")
    axes.set_ylim(-0.6, len(rows) - 0.4)
    axes.grid(axis="x", color="0.9")
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def shards(run: Run, found: Sharded) -> None:
    """Recall of all shards, of those left after a loss, and after the repair."""
    n = len(found.whole)
    run.metric("shards.n", found.n_shards, unit="count")
    run.metric("shards.build_s", found.build_s, unit="s", how="the slowest shard")
    run.metric("shards.recall_at_10", found.whole.mean(), unit="ratio", n=n)
    run.metric(
        "shards.recall_with_one_lost", found.partial.mean(), unit="ratio", n=n,
        how=f"answered by shards {list(found.answered)}, missing {list(found.missing)}: the answer "
        "says so",
    )  # fmt: skip
    run.metric("shards.recall_repaired", found.repaired.mean(), unit="ratio", n=n)
    run.metric(
        "shards.merged_equals_shards", found.merged_equal, unit="ratio", n=n,
        how="ids of one index merged from the shards and of the shards together, by position",
    )  # fmt: skip
