"""Lab 2: from an exact scan to a small vector database, and what each step gives up and saves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from common.runner import Claim, Run, main
from labs.lab2_vector_db.config import SCALES, Config

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from labs.lab2_vector_db.collection import Collection
    from labs.lab2_vector_db.generated import Fit

    Vectors = NDArray[np.float32]
    Ids = NDArray[np.int64]

DELIVERABLE_VECTORS = 10_000_000
LARGE = ("L2.latency", "L2.goal_latency", "L2.goal_memory", "L2.build")

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
        "recall@10 >= 0.95 of the reported search",
        metric="search.recall_at_10",
        op=">=",
        target=0.95,
    ),
    Claim(
        "L2.goal_latency",
        "our goal: p99 <= 1.5 ms on one thread over 10M+ vectors",
        metric="search.p99_ms",
        op="<=",
        target=1.5,
    ),
    Claim(
        "L2.goal_recall",
        "our goal: recall@10 >= 0.97 of the reported search",
        metric="search.recall_at_10",
        op=">=",
        target=0.97,
    ),
    Claim(
        "L2.goal_memory",
        "our goal: 10M vectors in 1.6 GB, 160 bytes each",
        metric="index.bytes_per_vector",
        op="<=",
        target=160,
    ),
    Claim(
        "L2.build",
        "10M+ vectors indexed in under 10 minutes",
        metric="index.build_s",
        op="<",
        target=600,
    ),
    Claim(
        "L2.formula",
        "predicted and measured bytes of every kind of index differ by < 5 %",
        metric="index_types.largest_error",
        op="<",
        target=0.05,
    ),
    Claim(
        "L2.upserts",
        ">= 20,000 durable upserts a second in batches of 1,000, an fsync each",
        metric="collection.upserts_per_s",
        op=">=",
        target=20_000,
    ),
    Claim(
        "L2.filter",
        "recall@10 >= 0.95 under filters that leave 100 %, 10 %, 1 % and 0.1 % of the rows",
        metric="filter.least_recall",
        op=">=",
        target=0.95,
    ),
    Claim(
        "L2.crash",
        "no acknowledged write lost, nothing phantom, when the writer is killed with SIGKILL",
        metric="crash.findings",
        op="<=",
        target=0,
    ),
    Claim(
        "L2.hybrid",
        "hybrid search above BM25 and dense alone in nDCG@10: low end of the paired difference",
        metric="hybrid.gain_low",
        op=">",
        target=0,
    ),
)


@dataclass(frozen=True)
class Real:
    """Real vectors: words for the kinds of index, embeddings of texts to fit a generator to."""

    words: Vectors
    word_queries: Vectors
    fit: Fit


@dataclass(frozen=True)
class Large:
    """The generated vectors on disk, the queries and their true neighbours."""

    folder: Path
    vectors: Vectors
    queries: Vectors
    true_ids: Ids


def story(run: Run, config: Config) -> None:
    """Real vectors, every kind of index, a large one, and a database around it."""
    with run.stage("Embed real texts; fit a generator to them", key="data"):
        real = real_vectors(run, config)
    with run.stage("Every kind of index over real word vectors", key="index_types"):
        compare_index_types(run, config, real)
    with run.stage("Quantizers, lists and a graph by hand, beside faiss", key="by_hand"):
        write_by_hand(run, real)
    with run.stage(f"Generate {config.n_generated:,} vectors and find the truth", key="truth"):
        large = generate(run, config, real)
    with run.stage(f"Load {config.n_generated:,} vectors into a collection", key="build"):
        collection = build(run, config, large)
    with collection, run.stage("Tune the search, and measure it on other queries", key="search"):
        search(run, config, large, collection)
    if run.device == "cuda":
        with run.stage("The same recipe on the GPU", key="gpu"):
            search_on_gpu(run, config, large)
    with run.stage("Durable writes, and filters at every selectivity", key="collection"):
        write_and_filter(run, config, large)
    with run.stage(f"Kill the writer {config.kills} times", key="crash"):
        crash(run, config)
    with run.stage("Insert, delete, replace, search: drift, and time to searchable", key="updates"):
        update(run, config, large)
    with run.stage("Words and meaning: hybrid search", key="hybrid"):
        hybrid(run, config)
    with run.stage(f"{config.shards} shards, one of them lost", key="shards"):
        shard(run, config, large)
    say_what_was_not_shown(run, config)


def real_vectors(run: Run, config: Config) -> Real:
    """Word vectors with some held out, and a mixture as hard to search as MiniLM's embeddings."""
    import numpy as np

    from common.data import load
    from labs.lab2_vector_db import report
    from labs.lab2_vector_db.embedding import cached_embeddings
    from labs.lab2_vector_db.generated import fit, project
    from labs.lab2_vector_db.index_types import normalize
    from labs.lab2_vector_db.known_item import known_items

    words, docstrings = load("word-vectors"), load("docstrings")
    for data in (words, docstrings, load("minilm")):
        run.data(data)
    vectors = normalize(words.array("vectors"))
    order = np.random.default_rng(run.seed).permutation(len(vectors))[: config.words]
    held_out, stored = np.split(vectors[order], [config.words_queries])
    items = known_items(
        docstrings.table("docstrings"),
        n_documents=config.texts,
        n_validation=config.hybrid_queries // 2,
        n_test=config.hybrid_queries,
        seed=run.seed,
    )
    embeddings = cached_embeddings(items.texts, device=run.device)
    projected, kept = project(
        np.unique(np.asarray(embeddings, np.float32), axis=0), config.dimension
    )
    fitted = fit(projected, seed=run.seed)
    report.data(run, fitted, kept, len(stored))
    return Real(stored, held_out, fitted)


