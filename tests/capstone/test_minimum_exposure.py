"""The protected get their places, and nobody loses more than that takes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from capstone.catalogue import Catalogue
from capstone.minimum_exposure import is_protected, small_creators, with_minimum_exposure
from common.errors import InputError


@settings(derandomize=True, deadline=None, max_examples=30)
@given(st.lists(st.booleans(), min_size=5, max_size=25), st.sampled_from([0.1, 0.25, 0.5, 1.0]))
def test_every_prefix_holds_its_share_if_there_are_so_many(
    protected: list[bool], share: float
) -> None:
    """And within each group the order stays: nobody is passed by a worse one of their own."""
    k, members = 5, np.array(protected)
    places = with_minimum_exposure(members, k, share)
    held = np.cumsum(members[places])
    wanted = np.floor(share * np.arange(1, k + 1) + 1e-9)
    assert (held >= np.minimum(wanted, members.sum())).all()
    for group in (True, False):
        own = places[members[places] == group]
        assert own.tolist() == np.flatnonzero(members == group)[: len(own)].tolist()


def test_an_order_that_keeps_the_minimum_stays_as_it_is() -> None:
    """A guarantee that is met costs nothing."""
    members = np.array([False, True, False, True, False, True])
    assert with_minimum_exposure(members, 6, 0.5).tolist() == [0, 1, 2, 3, 4, 5]
    assert with_minimum_exposure(~members & False, 4, 0.5).tolist() == [0, 1, 2, 3]


def test_small_creators_have_the_smallest_audience_and_at_most_the_share() -> None:
    """Creator 1 has one film that many watch, creator 3 three films that nobody does."""
    creator = np.array([0, 1, 2, 2, 3, 3, 3, 2, 2, 2])
    visible = np.arange(10) > 0
    catalogue = Catalogue(("",) * 10, ((),) * 10, creator, creator, visible)
    audience = np.array([0, 90, 5, 5, 1, 0, 0, 5, 5, 5])
    assert small_creators(catalogue, audience, 0.4) == (3,)
    assert small_creators(catalogue, audience, 0.9) == (2, 3)
    assert small_creators(catalogue, audience, 0.1) == ()
    with pytest.raises(InputError, match="share of the catalogue"):
        small_creators(catalogue, audience, 1.0)


def test_creators_outside_the_table_are_not_protected() -> None:
    """A creator who came after the group was written down."""
    creators = np.array([0, 3, 4, 5, 900])
    assert is_protected(creators, (3, 5)).tolist() == [False, True, False, True, False]
    assert not is_protected(creators, ()).any()
