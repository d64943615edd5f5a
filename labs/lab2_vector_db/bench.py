"""The collection against HNSW of faiss, hnswlib and usearch: one run, one machine, one truth.

``make bench-lab2``. Every system answers the same queries over the same vectors, one query at a
time on one thread. Speed is compared only between settings that reach the same recall, and
throughput is divided by memory: a server is full when its memory is, so queries a second for each
gigabyte say how many servers a load takes.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.errors import require
from common.runner import Claim, Run, main
from labs.lab2_vector_db.config import SCALES, Config

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from labs.lab2_vector_db.frontier import Point

    Vectors = NDArray[np.float32]
    Answer = Callable[[Vectors], NDArray[np.int64]]

BUCKETS = (0.90, 0.95, 0.99)
OURS = ("collection, RaBitQ 5", "collection, SQ8", "collection, fp16", "collection, exact")
LINKS, EF_CONSTRUCTION = 16, 100
EF_SEARCH = (10, 16, 24, 32, 48, 64, 96, 128, 192, 256, 400)
NPROBES = (2, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128)
K_FACTORS = (2.0, 4.0, 8.0)

CLAIMS = tuple(
    Claim(
        f"L2.bench_{round(bucket * 100)}",
        f"at recall@10 >= {bucket}: queries a second for each GB, ahead of every graph",
        metric=f"bench.lead_at_{round(bucket * 100)}",
        op=">",
        target=1,
    )
    for bucket in BUCKETS
)


@dataclass(frozen=True)
class Bench(Config):
    """The lab's options, and which systems take part."""

    systems: tuple[str, ...] = ()
    """Names of systems, such as "collection, SQ8" or "faiss HNSW"; none means all."""

    def __post_init__(self) -> None:
        super().__post_init__()
        known = list(builders(self))
        for name in self.systems:
            require(name in known, "systems", name, f"must be of {known}")


@dataclass(frozen=True)
class System:
    """A built system: what it holds in memory, and how it answers at one setting."""

    n_bytes: float
    build_s: float
    settings: tuple[Mapping[str, float], ...]
    answer: Callable[..., Any]


def story(run: Run, config: Bench) -> None:
    """Generate the vectors, build each system in turn, sweep its settings, compare in buckets."""
    from labs.lab2_vector_db.__main__ import generate, real_vectors

    with run.stage("Generate the vectors and find the truth", key="truth"):
        large = generate(run, config, real_vectors(run, config))
    points: list[Point] = []
    for name, build in builders(config).items():
        if config.systems and name not in config.systems:
            continue
        with run.stage(f"Build and sweep: {name}", key=name):
            points += measure(run, name, build, large.vectors, large.queries, large.true_ids)
    with run.stage("Compare within buckets of recall", key="compare"):
        compare(run, points)


def builders(config: Config) -> dict[str, Any]:
    """Each system as a context manager from vectors to :class:`System`."""
    n_lists = config.n_lists
    return {
        OURS[0]: lambda vectors: collection(vectors, "rabitq", n_lists),
        OURS[1]: lambda vectors: collection(vectors, "sq8", n_lists),
        OURS[2]: lambda vectors: collection(vectors, "fp16", n_lists),
        OURS[3]: lambda vectors: collection(vectors, "exact", n_lists),
        "faiss HNSW": lambda vectors: faiss_graph(vectors, "exact"),
        "faiss HNSW, SQ8": lambda vectors: faiss_graph(vectors, "sq8"),
        "faiss HNSW, fp16": lambda vectors: faiss_graph(vectors, "fp16"),
        "hnswlib": hnswlib_graph,
        "usearch": lambda vectors: usearch_graph(vectors, "f32"),
        "usearch, fp16": lambda vectors: usearch_graph(vectors, "f16"),
        "usearch, int8": lambda vectors: usearch_graph(vectors, "i8"),
    }


