"""Prices, replicas for a peak, the cost of a million requests, and where the GPU gets cheaper."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import InputError
from labs.lab4_model_serving import cost

CASE = {"peak_rate": 1000.0, "mean_rate": 400.0, "replica_qps": 300.0, "hourly": 0.1}


@pytest.mark.exercise("4.15")
def test_replicas_are_whole_keep_headroom_and_have_a_spare() -> None:
    """1000/s at 60 % of 300/s are 5.56 replicas: six carry the peak and the seventh may die."""
    found = cost.fleet_cost(**CASE)
    assert found.replicas == 7, f"{found.replicas} replicas, expected ceil(1000 / 180) + 1 = 7"
    bare = cost.fleet_cost(**CASE, utilisation=1.0, spare=0).replicas
    assert bare == 4, f"{bare} replicas without headroom and spare, expected ceil(1000 / 300) = 4"


@pytest.mark.exercise("4.15")
def test_a_million_is_divided_by_the_requests_that_come() -> None:
    """7 x 0.1 an hour for 400/s x 3600 s: the nights are paid for, so the mean rate counts."""
    found = cost.fleet_cost(**CASE)
    assert found.hourly == pytest.approx(0.7), f"hourly {found.hourly}, expected 0.7"
    expected = 0.7 / (400 * 3600) * 1e6
    assert found.per_million == pytest.approx(expected), (
        f"{found.per_million:.4f} a million, expected {expected:.4f}"
    )


@pytest.mark.exercise("4.15")
def test_utilisation_is_of_the_measured_rate_and_of_all_replicas() -> None:
    """What the dashboard will show in the peak, and on average."""
    found = cost.fleet_cost(**CASE)
    peak, mean = 1000 / (7 * 300), 400 / (7 * 300)
    assert found.utilisation_at_peak == pytest.approx(peak), (
        f"{found.utilisation_at_peak:.3f} at the peak, expected {peak:.3f}"
    )
    assert found.mean_utilisation == pytest.approx(mean), (
        f"{found.mean_utilisation:.3f} on average, expected {mean:.3f}"
    )


@pytest.mark.exercise("4.15")
def test_exactly_full_replicas_are_not_rounded_up_by_floating_point() -> None:
    """1080 / (300 x 0.6) is 6: a seventh for 1e-16 would be 17 % of the bill."""
    for replicas in range(1, 50):
        peak = replicas * 300 * 0.6
        found = cost.fleet_cost(**{**CASE, "peak_rate": peak, "mean_rate": peak / 2}, spare=0)
        assert found.replicas == replicas, f"{found.replicas} for {peak}/s, expected {replicas}"


@settings(derandomize=True, deadline=None, max_examples=30)
@given(st.floats(1, 1e5), st.floats(1, 1e4), st.floats(0.1, 1), st.integers(0, 3))
def test_a_fleet_carries_its_peak_without_its_spares(
    peak: float, qps: float, share: float, spare: int
) -> None:
    """Take the spares away, and the rest still runs at or below the planned share."""
    found = cost.fleet_cost(
        peak_rate=peak,
        mean_rate=peak / 2,
        replica_qps=qps,
        hourly=1.0,
        utilisation=share,
        spare=spare,
    )
    alive = found.replicas - spare
    assert alive >= 1
    assert peak <= alive * qps * share * (1 + 1e-6)
    assert alive == 1 or peak > (alive - 1) * qps * share * (1 - 1e-6)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"peak_rate": 0.0}, "peak_rate"),
        ({"mean_rate": 2000.0}, "mean_rate"),
        ({"replica_qps": float("nan")}, "replica_qps"),
        ({"hourly": -0.1}, "hourly"),
        ({"utilisation": 1.2}, "utilisation"),
        ({"spare": -1}, "spare"),
    ],
)
def test_impossible_numbers_are_refused(change: dict[str, float], named: str) -> None:
    """A cost of NaN or below zero would look like an answer."""
    with pytest.raises(InputError, match=named):
        cost.fleet_cost(**{**CASE, **change})


def test_the_price_table_of_the_lab_can_be_read() -> None:
    """Currency, date, source, CPU and GPU instances."""
    table = cost.read_prices()
    assert table.currency == "USD"
    assert {bool(each.gpu) for each in table.instances.values()} == {True, False}
    assert all(each.source.startswith("https://") for each in table.instances.values())
    with pytest.raises(InputError, match=r"no price for 'z9'; the table has m7g|no price for 'z9'"):
        table["z9"]


HEAD = 'currency = "EUR"\nas_of = "2026-01-01"\nregion = "x"\n'


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ('[[instance]]\nname = "a"\nvcpus = 2\nmemory_gib = 4\n', "'a' has no 'hourly'"),
        ('[[instance]]\nname = "a"\nhourly = -1\nvcpus = 2\nmemory_gib = 4', "hourly of 'a' is -1"),
        ('[[instance]]\nname = "a"\nhourly = "1"\nvcpus = 2\nmemory_gib = 4', "hourly of 'a'"),
        ('[[instance]]\nname = "a"\nhourly = nan\nvcpus = 2\nmemory_gib = 4', "hourly of 'a'"),
        (
            '[[instance]]\nname = "a"\nhourly = 1\nvcpus = 2\nmemory_gib = 4\nprice = 3',
            "unknown 'price'",
        ),
        (2 * '[[instance]]\nname = "a"\nhourly = 1\nvcpus = 2\nmemory_gib = 4\n', "twice"),
        ("", "has no 'instance'"),
        ("instance = []", "holds no instance"),
        ("][", "no TOML"),
    ],
)
def test_a_broken_price_table_names_what_is_wrong(tmp_path: Path, rows: str, message: str) -> None:
    """A missing or negative price must not become a cheap answer."""
    path = tmp_path / "prices.toml"
    path.write_text(HEAD + rows, encoding="utf-8")
    with pytest.raises(InputError, match=message):
        cost.read_prices(path)


def test_a_missing_price_table_is_named(tmp_path: Path) -> None:
    """With its path."""
    with pytest.raises(InputError, match="no price table at"):
        cost.read_prices(tmp_path / "none.toml")


CPU = cost.Option("cpu", hourly=0.1, replica_qps=500)
GPU = cost.Option("gpu", hourly=1.0, replica_qps=10_000)


def test_the_gpu_pays_off_from_the_last_crossing_on() -> None:
    """Below it the GPU idles; the staircases cross more than once, and only the last one counts."""
    rates = np.arange(100.0, 20_000.0, 100.0)
    compared = cost.compare([CPU, GPU], rates)
    found = compared.break_even("cpu", "gpu")
    assert found is not None
    after = compared.hourly[:, rates >= found]
    assert (after[1] <= after[0] + 1e-9).all()
    before = int(np.flatnonzero(rates < found)[-1])
    assert compared.hourly[1, before] > compared.hourly[0, before]
    assert compared.cheapest()[0] == "cpu"
    assert compared.cheapest()[-1] == "gpu"


def test_an_option_that_never_pays_off_has_no_break_even() -> None:
    """A GPU ten times as dear and twice as fast."""
    slow = cost.Option("gpu", hourly=1.0, replica_qps=1000)
    compared = cost.compare([CPU, slow], np.arange(1000.0, 50_000.0, 1000.0))
    assert compared.break_even("cpu", "gpu") is None
    with pytest.raises(InputError, match="tpu"):
        compared.break_even("cpu", "tpu")


def test_a_million_gets_cheaper_as_the_fleet_grows() -> None:
    """Spares and round-ups are shared by more requests; the limit is price over usable rate."""
    compared = cost.compare([CPU], np.array([10.0, 1000.0, 100_000.0]), peak_to_mean=1.0)
    prices = compared.per_million[0]
    assert (np.diff(prices) < 0).all()
    assert prices[-1] == pytest.approx(0.1 / (500 * 0.6 * 3600) * 1e6, rel=0.01)


def test_following_the_load_saves_what_the_nights_do_not_need() -> None:
    """A day with a mean of 1000/s and a peak of 2000/s: the fleet for the peak idles at night."""
    rates = cost.daily_rates(1000.0)
    assert rates.mean() == pytest.approx(1000)
    assert rates.max() == pytest.approx(2000)
    following, fixed = cost.autoscaled_replica_hours(rates, 500.0)
    assert fixed == 24 * 8
    assert 0.5 < following / fixed < 0.75


def test_a_rate_is_priced_by_a_machine_like_the_one_it_was_measured_on() -> None:
    """The rate of 16 cores at the price of two would be eight times too cheap."""
    prices = cost.read_prices()
    two = cost.like_this(prices, cpus=2)
    assert two is not None
    assert (two.vcpus, two.gpu) == (2, "")
    assert cost.like_this(prices, cpus=16) is None
    small = cost.like_this(prices, cpus=16, gpu="NVIDIA L4")
    assert small is not None
    assert small.gpu == "NVIDIA L4"
    assert cost.like_this(prices, cpus=2, gpu="NVIDIA H200") is None
