import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.text import Text

from common.errors import InputError
from common.latency import LatencySummary
from labs.lab2_vector_db.frontier import (
    Point,
    best_in_buckets,
    draw,
    measure,
    p50,
    pareto,
    qps,
    qps_per_gigabyte,
    sweep,
)


def point(recall, ms, size=100.0, name="a", n_vectors=1_000_000, **settings):
    latency = LatencySummary.of([ms / 1000], how="made up")
    return Point(name, settings, recall, latency, size, 1000 / ms, n_vectors)


def test_a_point_is_beaten_by_one_as_good_everywhere_and_better_somewhere():
    best, slow, large, worse = point(0.9, 1), point(0.95, 2), point(0.91, 0.5, 200), point(0.9, 1.1)
    assert pareto([worse, large, slow, best]) == [best, large, slow]


def test_without_memory_a_larger_and_faster_point_wins():
    small, large = point(0.9, 1), point(0.9, 0.5, 200)
    assert len(pareto([small, large])) == 2
    assert pareto([small, large], costs=(p50,)) == [large]


def test_equal_points_both_stay():
    assert len(pareto([point(0.9, 1), point(0.9, 1, name="b")])) == 2
    assert pareto([]) == []


triples = st.tuples(st.integers(0, 4), st.integers(1, 4), st.integers(1, 4))


@settings(derandomize=True, deadline=None)
@given(st.lists(triples, min_size=1, max_size=12))
def test_the_frontier_is_what_comparing_all_pairs_leaves(values):
    points = [point(r / 10, ms, size) for r, ms, size in values]

    def beats(a, b):
        (r, ms, size), (r2, ms2, size2) = a, b
        return r >= r2 and ms <= ms2 and size <= size2 and a != b

    expected = [p for p, v in zip(points, values) if not any(beats(w, v) for w in values)]
    kept = pareto(points)
    assert sorted(map(id, kept)) == sorted(map(id, expected))
    assert [p.recall for p in kept] == sorted(p.recall for p in kept)


def test_systems_are_compared_only_where_both_reach_the_recall():
    """The fastest of all finds 85 %: it wins nothing."""
    sloppy = point(0.85, 0.1, name="sloppy")
    points = [
        sloppy,
        point(0.93, 0.5, name="ivf", nprobe=8),
        point(0.97, 1.0, name="ivf", nprobe=32),
        point(0.92, 0.9, name="hnsw", ef_search=16),
        point(0.995, 2.0, name="hnsw", ef_search=128),
    ]
    at_90, at_95, at_99 = best_in_buckets(points)
    assert [(each.name, each.recall) for each in at_90.best] == [("ivf", 0.93), ("hnsw", 0.92)]
    assert at_90.missing == {"sloppy": 0.85}
    assert [(each.name, each.recall) for each in at_95.best] == [("ivf", 0.97), ("hnsw", 0.995)]
    assert [each.name for each in at_99.best] == ["hnsw"]
    assert at_99.missing == {"sloppy": 0.85, "ivf": 0.97}


def test_more_recall_also_serves_a_lower_bucket():
    """A point at 0.97 that is faster than all at 0.90 to 0.95 is the one to take at 0.90."""
    points = [point(0.91, 2.0), point(0.97, 1.0)]
    assert best_in_buckets(points, buckets=(0.90,))[0].best[0].recall == 0.97


def test_the_key_decides_speed_or_speed_for_the_memory():
    small, fast = point(0.95, 1.0, 100, "small"), point(0.95, 0.5, 400, "fast")
    for key, order in ((qps, ["fast", "small"]), (qps_per_gigabyte, ["small", "fast"])):
        assert [each.name for each in best_in_buckets([small, fast], (0.9,), key)[0].best] == order
    assert small.gigabytes == pytest.approx(0.1)
    assert small.qps_per_gigabyte == pytest.approx(1000 / 0.1)


def test_points_over_different_numbers_of_vectors_are_not_compared():
    with pytest.raises(InputError, match="n_vectors"):
        best_in_buckets([point(0.9, 1), point(0.9, 1, n_vectors=5)])


def test_a_sweep_measures_recall_that_rises_with_nprobe():
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((2_000, 16)).astype(np.float32)
    queries = rng.standard_normal((50, 16)).astype(np.float32)
    index = faiss.index_factory(16, "IVF16,Flat")
    index.train(vectors)
    index.add(vectors)
    _, true_ids = faiss.knn(queries, vectors, 10)
    points = sweep("ivf", index, queries, true_ids, [{"nprobe": n} for n in (1, 4, 16)])
    recalls = [each.recall for each in points]
    assert recalls == sorted(recalls)
    assert recalls[-1] == 1.0
    assert points[1].settings == {"nprobe": 4}
    assert points[0].latency.n == 50
    assert points[0].n_vectors == 2_000
    assert points[0].bytes_per_vector == pytest.approx(16 * 4 + 8, rel=0.05)


def test_anything_that_returns_ids_has_a_point():
    true_ids = np.array([[1, 2], [3, 4]])
    answers = {0.0: [[1, 9]], 1.0: [[4, 3]]}
    found = measure(
        "lookup",
        {},
        lambda query: np.array(answers[float(query[0, 0])]),
        np.array([[0.0], [1.0]], dtype=np.float32),
        true_ids,
        bytes_per_vector=10.0,
        n_vectors=100,
    )
    assert found.recall == 0.75
    assert found.qps > 0


def test_the_figure_names_every_system_once_a_panel_and_no_label_covers_another():
    points = [
        point(recall, ms, size, name)
        for name, size in (("Flat", 384), ("IVF", 130), ("IVF, refined", 131), ("HNSW", 650))
        for recall, ms in ((0.9, 0.5), (0.95, 1.0), (0.981, 2.0), (0.95, 3.0))
    ]
    figure = draw([*points, point(0.1, 0.01, name="hopeless")], title="made up")
    figure.canvas.draw()
    curve, bars = figure.axes
    labels = [text for text in curve.texts if text.get_text()]
    assert sorted(text.get_text() for text in labels) == ["Flat", "HNSW", "IVF", "IVF, refined"]
    heights = [Text.get_window_extent(text).height for text in labels]
    places = sorted(text.xyann[1] * curve.bbox.height for text in labels)
    assert min(np.diff(places)) > max(heights)
    assert [text.get_text() for text in bars.texts] == [
        " IVF, 130",
        " IVF, refined, 131",
        " Flat, 384",
        " HNSW, 650",
    ]


def test_a_perfect_recall_can_be_drawn_and_a_hopeless_one_alone_is_an_error():
    draw([point(1.0, 1)]).canvas.draw()
    with pytest.raises(InputError, match="hold one of recall"):
        draw([point(0.2, 1)])
