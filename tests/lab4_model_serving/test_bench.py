"""The benchmark: its arithmetic on made-up rows, and one real server through all of it."""

import sys
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from common.errors import InputError
from common.process import supervised
from labs.lab4_model_serving import bench, bench_servers
from labs.lab4_model_serving.config import Config, for_device
from labs.lab4_model_serving.early_stopping import Slo
from labs.lab4_model_serving.figures_bench import draw_bench
from labs.lab4_model_serving.load_generator import LoadResult


class Recorder:
    """What the benchmark needs of a run."""

    seed = 0

    def __init__(self):
        self.metrics, self.reasons, self.notes, self.figures = {}, {}, [], []
        self.results = SimpleNamespace(metrics={})

    def metric(self, name, value, **about):
        self.metrics[name] = value
        self.results.metrics[name] = SimpleNamespace(value=value, reason=about.get("reason", ""))

    def latency(self, area, summary):
        self.metrics[f"{area}.p99_ms"] = summary.p99_ms

    def unmeasured(self, claim, reason):
        self.reasons[claim] = reason

    def note(self, text):
        self.notes.append(text)

    def figure(self, name, figure, *, caption):
        self.figures.append((name, figure))


def row(name, rate, at_limit=False):
    latencies = np.full(1000, 0.01)
    result = LoadResult(latencies, np.zeros(1000), 1.0, 1000.0, 5.0, "made up")
    return bench.Row(name, rate, result, 0.5, at_limit, ((100.0, result), (200.0, result)))


def test_the_lead_is_our_rate_over_theirs():
    """And a server that never held the limit gives no ratio, but a reason."""
    run = Recorder()
    rows = [
        row(bench_servers.OURS, 3000),
        row(bench_servers.TUNED, 2000),
        row(bench_servers.AS_IT_COMES, 500),
    ]
    bench.report(
        run, bench.Bench(), [*rows, row(bench_servers.RAY, 0), row(bench_servers.LIT, 1500, True)]
    )
    assert run.metrics["bench.ahead_of_torchserve_tuned"] == 1.5
    assert run.metrics["bench.ahead_of_litserve"] == 2.0
    assert run.metrics["bench.tuned_over_as_it_comes"] == 4.0
    assert run.metrics["bench.ahead_of_ray_serve"] is None
    assert "Ray Serve" in run.reasons["L4B.ahead_ray_serve"]
    assert set(run.reasons) == {"L4B.ahead_ray_serve"}
    assert "LitServe" in run.notes[0]
    assert [name for name, _ in run.figures] == ["bench"]


def test_smoke_claims_nothing():
    """One low rate says nothing about the highest."""
    run = Recorder()
    bench.report(run, bench.SCALES["smoke"], [row(name, 40) for name in bench_servers.SERVERS])
    assert {claim.id for claim in bench.CLAIMS} == set(run.reasons)
    assert all(value is None for name, value in run.metrics.items() if name.startswith("bench."))


def test_a_server_that_was_left_out_is_said():
    run = Recorder()
    bench.report(run, bench.Bench(), [row(bench_servers.OURS, 3000), row(bench_servers.LIT, 1500)])
    assert {"L4B.ahead_torchserve", "L4B.ahead_ray_serve", "L4B.tuning"} == set(run.reasons)


def test_the_table_is_sorted_by_rate_and_the_figure_has_every_server():
    rows = [row(bench_servers.LIT, 10), row(bench_servers.OURS, 3000)]
    lines = bench.table(rows).splitlines()
    assert [line.split("  ")[0] for line in lines[1:]] == [bench_servers.OURS, bench_servers.LIT]
    labels = [text.get_text() for text in draw_bench(rows, 50).axes[0].get_legend().get_texts()]
    assert labels == [bench_servers.LIT, bench_servers.OURS, "limit, 50 ms"]


def test_the_cpu_time_of_all_processes_counts():
    """A child of a child as well: a JVM's workers do most of the work."""
    # It stays: what a process that has ended took is no longer there to be read.
    burn = "import time\nwhile time.process_time() < 0.3: pass\nprint('burnt', flush=True)\n"
    burn += "time.sleep(60)"
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {burn!r}])"
    with supervised([sys.executable, "-c", code]) as child:
        child.output.readline()
        assert bench.cpu_seconds(child) >= 0.3


