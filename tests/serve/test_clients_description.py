"""The address does what /openapi.json says: schemathesis makes requests of it, right ones and wrong ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings

if TYPE_CHECKING:
    from tests.serve.conftest import Here

schemathesis = pytest.importorskip("schemathesis", reason="schemathesis is not installed (extra `dev`)")

PATHS = ("/v1/chat/completions", "/v1/models", "/api/chat", "/health", "/metrics", "/page/lines")

few = settings(
    max_examples=5,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.generate],
)


@pytest.fixture(scope="module")
def operations(_served: Here) -> list[Any]:
    described = schemathesis.openapi.from_url(f"{_served.url}/openapi.json")
    return [found.ok() for found in described.get_all_operations()]


def test_what_is_served_is_described(operations: list[Any]) -> None:
    assert set(PATHS) <= {operation.path for operation in operations}
    assert all(operation.method.upper() in ("GET", "POST") for operation in operations)


def test_requests_of_the_description_are_answered_as_it_says(operations: list[Any]) -> None:
    from schemathesis.specs.openapi.checks import positive_data_acceptance

    # A name that no model has, or a place in no note, is refused although it could be one.
    excluded = [positive_data_acceptance]
    for operation in operations:

        @few
        @given(case=operation.as_strategy())
        def answered(case: Any) -> None:
            case.call_and_validate(excluded_checks=excluded, timeout=20)

        answered()


def test_requests_against_the_description_are_refused_and_break_nothing(operations: list[Any], served: Here) -> None:
    from schemathesis import GenerationMode

    for operation in operations:
        if not operation.body:
            continue

        @few
        @given(case=operation.as_strategy(generation_mode=GenerationMode.NEGATIVE))
        def refused(case: Any) -> None:
            if isinstance(case.body, dict):  # asked of us, not of the engine, which has rules of its own
                case.body["model"] = "archive"
            answer = case.call(timeout=20)
            assert answer.status_code < 500, (case.path, case.body, answer.text)
            if answer.status_code >= 400:
                assert "error" in answer.json()

        refused()
    assert served.archive.lane.turns.waiting == 0
