"""What is counted is counted once, and nothing of what was said is among it."""

from __future__ import annotations

import json
import time
from typing import Any

import httpx2
import pytest

from quietmind.serve.tally import SECONDS, Spread, Tally

CHAT = "/v1/chat/completions"


def numbers(url: str) -> dict[str, float]:
    answer = httpx2.get(f"{url}/metrics", trust_env=False)
    assert answer.headers["content-type"].startswith("text/plain; version=")
    lines = [line.rpartition(" ") for line in answer.text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in lines}


def post(url: str, content: Any) -> httpx2.Response:
    return httpx2.post(url + CHAT, json=content, timeout=20, trust_env=False)


def test_requests_answers_and_tokens_are_counted(served: Any) -> None:
    before = numbers(served.url)
    words = "How long does a single watering session last at the lighthouse?"
    asked = {"messages": [{"role": "user", "content": words}]}
    answered = post(served.url, {"model": "archive", **asked}).json()["usage"]
    passed = post(served.url, {"model": served.lane.name, "stream": True, **asked})
    assert passed.status_code == 200
    httpx2.get(f"{served.url}/no/such/lighthouse", trust_env=False)
    httpx2.get(f"{served.url}/v1/models", headers={"Origin": "http://evil.example"}, trust_env=False)
    after: dict[str, float] = {}

    def more(name: str) -> float:
        return after.get(name, 0.0) - before.get(name, 0.0)

    deadline = time.monotonic() + 10
    while more(f'quietmind_requests_total{{route="{CHAT}",status="200"}}') < 2:  # counted behind their last bytes
        assert time.monotonic() < deadline
        after = numbers(served.url)
    assert more('quietmind_requests_total{route="none",status="404"}') == 1
    assert more('quietmind_requests_total{route="none",status="403"}') == 1
    assert more('quietmind_requests_total{route="/metrics",status="200"}') >= 1
    assert more(f'quietmind_request_seconds_count{{route="{CHAT}"}}') == 2
    model = f'model="{served.lane.name}"'
    assert more(f"quietmind_first_token_seconds_count{{{model}}}") == 2
    assert more(f'quietmind_tokens_total{{kind="written",{model}}}') >= answered["completion_tokens"]
    assert after[f"quietmind_engine_ready{{{model}}}"] == 1
    assert after[f'quietmind_in_line{{{model},state="waiting"}}'] == 0
    assert after["quietmind_snapshot_bytes"] == 0
    assert "lighthouse" not in httpx2.get(f"{served.url}/metrics", trust_env=False).text


def test_the_numbers_need_the_key_where_there_is_one(serve: Any, tmp_path: Any) -> None:
    from quietmind.serve.guard import Guard

    with serve(tmp_path, guard=Guard("k" * 32), index=False) as here:
        assert httpx2.get(f"{here.url}/metrics", trust_env=False).status_code == 401
        assert httpx2.get(f"{here.url}/health", trust_env=False).status_code == 200


@pytest.mark.parametrize(
    ("said", "tokens"),
    [
        ({"timings": {"cache_n": 5, "prompt_n": 7, "prompt_ms": 1.5, "predicted_n": 3}}, (5, 7, 3)),
        (
            {"usage": {"prompt_tokens": 9, "completion_tokens": 4, "prompt_tokens_details": {"cached_tokens": 2}}},
            (2, 7, 4),
        ),
        ({"usage": {"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13}}, (0, 9, 4)),
        ({"content": '"predicted_n":99 "completion_tokens":99'}, (0, 0, 0)),
        ({"usage": None}, (0, 0, 0)),
    ],
)
def test_an_engine_tells_of_its_tokens_in_either_words_and_a_text_tells_nothing(
    said: dict[str, Any], tokens: tuple[int, int, int]
) -> None:
    for written in (json.dumps(said), json.dumps(said, separators=(",", ":"))):
        tally = Tally()
        tally.passed(written.encode())
        assert tuple(tally.tokens[kind] for kind in ("cached", "prefilled", "written")) == tokens


def test_a_spread_counts_each_at_its_bound_and_above() -> None:
    spread = Spread()
    for seconds in (0.0, SECONDS[0], SECONDS[0] + 1e-9, SECONDS[-1] * 2):
        spread.add(seconds)
    buckets = dict(spread.buckets())
    assert buckets[str(SECONDS[0])] == 2
    assert buckets[str(SECONDS[1])] == buckets[str(SECONDS[-1])] == 3
    assert buckets["+Inf"] == 4
