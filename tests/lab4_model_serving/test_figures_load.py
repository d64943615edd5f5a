"""The figures of the load tests show what was measured."""

import numpy as np

from labs.lab4_model_serving import figures_load
from labs.lab4_model_serving.arrivals import constant_schedule, poisson_schedule
from labs.lab4_model_serving.load_result import LoadResult
from labs.lab4_model_serving.overload import Overload, Timeline
from labs.lab4_model_serving.rate_search import FoundRate, Trial


def legend(axes):
    return [text.get_text() for text in axes.get_legend().get_texts()]


def test_percentiles_of_several_views_share_one_axis():
    figure = figures_load.draw_percentiles(
        {"closed": np.full(100, 0.01), "open": np.linspace(0, 1, 1000)}
    )
    (axes,) = figure.axes
    assert legend(axes) == ["closed", "open"]
    assert axes.lines[1].get_ydata().max() == 1000
    figure.canvas.draw()


def test_the_search_shows_what_held_and_what_did_not():
    def trial(rate, latency, held):
        result = LoadResult(np.full(800, latency), np.zeros(800), 1.0, rate, 5.0, "made")
        return Trial(rate, result, held)

    best = trial(200, 0.02, True)
    found = FoundRate(best, False, (trial(100, 0.01, True), trial(400, np.inf, False)), (best,))
    figure = figures_load.draw_rate_search(found, 50)
    assert legend(figure.axes[0]) == [
        "limit 50 ms",
        "trial, kept the SLO",
        "trial, missed it",
        "run to confirm, kept the SLO",
    ]
    figure.canvas.draw()


def test_an_overload_shows_rates_per_second_and_when_it_was_over():
    """20 requests in 100 ms are 200/s; the line of the recovery is where the SLO held again."""
    line = Timeline(
        start=np.arange(5) * 0.1,
        offered=np.array([2, 20, 20, 2, 2]),
        answered=np.array([2, 5, 5, 5, 2]),
        refused=np.array([0, 10, 10, 0, 0]),
        p99_ms=np.array([10, 80, 90, 60, np.nan]),
    )
    generator = LoadResult(np.zeros(1), np.zeros(1), 1.0, 1.0, 5.0, "made")
    overload = Overload(200, 50, 90, 0.5, 0, 1, 10, 0.1, 50, 0.1, 0.3, line, generator)
    figure = figures_load.draw_overload(overload)
    rates, tail = figure.axes
    assert legend(rates) == ["offered", "answered (200)", "refused (503)", "overload"]
    assert rates.lines[0].get_ydata().max() == 200
    assert "SLO kept again after 0.1 s" in legend(tail)
    figure.canvas.draw()


def test_arrivals_have_a_panel_each_with_their_dispersion():
    figure = figures_load.draw_arrivals(
        {"metronome": constant_schedule(100, 5), "Poisson": poisson_schedule(100, 5, 0)}
    )
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles[0].startswith("metronome: variance / mean 0.")
    assert titles[1].startswith("Poisson: variance / mean ")
    figure.canvas.draw()


def test_the_interval_of_a_percentile_narrows_with_the_requests():
    latencies = np.random.default_rng(0).exponential(0.01, 5000)
    figure = figures_load.draw_percentile_intervals(latencies)
    assert legend(figure.axes[0]) == [
        "95 % interval",
        "no upper limit: too few requests",
        "p99 of the first n requests",
    ]
    figure.canvas.draw()
