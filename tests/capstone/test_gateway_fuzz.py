"""Requests made from the OpenAPI, valid and not: no error of the server, no undocumented answer."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings, strategies
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi import checks

from capstone.feed import DEADLINES_MS
from capstone.gateway_config import GatewayConfig
from capstone.serving import gateway_process
from common.ports import LOOPBACK, free_port
from tests.capstone import tiny_bundle

pytestmark = pytest.mark.slow
ADMIN = {"Authorization": "Bearer token-of-the-admin-0"}
CHECKS = [
    not_a_server_error, checks.status_code_conformance, checks.content_type_conformance,
    checks.response_schema_conformance,
]  # fmt: skip
NEGATIVE = GenerationMode.NEGATIVE


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """A gateway's address, and the folder with its log."""
    folder = tmp_path_factory.mktemp("fuzz")
    config = GatewayConfig(
        bundles=[str(tiny_bundle.build(folder / "bundles" / "one").folder)],
        users=str(tiny_bundle.write_users(folder / "users.json")),
        log=str(folder / "events"),
        port=free_port(),
        bundle_root=str(folder / "bundles"),
        deadlines_ms=dict.fromkeys(DEADLINES_MS, 10_000.0),
    )
    with gateway_process(
        config, folder, token="token-of-a-client-0", admin_token=ADMIN["Authorization"][7:]
    ):
        yield f"http://{LOOPBACK}:{config.port}", folder


def test_whatever_is_sent_the_answer_is_a_documented_one(gateway: tuple[str, Path]) -> None:
    """A status that nobody wrote down is one that no client handles; a 5xx is a bug of ours."""
    schema = schemathesis.openapi.from_url(f"{gateway[0]}/openapi.json", headers=ADMIN)
    operations = [result.ok() for result in schema.get_all_operations()]
    assert len(operations) == 11
    for operation in operations:

        @settings(
            max_examples=12, deadline=None, derandomize=True, database=None,
            suppress_health_check=list(HealthCheck),
        )  # fmt: skip
        @given(strategies.one_of(operation.as_strategy(), operation.as_strategy(NEGATIVE)))
        def holds(case: Any) -> None:
            case.call_and_validate(headers=ADMIN, checks=CHECKS)

        holds()


def test_after_all_of_that_the_gateway_serves_as_before(gateway: tuple[str, Path]) -> None:
    """Nothing that a stranger sent is left in a history, and nothing is in its log of errors."""
    url, folder = gateway
    people = httpx.get(f"{url}/users", headers=ADMIN).json()
    assert [person["watched"] for person in people] == [6] * tiny_bundle.N_USERS
    answer = httpx.post(f"{url}/feed", json={"user_id": 3}, headers=ADMIN).json()
    assert answer["fallback"] is None
    assert "Traceback" not in (folder / "gateway.log").read_text()
