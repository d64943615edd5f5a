import numpy as np
import pytest

from common.errors import InputError
from labs.lab2_vector_db import recipe_tuning
from labs.lab2_vector_db.index_types import HNSW, IVF, PQ, SQ, Exact, Flat, Recipe
from labs.lab2_vector_db.recipe_tuning import tune_recipes

REFINED = Recipe(IVF(32), PQ(16, 4), refine=SQ(8), metric="l2")
BARE = Recipe(IVF(32), PQ(4, 4), metric="l2")
GRAPH = Recipe(HNSW(16), metric="l2")
EXACT_LISTS = Recipe(IVF(32), Exact(), metric="l2")


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    centres = 2 * rng.standard_normal((40, 32))
    rows = centres[rng.integers(40, size=4_200)]
    points = (rows + rng.standard_normal(rows.shape)).astype(np.float32)
    return points[:4_000], points[4_000:]


def test_recipes_are_ranked_and_the_refused_say_why(data):
    """Meets, misses, refused: in this order, each with a reason in words."""
    scores = tune_recipes([BARE, GRAPH, REFINED], *data, target_recall=0.9, memory_budget=120, k=10)
    assert [score.recipe for score in scores] == [REFINED, BARE, GRAPH]
    assert [score.status for score in scores] == ["meets", "misses", "refused"]
    best, missing, refused = scores
    assert best.tuned.recall >= 0.9
    assert best.measured_bytes == pytest.approx(best.predicted_bytes, rel=0.1)
    assert set(best.tuned.settings) == {"nprobe", "k_factor"}
    assert "nearest: nprobe" in missing.reason
    assert refused.tuned is None
    assert "bytes a vector predicted, the budget is 120" in refused.reason


def test_what_meets_is_ordered_by_its_latency(data):
    scores = tune_recipes(
        [Recipe(Flat(), metric="l2"), EXACT_LISTS], *data, target_recall=0.9, memory_budget=1_000
    )
    assert [score.status for score in scores] == ["meets", "meets"]
    medians = [score.tuned.latency.p50_ms for score in scores]
    assert medians == sorted(medians)


def test_a_recipe_over_the_budget_is_never_built(data, monkeypatch):
    """At 10 million vectors building what does not fit costs minutes, or the machine."""

    def build_index(*arguments, **options):
        raise AssertionError("must not be built")

    monkeypatch.setattr(recipe_tuning, "build_index", build_index)
    scores = tune_recipes([GRAPH, EXACT_LISTS], *data, target_recall=0.9, memory_budget=100)
    assert [score.status for score in scores] == ["refused", "refused"]
    assert scores[0].predicted_bytes < scores[1].predicted_bytes


def test_the_budget_is_for_the_full_size_where_fixed_parts_are_shared_by_more(data):
    """32 centroids of 32 floats are 1 byte a vector over 4,000 and nothing over 10 million."""
    over_few = tune_recipes([REFINED], *data, target_recall=0.5, memory_budget=50)
    over_many = tune_recipes(
        [REFINED], *data, target_recall=0.5, memory_budget=50, n_vectors=10**7, k_factors=(4,)
    )
    assert over_few[0].status == "refused"
    assert over_many[0].status == "meets"


def test_a_recipe_that_does_not_fit_the_vectors_is_refused_and_the_others_go_on(data):
    too_many_lists = Recipe(IVF(5_000), Exact(), metric="l2")
    uneven = Recipe(IVF(32), PQ(7, 8), metric="l2")
    scores = tune_recipes(
        [too_many_lists, uneven, EXACT_LISTS], *data, target_recall=0.8, memory_budget=10_000
    )
    assert [score.status for score in scores] == ["meets", "refused", "refused"]
    reasons = {score.recipe: score.reason for score in scores}
    assert "5000" in reasons[too_many_lists].replace(",", "")
    assert "32" in reasons[uneven]


def test_bad_input_is_one_clear_error(data):
    options = {"target_recall": 0.9, "memory_budget": 100}
    with pytest.raises(InputError, match="number of candidates = 0"):
        tune_recipes([], *data, **options)
    with pytest.raises(InputError, match="metrics of the candidates"):
        tune_recipes([BARE, Recipe()], *data, **options)
    with pytest.raises(InputError, match="memory_budget = 0"):
        tune_recipes([BARE], *data, **{**options, "memory_budget": 0})