def compare_index_types(run: Run, config: Config, real: Real) -> None:
    """Recall, latency and memory of each kind over a range of its settings; one figure."""
    from labs.lab2_vector_db import report
    from labs.lab2_vector_db.comparison import compare

    with run.progress_bar("kinds of index", 9) as bar:
        compared = compare(
            real.words, real.word_queries, k=config.k, seed=run.seed, progress=bar.update
        )
    report.index_types(run, compared, config.k)


def write_by_hand(run: Run, real: Real) -> None:
    """The mechanisms in numpy, on some word vectors, and faiss with the same parameters."""
    from labs.lab2_vector_db import hnsw, inverted_file, product_quantization, report
    from labs.lab2_vector_db import scalar_quantization as scalar
    from labs.lab2_vector_db.evaluation import one_thread

    words, queries = real.words[:4000, :296], real.word_queries[:200, :296]
    with one_thread():
        codes = product_quantization.evaluate(words, queries, segments=37, bits=4, seed=run.seed)
        codes += scalar.evaluate(words, queries, seed=run.seed)
        lists = inverted_file.sweep(words, queries, seed=run.seed)
        graph = hnsw.sweep(words[:1000], queries, seed=run.seed)
    report.by_hand(run, codes, lists, graph)


def generate(run: Run, config: Config, real: Real) -> Large:
    """The vectors as a file, made once, and the exact neighbours; both go on where they stopped."""
    from labs.lab2_vector_db import report
    from labs.lab2_vector_db.generated import GeneratedVectors, hardness, stored_vectors
    from labs.lab2_vector_db.ground_truth import exact_neighbours

    source = GeneratedVectors(real.fit.mixture, config.n_generated, seed=run.seed)
    queries = GeneratedVectors(real.fit.mixture, config.queries, seed=run.seed, stream=1)[:]
    folder = report.working_folder(run, config, source.fingerprint)
    with run.progress_bar("vectors", len(source)) as bar:
        vectors = stored_vectors(source, folder / "vectors.f32", progress=bar.update)
    with run.progress_bar("exact neighbours", len(source)) as bar:
        truth = exact_neighbours(
            vectors, queries, config.k, "l2", folder=folder / "truth", progress=bar.update
        )
    report.generated(run, hardness(vectors[:1_000_000], queries[:300]), len(source))
    return Large(folder, vectors, queries, truth.ids)


def build(run: Run, config: Config, large: Large) -> Collection:
    """A collection of all vectors, by bulk load; one that was killed goes on at its next slice."""
    import shutil
    import time

    from labs.lab2_vector_db import report
    from labs.lab2_vector_db.collection import Collection, Schema
    from labs.lab2_vector_db.comparison import compact_recipe, precise_recipe
    from labs.lab2_vector_db.storage import LOADING

    recipe = {"pq": compact_recipe, "rabitq": precise_recipe}[config.code](
        config.dimension, config.n_lists
    )
    path = large.folder / f"collection-{config.code}-{config.n_lists}"
    resumed = (path / LOADING).exists()
    if not resumed:
        shutil.rmtree(path, ignore_errors=True)
        schema = Schema(config.dimension, "l2", recipe=recipe)
        Collection.create(path, schema, seed=run.seed).close()
    collection = Collection.open(path)
    start = time.perf_counter()
    with run.progress_bar("rows loaded", len(large.vectors)) as bar:
        collection.bulk_load(large.vectors, progress=bar.update)
    report.built(run, collection.index, recipe, time.perf_counter() - start, resumed=resumed)
    return collection


def search(run: Run, config: Config, large: Large, collection: Collection) -> None:
    """Half of the queries choose nprobe and k_factor; the other half judge them, three ways."""
    from labs.lab2_vector_db import report
    from labs.lab2_vector_db.evaluation import one_thread
    from labs.lab2_vector_db.measuring import expected_cost, measure_search, read_bandwidth
    from labs.lab2_vector_db.tuner import split, tune

    with one_thread():
        settings = {
            name: value for name in ("nprobe", "k_factor") if (value := getattr(config, name))
        }
        judging = split(len(large.queries), 0.5, run.seed)
        if "nprobe" not in settings or (config.code == "pq" and "k_factor" not in settings):
            with run.progress_bar("settings tried", None) as bar:
                tuned = tune(
                    collection.index, large.queries, large.true_ids, seed=run.seed,
                    target_recall=config.target_recall, latency_limit_ms=10, progress=bar.update,
                )  # fmt: skip
            report.tuned(run, tuned)
            settings = dict(tuned.nearest) | settings
        measured = measure_search(
            lambda queries: collection.search(queries, config.k, **settings).ids,
            large.queries[judging],
            large.true_ids[judging],
        )
    report.search(run, config, measured, settings)
    report.cost(run, measured, expected_cost(collection, config.k, settings), read_bandwidth())


