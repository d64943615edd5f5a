"""Lab 2: what an approximate search gives up, what it saves, and how you know."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from common.runner import Claim, Run, main
from labs.lab2_vector_db.config import SCALES, Config

if TYPE_CHECKING:
    import faiss
    import numpy as np
    from numpy.typing import NDArray

    from common.latency import LatencySummary
    from labs.lab2_vector_db.index_types import Recipe

DELIVERABLE_VECTORS = 10_000_000

CLAIMS = (
    Claim(
        "L2.latency",
        "p99 < 10 ms a query over 10M+ vectors",
        metric="search.p99_ms",
        op="<",
        target=10,
    ),
    Claim(
        "L2.recall",
        "recall@10 >= 0.9 of the reported search",
        metric="search.recall_at_10",
        op=">=",
        target=0.9,
    ),
)


@dataclass(frozen=True)
class Split:
    """Stored vectors, held-out queries, and the queries' true neighbours."""

    stored: NDArray[np.float32]
    queries: NDArray[np.float32]
    true_ids: NDArray[np.int64]


@dataclass(frozen=True)
class Point:
    """One search measured: a point of the recall/latency frontier."""

    nprobe: int | None
    recall: NDArray[np.float64]
    latency: LatencySummary


def story(run: Run, config: Config) -> None:
    """Hold out queries, find the truth, build, sweep, choose, save."""
    from labs.lab2_vector_db.index_types import IVFPQ, Flat

    with run.stage("Hold out queries and find their exact neighbours", key="truth"):
        split = hold_out(run, config)
    coded = IVFPQ(
        config.n_lists,
        config.pq_segments,
        config.pq_bits,
        nprobe=config.nprobe,
        k_factor=config.k_factor,
    )
    recipes: dict[str, Recipe] = {
        "flat": Flat(),
        "ivfpq": coded,
        "ivfpq_sq8": replace(coded, refine="sq8"),
        "ivfpq_flat": replace(coded, refine="flat"),
    }
    chosen = {"none": "ivfpq", "sq8": "ivfpq_sq8", "flat": "ivfpq_flat"}[config.refine]
    with run.stage("Build the indexes and weigh them", key="build"):
        indexes = {name: build(run, name, recipe, split) for name, recipe in recipes.items()}
    with run.stage("Sweep nprobe: recall against latency", key="sweep"):
        frontier = {name: sweep(run, index, split, config) for name, index in indexes.items()}
        draw(run, frontier, config)
    with run.stage("The reported search", key="search"):
        report(run, frontier, chosen, split, config)
    with run.stage("Save the index, load it, refuse another version", key="persist"):
        persist(run, indexes[chosen], recipes[chosen], split, config)


def hold_out(run: Run, config: Config) -> Split:
    """Normalise the word vectors (cosine), keep some out as queries, search them exactly."""
    import numpy as np

    from common.data import load
    from labs.lab2_vector_db.evaluation import exact_search
    from labs.lab2_vector_db.index_types import normalize

    words = load("word-vectors")
    run.data(words)
    vectors = normalize(words.array("vectors"))
    order = np.random.default_rng(run.seed).permutation(len(vectors))
    queries, stored = vectors[order[: config.queries]], vectors[order[config.queries :]]
    _, true_ids = exact_search(stored, queries, config.k)
    run.metric("index.n_vectors", len(stored), unit="vectors")
    run.metric("index.dimension", stored.shape[1], unit="components")
    return Split(stored, queries, true_ids)


def build(run: Run, name: str, recipe: Recipe, split: Split) -> faiss.Index:
    """Build one index and compare its size with what the recipe predicts."""
    import time

    from labs.lab2_vector_db.evaluation import bytes_per_vector
    from labs.lab2_vector_db.index_types import build_index

    n, dimension = split.stored.shape
    start = time.perf_counter()
    index = build_index(split.stored, recipe, seed=run.seed)
    run.metric(f"{name}.build_s", time.perf_counter() - start, unit="s", n=n)
    run.metric(
        f"{name}.bytes_per_vector",
        bytes_per_vector(index),
        unit="bytes",
        n=n,
        how="size of the written index / vectors",
    )
    run.metric(
        f"{name}.predicted_bytes_per_vector",
        recipe.bytes_per_vector(dimension, n_vectors=n),
        unit="bytes",
        how=f"formula of {recipe.factory}, with its share of centroids and codebooks",
    )
    return index


def sweep(run: Run, index: faiss.Index, split: Split, config: Config) -> list[Point]:
    """Measure the index at nprobe 1, 2, 4, ... and at the reported one; a flat one once."""
    from labs.lab2_vector_db.evaluation import measure_latency, recall_at_k
    from labs.lab2_vector_db.search import search, unwrap

    _, ivf = unwrap(index)
    settings: list[int | None] = [None]
    if ivf is not None:
        powers = {2**i for i in range(config.n_lists.bit_length()) if 2**i <= config.n_lists}
        settings = [*sorted(powers | {config.nprobe})]
    points = []
    for nprobe in run.progress(settings, "nprobe"):
        _, found = search(index, split.queries, config.k, nprobe=nprobe)
        recall = recall_at_k(found, split.true_ids)
        latency = measure_latency(index, split.queries, config.k, nprobe=nprobe)
        points.append(Point(nprobe, recall, latency))
    return points


