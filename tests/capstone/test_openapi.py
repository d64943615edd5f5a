"""Fuzz of everything that the gateway's OpenAPI describes, over real HTTP, with schemathesis."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import schemathesis
from schemathesis import APIOperation
from schemathesis.core.result import Ok, Result
from schemathesis.engine import events, from_schema

from tests.capstone import tiny_bundle
from tests.capstone.local_gateway import Gateway, local_gateway

pytestmark = pytest.mark.slow
OPERATIONS = (
    "POST /feed", "POST /events", "GET /users", "GET /stages", "GET /experiment",
    "PUT /experiment", "POST /bundles", "POST /interleaved", "PUT /withdrawn", "GET /health",
    "GET /ready", "GET /metrics",
)  # fmt: skip
CHECKS = {
    "not_a_server_error", "status_code_conformance", "content_type_conformance",
    "response_schema_conformance", "negative_data_rejection", "ignored_auth",
    "unsupported_method", "allow_header_conformance",
}  # fmt: skip
REFUSALS = [400, 401, 403, 404, 405, 409, 413, 415, 422]


@dataclass
class Findings:
    """What schemathesis sent to one operation, and what it found."""

    statuses: Counter[int] = field(default_factory=Counter)
    checked: set[str] = field(default_factory=set)
    failures: list[str] = field(default_factory=list)


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("openapi")
    # A deadline that a busy machine misses is no finding: then a feed is a fallback, and 200.
    with local_gateway(
        folder, tiny_bundle.build(folder / "bundle"), bundle_root=str(folder)
    ) as running:
        yield running


@pytest.fixture(scope="module")
def findings(gateway: Gateway) -> dict[str, Findings]:
    """By operation: the boundary values of every field, then random bodies, good and bad."""
    config = schemathesis.Config.from_dict(
        {
            "headers": gateway.admin_header,
            "generation": {"deterministic": True, "max-examples": 15, "database": "none"},
            "phases": {"examples": {"enabled": False}, "stateful": {"enabled": False}},
            "checks": {
                # JSON Schema cannot say "sum to 1" or "an item of the catalogue".
                "positive_data_acceptance": {"enabled": False},
                "negative_data_rejection": {"expected-statuses": REFUSALS},
            },
        }
    )
    url = f"{gateway.url}/openapi.json"
    schema = schemathesis.openapi.from_url(url, config=config, headers=gateway.admin_header)
    found = {each.label: Findings() for each in map(_described, schema.get_all_operations())}
    for event in from_schema(schema).execute():
        assert not isinstance(event, events.NonFatalError | events.FatalError), event
        if not isinstance(event, events.ScenarioFinished):
            continue
        recorder = event.recorder
        assert recorder.label is not None
        mine = found[recorder.label]
        mine.statuses.update(
            sent.response.status_code
            for sent in recorder.interactions.values()
            if sent.response is not None
        )
        for check in (each for several in recorder.checks.values() for each in several):
            mine.checked.add(check.name)
            if check.failure_info is not None:
                told = check.failure_info
                mine.failures.append(f"{check.name}: {told.failure.message}\n{told.code_sample}")
    return found


def _described(found: Result[Any, Any]) -> APIOperation:
    assert isinstance(found, Ok), found
    operation: APIOperation = found.ok()
    return operation


def test_no_operation_is_left_out(findings: dict[str, Findings]) -> None:
    """What is added to the gateway is fuzzed, or this fails; every check has been at work."""
    assert set(findings) == set(OPERATIONS)
    assert set.union(*(each.checked for each in findings.values())) >= CHECKS


@pytest.mark.parametrize("operation", OPERATIONS)
def test_the_service_does_what_its_openapi_says(
    findings: dict[str, Findings], operation: str
) -> None:
    """No 5xx; only declared statuses, types and models; what does not fit is refused."""
    found = findings[operation]
    assert found.failures == []
    assert 401 in found.statuses or operation.endswith(("/health", "/ready", "/metrics"))


@pytest.mark.parametrize("operation", ["POST /feed", "PUT /withdrawn"])
def test_the_fuzz_gets_through_to_the_service(
    findings: dict[str, Findings], operation: str
) -> None:
    """A fuzz whose every request is refused at the door has tested the door."""
    statuses = findings[operation].statuses
    assert statuses[200] >= 3, statuses
    assert statuses[422] >= 10, statuses


def test_the_service_is_well_after_it(findings: dict[str, Findings], gateway: Gateway) -> None:
    """A person's feed is full, and what was refused is in no history.

    The fuzz uses what the service answers: it reacts to a feed that it was given, with its id.
    """
    gateway.admin.put("/withdrawn", json={"items": []}).raise_for_status()
    assert len(gateway.feed(1)["items"]) == 10
    more = sum(gateway.watched(user) for user in range(1, 21)) - 20 * 6
    taken = gateway.count("feed_events_total", outcome="accepted")
    assert more <= taken <= findings["POST /events"].statuses[200]