def search_on_gpu(run: Run, config: Config, large: Large) -> None:
    """The compact recipe as a GPU runs it, at several nprobe: one query, and a thousand at once."""
    from labs.lab2_vector_db import gpu, report
    from labs.lab2_vector_db.comparison import compact_recipe

    if not gpu.gpus():
        run.note("This faiss sees no GPU (requirements/gpu.txt has one that does): not measured.")
        return
    recipe = compact_recipe(config.dimension, config.n_lists)
    points = gpu.measure(
        large.vectors, recipe, large.queries, large.true_ids, nprobes=(16, 32, 64, 128)
    )
    report.gpu(run, points)


def write_and_filter(run: Run, config: Config, large: Large) -> None:
    """Batches of durable upserts; then the same search under ever more selective filters."""
    from labs.lab2_vector_db import report
    from labs.lab2_vector_db.collection import Collection
    from labs.lab2_vector_db.measuring import filter_sweep, schema_with_payload, write_rows

    rows = large.vectors[: config.collection_rows]
    with Collection.create(
        run.work / "collection", schema_with_payload(config.dimension, len(rows)), seed=run.seed
    ) as collection:
        with run.progress_bar("rows written", len(rows)) as bar:
            written = write_rows(collection, rows, batch=config.batch, progress=bar.update)
        collection.compact()
        report.written(run, written, collection.stats())
        report.filters(run, filter_sweep(collection, rows, large.queries[:500], k=config.k))


def crash(run: Run, config: Config) -> None:
    """SIGKILL at random moments; each time the reopened collection must equal a model of it."""
    from labs.lab2_vector_db import crash_test, report

    with run.progress_bar("kills", config.kills) as bar:
        found = crash_test.run(
            run.work / "crash", kills=config.kills, power_cuts=config.kills // 5, seed=run.seed,
            progress=bar.update,
        )  # fmt: skip
    report.crash(run, found)


def update(run: Run, config: Config, large: Large) -> None:
    """A runbook whose data drift, trained again or not; and how soon a write is found."""
    from labs.lab2_vector_db import report
    from labs.lab2_vector_db.collection import Collection, Schema
    from labs.lab2_vector_db.comparison import compact_recipe
    from labs.lab2_vector_db.readiness import measure_readiness
    from labs.lab2_vector_db.runbook import compare_retraining

    rows = large.vectors[: config.runbook_rows]
    recipe = compact_recipe(config.dimension, len(rows) // 300)
    reports = compare_retraining(
        run.work / "runbook", rows, large.queries[:200], recipe,
        metric="l2", k=config.k, nprobe=8, seed=run.seed,
    )  # fmt: skip
    with Collection.create(run.work / "ready", Schema(config.dimension, "l2")) as collection:
        collection.upsert(range(len(rows)), rows)
    report.updates(run, reports, measure_readiness(run.work / "ready", seed=run.seed))


def hybrid(run: Run, config: Config) -> None:
    """Known items by words, by meaning, and by both; what is fused is chosen on other queries."""
    from labs.lab2_vector_db import report
    from labs.lab2_vector_db.hybrid_evaluation import measure

    scores = measure(
        n_documents=config.texts,
        n_validation=config.hybrid_queries // 2,
        n_test=config.hybrid_queries,
        device=run.device,
        seed=run.seed,
    )
    report.hybrid(run, scores)


def shard(run: Run, config: Config, large: Large) -> None:
    """Shards on Ray actors; one is killed, the answer says so, and it is repaired."""
    from labs.lab2_vector_db import report
    from labs.lab2_vector_db.measuring import measure_shards

    rows = large.vectors[: config.collection_rows]
    queries = large.queries[:200]
    report.shards(run, measure_shards(rows, queries, n_shards=config.shards, seed=run.seed))


def say_what_was_not_shown(run: Run, config: Config) -> None:
    """A reason for each claim that this scale cannot show."""
    if config.n_generated < DELIVERABLE_VECTORS:
        for claim in LARGE:
            run.unmeasured(
                claim,
                f"the index of this run holds {config.n_generated:,} vectors; the claim is about "
                f"{DELIVERABLE_VECTORS:,} or more (--scale full)",
            )
    if config.k != 10:
        for claim in ("L2.recall", "L2.goal_recall"):
            run.unmeasured(claim, f"this run measured recall@{config.k}, the claim is recall@10")


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
            "Malkov, Yashunin: Hierarchical Navigable Small World graphs (2016), "
            "https://arxiv.org/abs/1603.09320",
            "Douze et al.: The Faiss library (2024), https://arxiv.org/abs/2401.08281",
            "Simhadri et al.: Results of the Big ANN: NeurIPS'23 competition (2024), "
            "https://arxiv.org/abs/2409.17424",
            "O'Neil et al.: The Log-Structured Merge-Tree (1996), "
            "https://doi.org/10.1007/s002360050048",
        ),
    )
