"""Silent failures of what is around an index: filters, measurements, the log, the evaluation.

Shown by ``python -m labs.lab2_vector_db.traps``.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
import zlib
from typing import Any

import faiss
import numpy as np

from common.data import load
from common.traps import Trap
from labs.lab2_vector_db.evaluation import exact_search, recall_at_k
from labs.lab2_vector_db.filter_planning import sweep
from labs.lab2_vector_db.known_item import known_items, split, true_ids
from labs.lab2_vector_db.log_replay import FRAME, FRAME_MAGIC
from labs.lab2_vector_db.ranking_metrics import ndcg_at_k
from labs.lab2_vector_db.sparse_search import BM25Index
from labs.lab2_vector_db.throughput import closed_loop, open_loop


def filtering_after_the_search() -> Trap:
    """The k nearest, and then the filter."""
    rng = np.random.default_rng(0)
    n, d = 20_000, 24
    shape = rng.standard_normal((d, d)) * np.arange(1, d + 1)[:, None] ** -0.4
    points = (rng.standard_normal((n + 200, d)) @ shape).astype(np.float32)
    index: Any = faiss.index_factory(d, "IVF100,Flat")
    index.train(points[:n])
    index.add(points[:n])
    found = sweep(index, points[:n], points[n:], nprobe=14, selectivities=[0.01])[0]
    return Trap(
        "Filtering after the search",
        wrong=(
            "of 10 results returned at 1 % selectivity, k nearest and then the filter",
            found.returned_post_filter,
        ),
        right=("recall@10 of the planned search, which returns 10", found.planned),
        why="Of the 10 nearest one in a hundred matches. The matching neighbours were never "
        "looked for, and a larger k only moves the selectivity at which nothing is left.",
    )


def a_closed_loop_hides_the_stall() -> Trap:
    """Clients that wait for their answer send nothing while the search stalls."""
    queries = np.zeros((1, 4), np.float32)

    def stalls_once(after_s: float = 0.2, stall_s: float = 0.3) -> Any:
        lock, state = threading.Lock(), {"first": 0.0, "stalled": False}

        def answer(batch: object) -> None:
            with lock:
                state["first"] = state["first"] or time.perf_counter()
                if not state["stalled"] and time.perf_counter() > state["first"] + after_s:
                    state["stalled"] = True
                    time.sleep(stall_s)
            time.sleep(0.001)

        return answer

    closed = closed_loop(stalls_once(), queries, clients=2, seconds=1.2, warmup=0)
    opened = open_loop(stalls_once(), queries, 200, seconds=1.2, workers=2, warmup=0)
    return Trap(
        "A closed loop hides a stall of 0.3 s",
        wrong=("p99 of two clients that wait for each answer, ms", closed.latency.p99_ms),
        right=("p99 of users who arrive 200 times a second, ms", opened.latency.p99_ms),
        why="While the search stalls, waiting clients send nothing: the stall costs them two slow "
        "queries of many. Users keep coming, and each who came during the stall waited for the "
        "rest of it. open_loop counts from the scheduled arrival.",
    )


def one_thread_is_for_one_thread() -> Trap:
    """omp_set_num_threads belongs to the thread that calls it."""
    # In a Python of its own, where OpenMP's default is two threads whatever this one was given.
    program = """
import threading, faiss
faiss.omp_set_num_threads(1)
seen = []
thread = threading.Thread(target=lambda: seen.append(faiss.omp_get_max_threads()))
thread.start(); thread.join()
print(seen[0], faiss.omp_get_max_threads())
"""
    env = {**os.environ, "OMP_NUM_THREADS": "2"}
    done = subprocess.run(
        [sys.executable, "-c", program], env=env, capture_output=True, text=True, check=True
    )
    elsewhere, here = map(int, done.stdout.split())
    return Trap(
        "faiss.omp_set_num_threads(1) once, at the start of a server",
        wrong=("threads that a query uses in a new client thread", elsewhere),
        right=("threads where it was set", here),
        why="The number of threads is OpenMP's, and each thread has its own: N client threads with "
        "all cores each get in each other's way, and 'one thread' was measured on many. Set it in "
        "every worker, as throughput.py does.",
    )


def a_checksum_without_the_lsn() -> Trap:
    """A file that is used again holds valid frames of its earlier life behind the new end."""

    def plain(record: bytes, lsn: int) -> bytes:
        return FRAME.pack(FRAME_MAGIC, len(record), lsn, zlib.crc32(record)) + record

    old = [plain(b"%03d" % lsn, lsn) for lsn in range(1, 101)]
    new = [plain(b"new", lsn) for lsn in range(101, 111)]
    data = b"".join(new) + b"".join(old)[sum(map(len, new)) :]
    believed = trusted = offset = 0
    in_order = True
    while offset + FRAME.size <= len(data):
        _, length, lsn, crc = FRAME.unpack_from(data, offset)
        record = data[offset + FRAME.size : offset + FRAME.size + length]
        if crc != zlib.crc32(record):
            break
        believed += 1
        in_order = in_order and lsn == 100 + believed
        trusted += in_order
        offset += FRAME.size + length
    return Trap(
        "A valid frame that is not the next one",
        wrong=("records replayed from a file used again, checksum of the record only", believed),
        right=("records replayed, frames with the next lsn only", trusted),
        why="Old frames are whole, so their checksums match: 90 writes of long ago are applied on "
        "top of the 10 new ones. The lsn has to be the next one, and under the checksum.",
    )


def ground_truth_of_yesterday() -> Trap:
    """Recall against the truth of another moment blames the index for what the data did."""
    rng = np.random.default_rng(0)
    stored = rng.standard_normal((4000, 32)).astype(np.float32)
    queries = rng.standard_normal((200, 32)).astype(np.float32)
    _, before = exact_search(stored, queries, 10, "l2")
    alive = np.arange(2000, 4000)  # half was deleted since
    _, rows = exact_search(stored[alive], queries, 10, "l2")
    now = alive[rows]
    return Trap(
        "Ground truth of another moment",
        wrong=(
            "recall@10 of an exact search, truth from before",
            float(recall_at_k(now, before).mean()),
        ),
        right=(
            "recall@10 of the same, truth over what is alive",
            float(recall_at_k(now, now).mean()),
        ),
        why="The old truth names rows that must not be returned any more. A runbook computes it "
        "again at each checkpoint, over what is alive at that moment.",
    )


def the_query_is_in_the_document() -> Trap:
    """Queries cut from documents that still hold them."""
    table = load("docstrings").table("docstrings").sample(4_000, random_state=0).reset_index()
    items = known_items(table, n_documents=1_500, n_validation=0, n_test=200)
    whole = [" ".join(split(table["text"][row])) for row in items.ids.tolist()]
    queries = [query.text for query in items.test]
    quality = []
    for texts in (whole, items.texts):
        _, found = BM25Index(items.ids, texts).search(queries, 10)
        quality.append(float(ndcg_at_k(found, true_ids(items.test)).mean()))
    return Trap(
        "A query that is still in its document",
        wrong=("nDCG@10 of BM25, documents whole", quality[0]),
        right=("nDCG@10 of BM25, first sentences held out", quality[1]),
        why="The words of the query are the rarest things in the document they were cut from, so "
        "keyword search looks perfect, and every comparison with it is lost. Take the query's "
        "text out of the index, and look for copies of it.",
    )


DATABASE_TRAPS = (
    filtering_after_the_search,
    a_closed_loop_hides_the_stall,
    one_thread_is_for_one_thread,
    a_checksum_without_the_lsn,
    ground_truth_of_yesterday,
    the_query_is_in_the_document,
)