def at(points: list[Point], nprobe: int) -> Point:
    """The point measured at this nprobe; a flat index has only one."""
    return next(point for point in points if point.nprobe in (None, nprobe))


def draw(run: Run, frontier: dict[str, list[Point]], config: Config) -> None:
    """The frontier: up and to the left is better; each line is one index, each point an nprobe."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullLocator

    labels = {
        "flat": "Flat (exact)",
        "ivfpq": "IVF-PQ",
        "ivfpq_sq8": "IVF-PQ, refined with SQ8",
        "ivfpq_flat": "IVF-PQ, refined with exact vectors",
    }
    figure = Figure(figsize=(7, 4.5))
    axes = figure.subplots()
    for name, points in frontier.items():
        p50 = [point.latency.p50_ms for point in points]
        axes.plot(p50, [point.recall.mean() for point in points], "o-", label=labels[name])
        if name == "ivfpq_sq8":
            for point, x in zip(points, p50):
                axes.annotate(
                    f"{point.nprobe}", (x, point.recall.mean()), xytext=(4, -12),
                    textcoords="offset points", fontsize=8,
                )  # fmt: skip
    axes.axhline(0.9, color="grey", linewidth=1, linestyle=":")
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("p50 latency (ms), one query at a time, one thread")
    axes.set_ylabel(f"recall@{config.k}")
    axes.legend()
    run.figure(
        "frontier",
        figure,
        caption=f"Recall@{config.k} against latency for nprobe 1 to {config.n_lists} (numbers: "
        f"nprobe). Without refinement recall stops rising: the codes cannot order the candidates.",
    )


def report(
    run: Run, frontier: dict[str, list[Point]], chosen: str, split: Split, config: Config
) -> None:
    """Write down each index at the reported nprobe, and the chosen one as `search`."""
    from common.statistics import bootstrap_ci

    for area, name in [*((name, name) for name in frontier), ("search", chosen)]:
        point = at(frontier[name], config.nprobe)
        run.metric(
            f"{area}.recall_at_{config.k}",
            point.recall.mean(),
            unit="ratio",
            n=len(point.recall),
            ci95=bootstrap_ci(point.recall, seed=run.seed),
            how=f"held-out queries against exact neighbours, nprobe {point.nprobe}",
        )
        run.latency(area, point.latency)
    flat, search = (at(frontier[name], config.nprobe) for name in ("flat", chosen))
    run.metric(
        "search.speedup_over_flat",
        flat.latency.p50_ms / search.latency.p50_ms,
        unit="ratio",
        n=search.latency.n,
        how="p50 of the flat index / p50 of the reported search, same run",
    )
    if len(split.stored) < DELIVERABLE_VECTORS:
        run.unmeasured(
            "L2.latency",
            f"the index of this run holds {len(split.stored):,} vectors; the claim is about "
            f"{DELIVERABLE_VECTORS:,} or more",
        )
    if config.k != 10:
        run.unmeasured("L2.recall", f"this run measured recall@{config.k}, the claim is recall@10")


def persist(run: Run, index: faiss.Index, recipe: Recipe, split: Split, config: Config) -> None:
    """Save the index with the version of its vectors; the copy must answer the same."""
    import numpy as np

    from common.errors import InputError
    from labs.lab2_vector_db.persistence import load_index, save_index
    from labs.lab2_vector_db.search import search

    manifest = save_index(index, run.work / "index", recipe=recipe, version="word2vec-news")
    copy, _ = load_index(run.work / "index", expected_version="word2vec-news")
    _, before = search(index, split.queries, config.k)
    _, after = search(copy, split.queries, config.k)
    run.metric(
        "index.same_after_reload",
        float(np.mean(before == after)),
        unit="ratio",
        n=before.size,
        how="ids equal, position by position",
    )
    run.metric("index.file_bytes", manifest.size, unit="bytes")
    try:
        load_index(run.work / "index", expected_version="another-model")
    except InputError as error:
        run.note(f"An index of another version is refused: {str(error).split(': ', 1)[1]}")


if __name__ == "__main__":
    main(
        "lab2_vector_db",
        SCALES,
        story,
        title="Lab 2: vector databases and similarity search",
        claims=CLAIMS,
        reading=(
            "Jégou, Douze, Schmid: Product Quantization for Nearest Neighbor Search (2011), "
            "https://inria.hal.science/inria-00514462",
            "The faiss wiki, https://github.com/facebookresearch/faiss/wiki",
            "Douze et al.: The Faiss library (2024), https://arxiv.org/abs/2401.08281",
        ),
    )