def _code(name: str) -> Any:
    from labs.lab2_vector_db.index_types import SQ, Exact

    return {"exact": Exact(), "fp16": SQ(16), "sq8": SQ(8)}[name]


@contextmanager
def collection(vectors: Vectors, kind: str, n_lists: int) -> Iterator[System]:
    """The lab's own: bulk load, and everything it keeps in memory counted.

    4-bit codes ordered again by what ``kind`` says, or RaBitQ of 5 bits alone: a third less
    memory, and enough for the lower buckets.
    """
    from labs.lab2_vector_db.collection import Collection, Schema
    from labs.lab2_vector_db.comparison import compact_recipe, precise_recipe
    from labs.lab2_vector_db.index_types import RaBitQ

    dimension = vectors.shape[1]
    if kind == "rabitq":
        recipe = replace(precise_recipe(dimension, n_lists), code=RaBitQ(5))
    else:
        recipe = replace(compact_recipe(dimension, n_lists), refine=_code(kind))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "collection"
        with Collection.create(path, Schema(dimension, "l2", recipe=recipe)) as stored:
            start = time.perf_counter()
            stored.bulk_load(vectors)
            took = time.perf_counter() - start

            def answer(queries: Vectors, k: int, **settings: float) -> NDArray[np.int64]:
                return stored.search(queries, k, **settings).ids  # type: ignore[arg-type]

            sweep = tuple(
                {"nprobe": nprobe} | ({"k_factor": k_factor} if recipe.refine else {})
                for k_factor in (K_FACTORS if recipe.refine else (1.0,))
                for nprobe in NPROBES
                if nprobe <= n_lists
            )
            yield System(stored.stats().memory_bytes, took, sweep, answer)


@contextmanager
def faiss_graph(vectors: Vectors, code: str) -> Iterator[System]:
    """faiss's own HNSW over exact vectors or scalars."""
    from labs.lab2_vector_db.evaluation import bytes_per_vector
    from labs.lab2_vector_db.index_building import build_index
    from labs.lab2_vector_db.index_types import HNSW, Recipe
    from labs.lab2_vector_db.search import search

    structure = HNSW(LINKS, ef_construction=EF_CONSTRUCTION)
    start = time.perf_counter()
    index = build_index(vectors, Recipe(structure, _code(code), metric="l2"))
    took = time.perf_counter() - start

    def answer(queries: Vectors, k: int, *, ef_search: float) -> NDArray[np.int64]:
        return search(index, queries, k, ef_search=int(ef_search))[1]

    yield System(bytes_per_vector(index) * len(vectors), took, _widths(), answer)


@contextmanager
def hnswlib_graph(vectors: Vectors) -> Iterator[System]:
    """The library of the paper's authors."""
    import hnswlib

    index = hnswlib.Index(space="l2", dim=vectors.shape[1])
    index.init_index(len(vectors), M=LINKS, ef_construction=EF_CONSTRUCTION, random_seed=0)
    start = time.perf_counter()
    index.add_items(vectors)
    took = time.perf_counter() - start

    def answer(queries: Vectors, k: int, *, ef_search: float) -> NDArray[np.int64]:
        index.set_ef(int(ef_search))
        return index.knn_query(queries, k, num_threads=1)[0].astype("int64")

    yield System(index.index_file_size(), took, _widths(), answer)


@contextmanager
def usearch_graph(vectors: Vectors, dtype: str) -> Iterator[System]:
    """usearch, whose vectors may be stored in fewer bits."""
    import numpy as np
    from usearch.index import Index

    index = Index(
        ndim=vectors.shape[1], metric="l2sq", dtype=dtype, connectivity=LINKS,
        expansion_add=EF_CONSTRUCTION,
    )  # fmt: skip
    start = time.perf_counter()
    index.add(np.arange(len(vectors)), vectors)
    took = time.perf_counter() - start

    def answer(queries: Vectors, k: int, *, ef_search: float) -> NDArray[np.int64]:
        index.expansion_search = int(ef_search)  # type: ignore[misc]
        found = index.search(queries, k, threads=1)
        return np.asarray(found.keys, np.int64).reshape(len(queries), -1)

    yield System(float(index.serialized_length), took, _widths(), answer)