def test_every_server_is_set_as_the_deliverable_is(tmp_path, monkeypatch):
    """Batches, delay, queue, workers of ``make lab4``; "as it comes" keeps what it comes with."""
    config = for_device(Config(), "cpu")
    told = {}

    def noting(name):
        @contextmanager
        def serve(*arguments, **options):
            told[name] = (arguments, options)
            url = lambda *_: "http://none/"  # noqa: E731
            yield SimpleNamespace(prediction_url=url, headers={}, child=None)

        return serve

    for module, name in (
        ("server", "serve_bundle"),
        ("torchserve", "torchserve"),
        ("ray_serve", "ray_serve"),
        ("lit_serve", "lit_serve"),
    ):
        monkeypatch.setattr(f"labs.lab4_model_serving.{module}.{name}", noting(name))
    monkeypatch.setattr(
        "labs.lab4_model_serving.archive.archive_bundle", lambda *_: tmp_path / "intents.mar"
    )
    bundle = SimpleNamespace(name="intents", version="1.0", folder=tmp_path)

    def settings(server, name):
        with bench_servers.SERVERS[server](bundle, tmp_path, 2):
            return told[name]

    batches = {"max_batch": config.batch_size, "max_batch_delay_ms": config.max_batch_delay_ms}
    queue = {"max_queued": config.queue_size}
    ours = settings(bench_servers.OURS, "serve_bundle")[1]["settings"]
    assert (ours.max_batch, ours.max_queue, ours.runners) == (16, 200, 2)
    assert ours.max_delay_s == config.max_batch_delay_ms / 1000
    ray = settings(bench_servers.RAY, "ray_serve")[1]
    assert ray.items() >= {"replicas": 2, **batches, **queue}.items()
    lit = settings(bench_servers.LIT, "lit_serve")[1]
    assert lit.items() >= {"workers": 2, **batches, **queue}.items()
    (_, [spec]), options = settings(bench_servers.TUNED, "torchserve")
    assert (spec.workers, spec.batch_size, spec.max_batch_delay_ms) == (2, 16, 1)
    assert options["queue_size"] == config.queue_size
    (_, [spec]), options = settings(bench_servers.AS_IT_COMES, "torchserve")
    assert (spec.workers, spec.batch_size, spec.max_batch_delay_ms) == (2, 1, 100)
    assert options["queue_size"] == 100


def test_the_limit_is_the_deliverables(monkeypatch):
    """Same p99, same share that may fail."""
    given = []
    monkeypatch.setattr(
        "labs.lab4_model_serving.rate_search.find_rate",
        lambda url, bodies, slo, **_: given.append(slo),
    )
    contender = bench_servers.Contender("http://none/", {}, None)
    bench.search(Recorder(), bench.Bench(), "LitServe", contender, [b"{}"])
    assert given == [Slo(Config().p99_limit_ms, Config().failed_share)]


def test_the_own_server_comes_last():
    """What runs first finds the machine coolest; that must not be ours."""
    assert list(bench_servers.SERVERS)[-1] == bench_servers.OURS


def test_a_lead_within_the_precision_of_the_search_is_none():
    """The search ends within 10 %: only a ratio of 1.1 says that one is ahead."""
    for claim in bench.CLAIMS:
        assert (claim.op, claim.target) == (">=", 1 + bench.Bench().precision), claim.id
        assert "1.1" in claim.claim


def test_options_out_of_range_are_refused():
    with pytest.raises(InputError, match="servers = 'nginx'"):
        bench.Bench(servers=("nginx",))
    with pytest.raises(InputError, match="high"):
        replace(bench.Bench(), high=10.0)


@pytest.mark.slow
def test_one_server_is_loaded_and_its_cpu_time_taken(tiny_bundle, tmp_path, monkeypatch):
    """Ours, because it starts fastest; then as though no rate had held."""
    config = bench.Bench(high=0.0, common_rate=40, trial_s=0.8, warmup_s=0.2)
    run, bodies = Recorder(), [b'{"text": "pay"}']
    with bench_servers.SERVERS[bench_servers.OURS](tiny_bundle, tmp_path, 1) as contender:
        found = bench.measure(run, config, bench_servers.OURS, contender, bodies)
        assert found.cpu_s_per_1000 > 0
        assert (found.rate, found.result.failed, len(found.trials)) == (40, 0, 1)
        missed = SimpleNamespace(
            confirmed=None, at_limit=False, trials=[SimpleNamespace(rate=50.0, result=found.result)]
        )
        monkeypatch.setattr(bench, "search", lambda *_: missed)
        searched = bench.measure(
            run, replace(config, high=100.0), bench_servers.OURS, contender, bodies
        )
    assert (searched.rate, searched.trials[0][0]) == (0.0, 50.0)
