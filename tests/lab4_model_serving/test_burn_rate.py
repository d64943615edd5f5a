"""Error budgets, burn rates, and what two windows see that one does not."""

import numpy as np
import pytest

from common.errors import InputError
from labs.lab4_model_serving.burn_rate import (
    FAST,
    SLOW,
    TICKET,
    WORKBOOK,
    burn_rates,
    firing,
    incidents,
)

BUDGET = 0.01


def test_the_table_spends_two_five_and_ten_percent_of_the_budget():
    """The factors are no magic: 14.4 = 2 % of 720 hours, in one hour."""
    assert [alert.budget_spent for alert in WORKBOOK] == pytest.approx([0.02, 0.05, 0.10])


def test_a_burn_rate_is_the_share_of_requests_and_not_the_mean_of_minutes():
    """One bad request in a night minute of two is not half of the traffic."""
    total = np.array([1000.0, 2.0])
    bad = np.array([0.0, 1.0])
    assert burn_rates(bad, total, 2, BUDGET)[-1] == pytest.approx(1 / 1002 / BUDGET)


def test_only_the_window_counts_and_nothing_asked_is_no_burn():
    """0 / 0 is 0 here; Prometheus says NaN, which is above no threshold either."""
    total = np.array([100.0, 100.0, 100.0, 0.0, 0.0])
    bad = np.array([100.0, 0.0, 0.0, 0.0, 0.0])
    assert burn_rates(bad, total, 2, 0.1).tolist() == [10.0, 5.0, 0.0, 0.0, 0.0]


def test_an_outage_fires_when_the_formula_says():
    """A steady share s fires after long * threshold * budget / s minutes."""
    total = np.full(24 * 60 + 60, 1e6)
    bad = np.zeros_like(total)
    bad[24 * 60 :] = 0.5 * 1e6
    first = int(np.argmax(firing(bad, total, FAST, BUDGET))) - 24 * 60 + 1
    assert FAST.minutes_to_fire(0.5, BUDGET) == pytest.approx(17.28)
    assert first == 18
    assert FAST.minutes_to_fire(0.1, BUDGET) == float("inf")


def test_the_short_window_ends_the_alert():
    """Without it the page would stay for most of an hour after the repair."""
    total = np.full(26 * 60, 1e6)
    bad = np.zeros_like(total)
    bad[24 * 60 : 24 * 60 + 30] = 0.5 * 1e6
    fired = np.flatnonzero(firing(bad, total, FAST, BUDGET))
    alone = np.flatnonzero(burn_rates(bad, total, 60, BUDGET) > FAST.threshold)
    end = 24 * 60 + 30
    assert fired[-1] - end < 5
    assert alone[-1] - end > 20


def test_each_incident_meets_the_alert_made_for_it():
    """A blip wakes nobody, an outage pages fast, a leak pages through six hours."""
    found = {
        each.name: {alert.name: firing(each.bad, each.total, alert, BUDGET) for alert in WORKBOOK}
        for each in incidents(seed=0)
    }
    blip, outage, leak, quiet = found.values()
    assert not blip[FAST.name].any()
    assert not blip[SLOW.name].any()
    assert outage[FAST.name].any()
    assert not leak[FAST.name].any()
    assert leak[SLOW.name].any()
    assert leak[TICKET.name].any()
    assert not any(alert.any() for alert in quiet.values())


def test_bad_input_is_named():
    """Shapes and the budget."""
    with pytest.raises(InputError, match="bad"):
        burn_rates(np.zeros(2), np.zeros(3), 1, BUDGET)
    with pytest.raises(InputError, match="budget"):
        burn_rates(np.zeros(2), np.zeros(2), 1, 1.0)