def _widths() -> tuple[Mapping[str, float], ...]:
    return tuple({"ef_search": width} for width in EF_SEARCH)


def measure(
    run: Run, name: str, build: Any, vectors: Vectors, queries: Vectors, true_ids: Any
) -> list[Point]:
    """Build one system and measure each of its settings; a missing package is said, not hidden."""
    from labs.lab2_vector_db.evaluation import one_thread
    from labs.lab2_vector_db.frontier import measure as measure_point
    from labs.lab2_vector_db.report import slug

    package = name.split()[0].rstrip(",")
    if package in ("hnswlib", "usearch") and find_spec(package) is None:
        reason = f"{package} is not installed (requirements/bench.txt; it needs a C++ compiler)"
        run.metric(f"{slug(name)}.build_s", None, unit="s", reason=reason)
        return []
    k, n = true_ids.shape[1], len(vectors)
    points = []
    with build(vectors) as system, one_thread():
        for settings in run.progress(system.settings, name):
            point = measure_point(
                name, settings, partial(system.answer, k=k, **settings),
                queries, true_ids, bytes_per_vector=system.n_bytes / n, n_vectors=n,
            )  # fmt: skip
            points.append(point)
    run.metric(f"{slug(name)}.build_s", system.build_s, unit="s", n=n)
    run.metric(f"{slug(name)}.bytes_per_vector", system.n_bytes / n, unit="bytes", n=n)
    return points


def compare(run: Run, points: list[Point]) -> None:
    """In each bucket: every system's best, and how far the collection leads the best graph."""
    from labs.lab2_vector_db.frontier import best_in_buckets, draw, qps, qps_per_gigabyte
    from labs.lab2_vector_db.report import slug

    keys = (("qps", qps, "queries/s"), ("qps_per_gb", qps_per_gigabyte, "queries/s/GB"))
    for word, key, unit in keys:
        for bucket in best_in_buckets(points, buckets=BUCKETS, key=key):
            at = round(bucket.at_least * 100)
            for point in bucket.best:
                run.metric(
                    f"{slug(point.name)}.{word}_at_{at}", key(point), unit=unit, n=point.latency.n,
                    how=f"recall {point.recall:.4f} at {dict(point.settings)}",
                )  # fmt: skip
            for name, recall in bucket.missing.items():
                run.metric(
                    f"{slug(name)}.{word}_at_{at}", None, unit=unit,
                    reason=f"no setting reaches recall {bucket.at_least}; the best is {recall:.4f}",
                )  # fmt: skip
            best = {
                ours: [p for p in bucket.best if (p.name in OURS) == ours] for ours in (True, False)
            }
            name = "bench.lead_at" if word == "qps_per_gb" else "bench.speed_lead_at"
            if best[True] and best[False]:
                mine, theirs = best[True][0], best[False][0]
                run.metric(
                    f"{name}_{at}", key(mine) / key(theirs), unit="ratio", n=mine.latency.n,
                    how=f"{unit}: {mine.name} over {theirs.name}, the best of the others",
                )  # fmt: skip
            else:
                run.metric(
                    f"{name}_{at}", None, unit="ratio",
                    reason=f"nothing to compare with recall {bucket.at_least} or more",
                )  # fmt: skip
    run.figure(
        "bench",
        draw(points, least_recall=0.8, title=f"{points[0].n_vectors:,} generated vectors"),
        caption="Recall against latency of one query on one thread, and bytes a vector.",
    )


if __name__ == "__main__":
    main(
        "lab2_vector_db_bench",
        {scale: Bench(**vars(config)) for scale, config in SCALES.items()},
        story,
        title="Lab 2, benchmark: the collection against graphs",
        claims=CLAIMS,
        program="labs.lab2_vector_db.bench",
    )
