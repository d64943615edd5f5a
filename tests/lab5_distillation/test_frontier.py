"""The Pareto frontier against its definition, and the numbers that a run records."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import InputError
from labs.lab5_distillation import frontier
from labs.lab5_distillation.frontier import Candidate, metrics_of, pareto


def by_definition(cost, accuracy):
    """Every pair compared: who dominates whom, equal models by their order."""
    found = []
    n = len(cost)
    for i in range(n):
        over = [
            j
            for j in range(n)
            if cost[j] <= cost[i]
            and accuracy[j] >= accuracy[i]
            and (cost[j] < cost[i] or accuracy[j] > accuracy[i] or j < i)
        ]
        over.sort(key=lambda j: (-accuracy[j], cost[j], j))
        found.append(over[0] if over else -1)
    return found


@pytest.mark.exercise("5.21")
@settings(derandomize=True, deadline=None, max_examples=100)
@given(models=st.lists(st.tuples(st.integers(1, 6), st.integers(1, 6)), min_size=1, max_size=12))
def test_the_frontier_is_what_no_pair_of_models_contradicts(models):
    """For small numbers with many ties: compared pair by pair, as the definition says."""
    cost, accuracy = [m[0] for m in models], [m[1] / 10 for m in models]
    found = frontier.dominated_by(cost, accuracy).tolist()
    expected = by_definition(cost, accuracy)
    assert found == expected, f"cost {cost}, accuracy {accuracy}: {found}, expected {expected}"


@pytest.mark.exercise("5.21")
def test_a_small_and_a_good_model_are_both_worth_having():
    """Neither dominates the other; the third is larger and worse than the first."""
    found = frontier.dominated_by([16.0, 90.0, 30.0], [0.95, 0.97, 0.94]).tolist()
    assert found == [-1, -1, 0], f"{found}, expected [-1, -1, 0]"


@pytest.mark.exercise("5.21")
def test_of_equal_models_one_stays():
    """The first: a frontier that names the same point twice offers a choice that is none."""
    found = frontier.dominated_by([16.0, 16.0, 16.0], [0.95, 0.95, 0.95]).tolist()
    assert found == [-1, 0, 0], f"{found}, expected [-1, 0, 0]"


@pytest.mark.exercise("5.21")
def test_at_equal_size_the_more_accurate_dominates():
    """A fine-tuned student and the distilled one of the same size, which comes second."""
    found = frontier.dominated_by([16.0, 16.0], [0.94, 0.95]).tolist()
    assert found == [1, -1], f"{found}, expected [1, -1]"


def candidate(name="2 layers", training="distilled", precision="int8", **changes):
    """A candidate of a frontier (synthetic)."""
    values = {
        "accuracy": 0.95,
        "accuracy_ci95": (0.945, 0.955),
        "size_mb": 16.0,
        "params": 15_000_000,
    } | changes
    return Candidate(name, training, precision, **values)


def test_the_dominated_are_named_with_who_beats_them_and_whether_clearly():
    """Overlapping intervals: beaten in this measurement, perhaps not in the next."""
    good = candidate(accuracy=0.96, accuracy_ci95=(0.955, 0.965))
    near = candidate(training="fine-tuned", accuracy=0.955, accuracy_ci95=(0.95, 0.96))
    poor = candidate("other", accuracy=0.90, accuracy_ci95=(0.89, 0.91), size_mb=20.0)
    small = candidate("tiny", accuracy=0.85, accuracy_ci95=(0.84, 0.86), size_mb=2.0)
    found = pareto([poor, near, good, small])
    assert found.on == (small, good)
    assert [(each.candidate, each.by, each.clear) for each in found.dominated] == [
        (near, good, False),
        (poor, good, True),
    ]


def test_another_cost_gives_another_frontier():
    """The smallest need not be the fastest; what was not measured has no frontier."""
    narrow = candidate("narrow", size_mb=5.0, latency_ms=2.0, accuracy=0.94)
    shallow = candidate("shallow", size_mb=16.0, latency_ms=1.0)
    assert pareto([narrow, shallow]).on == (narrow, shallow)
    assert pareto([narrow, shallow], "latency_ms").on == (shallow,)
    with pytest.raises(InputError, match="latency_ms"):
        pareto([narrow, candidate()], "latency_ms")


def test_a_candidate_gives_the_metrics_of_a_run():
    """Under its area; what was not measured is not there."""
    full = candidate(
        retention=0.99,
        retention_ci95=(0.985, 0.995),
        agreement=0.97,
        throughput_ratio=6.5,
        throughput_ratio_ci95=(6.3, 6.7),
        texts=4500,
    )
    found = metrics_of(full, "student.depth2_int8")
    assert set(found) == {
        f"student.depth2_int8.{name}"
        for name in ("accuracy", "retention", "agreement", "params", "size_mb", "throughput_ratio")
    }
    assert found["student.depth2_int8.retention"].ci95 == (0.985, 0.995)
    assert found["student.depth2_int8.accuracy"].n == 4500
    assert set(metrics_of(candidate(), "teacher")) == {
        "teacher.accuracy",
        "teacher.params",
        "teacher.size_mb",
    }


def test_labels_name_a_teacher_once():
    """No "teacher, teacher"."""
    assert candidate("teacher", "teacher", "fp32").label == "teacher, fp32"
    assert candidate().label == "2 layers, distilled, int8"


def test_the_figure_shows_every_candidate():
    """One marker with an interval each, one arrow for the pair, logarithmic cost."""
    from labs.lab5_distillation.figures_evaluation import draw_frontier

    pair = [candidate(), candidate(training="fine-tuned", accuracy=0.94)]
    teacher = candidate("teacher", "teacher", "fp32", size_mb=90.0, accuracy=0.96)
    ax = draw_frontier(pareto([*pair, teacher])).axes[0]
    assert len(ax.containers) == 3
    arrows = [text for text in ax.texts if text.arrow_patch is not None]
    assert len(arrows) == 1
    assert arrows[0].xy == pytest.approx((16.0, 0.95), rel=0.02)
    assert arrows[0].xyann == pytest.approx((16.0, 0.94), rel=0.02)
    assert ax.get_xscale() == "log"
    assert np.isfinite(ax.get_ylim()).all()
