"""What hostile pages, names, keys, paths and texts get at the address: over real HTTP, on every path that is served."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from quietmind.serve.guard import Guard

pytest.importorskip("fastapi", reason="serving takes more packages: pip install 'quietmind[serve]'")

KEY = "k" * 43
ELSEWHERE = "notes.example.net"
VERSION = "2025-06-18"  # of MCP, with sessions
FILES = "/page/files/"  # what the page is made of, which says nothing of anybody
CHAT = "/v1/chat/completions"
OBSIDIAN = "app://obsidian.md"
FOREIGN_HOSTS = [
    *("evil.example", "evil.example:4874", "127.0.0.1.evil.example", "localhost.evil.example", "127-0-0-1.nip.io"),
    *("0.0.0.0", "[::]", "2130706433", "0x7f000001", "10.0.0.1", "127.0.0.1@evil.example", "127.0.0.1, evil.example"),
]
FOREIGN_ORIGINS = [
    *("https://evil.example", "null", "file://", "chrome-extension://abc", "http://localhost.evil.example"),
    *("app://obsidian.md.evil", "app://other", "http://127.0.0.1@evil.example", "https://obsidian.md"),
]


@pytest.fixture(scope="module")
def keyed(tmp_path_factory: pytest.TempPathFactory, serve: Callable[..., Any]) -> Iterator[Any]:
    """An address that demands a key, and has another name elsewhere."""
    with serve(tmp_path_factory.mktemp("keyed"), guard=Guard(KEY, frozenset({ELSEWHERE})), index=False) as here:
        yield here


def paths_of(here: Any) -> list[tuple[str, str]]:
    """Return all that is served, as methods and paths: what is described, and what is not."""
    described = here.gateway._app.openapi()["paths"]
    found = [(method.upper(), path) for path, methods in described.items() for method in methods]
    assert len(found) > 15
    return [*found, ("POST", "/mcp"), ("GET", "/mcp"), ("GET", "/"), ("GET", "/nothing"), ("GET", "/openapi.json")]


def ask(url: str, method: str = "GET", path: str = "/health", **headers: str) -> httpx2.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx2.request(method, url + path, headers=named, timeout=20, trust_env=False)


def code(answer: httpx2.Response) -> Any:
    error = answer.json()["error"]
    return error if isinstance(error, str) else error["code"]  # a text, at Ollama's paths


@pytest.mark.parametrize("host", FOREIGN_HOSTS)
def test_a_foreign_name_of_the_address_is_refused(served: Any, host: str) -> None:
    answer = ask(served.url, host=host)
    assert (answer.status_code, code(answer)) == (403, "host")


@pytest.mark.parametrize("origin", FOREIGN_ORIGINS)
def test_a_page_of_a_foreign_origin_is_refused_and_told_nothing(served: Any, origin: str) -> None:
    for method, headers in (("GET", {}), ("OPTIONS", {"access_control_request_method": "POST"})):
        answer = ask(served.url, method, origin=origin, **headers)
        assert (answer.status_code, code(answer)) == (403, "origin")
        assert not [name for name in answer.headers if name.startswith("access-control-")]


def test_no_path_at_all_answers_foreign_names_or_pages(served: Any) -> None:
    with httpx2.Client(base_url=served.url, trust_env=False, timeout=60) as client:
        for method, path in paths_of(served):
            for header, refused in (({"host": "evil.example"}, "host"), ({"origin": "https://evil.example"}, "origin")):
                answer = client.request(method, path, headers=header)
                assert answer.status_code == 403, (method, path)
                assert refused in code(answer).lower(), (method, path)


@pytest.mark.parametrize("origin", [OBSIDIAN, "capacitor://localhost", "http://localhost:3000", "http://127.0.0.1:1"])
def test_pages_that_may_ask_are_told_so_and_no_others(served: Any, origin: str) -> None:
    asked = {"access_control_request_method": "POST", "access_control_request_private_network": "true"}
    wanted = "authorization, content-type, x-stainless-os"
    before = ask(served.url, "OPTIONS", CHAT, origin=origin, access_control_request_headers=wanted, **asked)
    assert (before.status_code, before.content) == (204, b"")
    assert before.headers["access-control-allow-origin"] == origin
    assert before.headers["access-control-allow-headers"] == wanted
    assert "POST" in before.headers["access-control-allow-methods"]
    assert before.headers["access-control-allow-private-network"] == "true"
    for answer in (ask(served.url, origin=origin), ask(served.url, path="/nothing", origin=origin)):
        assert answer.headers["access-control-allow-origin"] == origin
        assert "x-queue-position" in answer.headers["access-control-expose-headers"]
        assert "access-control-allow-credentials" not in answer.headers
        assert answer.headers["vary"] == "origin"
    assert "access-control-allow-origin" not in ask(served.url).headers


def test_a_header_that_is_none_is_not_repeated_to_a_page(served: Any) -> None:
    headers = [(b"origin", OBSIDIAN.encode()), (b"access-control-request-method", b"GET")]
    headers.append((b"access-control-request-headers", b"x\xe9"))
    answer = httpx2.options(served.url, headers=headers, trust_env=False)
    assert answer.status_code == 204
    assert "access-control-allow-headers" not in answer.headers


def test_every_answer_says_that_it_is_not_to_be_run_embedded_or_kept(served: Any) -> None:
    for path in ("/health", "/v1/models", "/nothing", "/page/status", "/openapi.json", "/"):
        answer = ask(served.url, path=path, accept="text/html")
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cross-origin-resource-policy"] == "same-origin"
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
        assert answer.headers["referrer-policy"] == "no-referrer"
    assert ask(served.url, path="/page/status").headers["cache-control"] == "no-store"


def test_no_description_of_the_api_loads_anything_from_elsewhere(served: Any) -> None:
    for path in ("/docs", "/redoc"):
        assert ask(served.url, path=path).status_code == 404
    assert "http" not in ask(served.url, path="/", accept="text/html").text.replace("http-equiv", "")


def test_every_path_demands_the_key_but_health_and_the_empty_page(keyed: Any) -> None:
    free = []
    with httpx2.Client(base_url=keyed.url, trust_env=False, timeout=60) as client:
        for method, path in paths_of(keyed):
            answer = client.request(method, path)
            if answer.status_code == 401:
                assert "key" in code(answer), (method, path)
            else:
                free.append(path)
    assert {path for path in free if not path.startswith(FILES)} == {"/health", "/"}


@pytest.mark.parametrize(
    "header", [{"authorization": f"Bearer {KEY}"}, {"authorization": f"bearer {KEY}"}, {"x_api_key": KEY}]
)
def test_the_key_opens_in_either_header(keyed: Any, header: dict[str, str]) -> None:
    assert ask(keyed.url, path="/v1/models", **header).status_code == 200


def test_by_another_name_that_was_given_everything_answers(keyed: Any) -> None:
    shown = {"host": ELSEWHERE, "origin": f"https://{ELSEWHERE}", "authorization": f"Bearer {KEY}"}
    with httpx2.Client(base_url=keyed.url, trust_env=False, headers=shown, timeout=60) as client:
        for method, path in paths_of(keyed):
            answer = client.request(method, path)
            assert answer.status_code not in (401, 403, 421), (method, path, answer.text)
            assert answer.headers["access-control-allow-origin"] == f"https://{ELSEWHERE}"


def test_a_browser_may_ask_whether_it_may_ask_without_the_key_and_reads_why_it_is_refused(keyed: Any) -> None:
    before = ask(keyed.url, "OPTIONS", CHAT, origin=OBSIDIAN, access_control_request_method="POST")
    assert before.status_code == 204
    assert ask(keyed.url, "OPTIONS", CHAT, access_control_request_method="POST").status_code == 401  # no browser
    refused = ask(keyed.url, "POST", CHAT, origin=OBSIDIAN)
    assert refused.status_code == 401
    assert refused.headers["access-control-allow-origin"] == OBSIDIAN


def test_who_guesses_keys_waits_ever_longer_and_the_right_key_opens_meanwhile(
    serve: Callable[..., Any], tmp_path: Path
) -> None:
    with serve(tmp_path, guard=Guard(KEY), index=False) as here:

        def guess() -> None:
            for _ in range(2):
                answers.append(ask(here.url, path="/v1/models", authorization="Bearer " + "x" * 43))

        answers: list[httpx2.Response] = []
        first = [ask(here.url, path="/v1/models", authorization="Bearer wrong").status_code for _ in range(5)]
        assert first == [401] * 5
        guessing = [threading.Thread(target=guess) for _ in range(3)]
        for thread in guessing:
            thread.start()
        for _ in range(5):
            assert ask(here.url, path="/v1/models", authorization=f"Bearer {KEY}").status_code == 200
        for thread in guessing:
            thread.join()
        assert {answer.status_code for answer in answers} == {429}
        waits = sorted(int(answer.headers["retry-after"]) for answer in answers)
        assert waits == [1, 2, 4, 8, 16, 32]
        assert code(answers[0]) == "too_many_wrong_keys"
        assert ask(here.url, path="/v1/models").status_code == 401  # no key at all is no guess


OUTSIDE = [
    *("/etc/passwd", "../../../../../../etc/passwd", "..%2f..%2fetc%2fpasswd", "%2e%2e/%2e%2e/etc/passwd"),
    *("file:///etc/passwd", "\\\\server\\share", "~/.ssh/id_rsa", "/proc/self/environ", "note.md\x00.txt", "", "."),
    *("../LICENSE", "../../pyproject.toml", "archive.db", "/dev/zero", "..", "/"),
]


@pytest.mark.parametrize("path", OUTSIDE)
def test_no_link_of_a_citation_leads_out_of_the_archive(served: Any, path: str) -> None:
    inside = next(served.notes.rglob("*.md"))
    for asked in (path, str(served.notes / path), f"{inside}/../../../{path}", str(served.workspace / path)):
        answer = httpx2.get(
            f"{served.url}/page/lines", params={"path": asked, "first": 1, "last": 9}, timeout=20, trust_env=False
        )
        assert 400 <= answer.status_code < 500, answer.text
        assert "root:" not in answer.text


def test_no_path_given_by_mcp_leads_out_of_the_archive(served: Any) -> None:
    pytest.importorskip("mcp", reason="MCP takes more packages: pip install 'quietmind[mcp]'")
    with session_of(served.url) as session:
        for path in (each for name in OUTSIDE for each in (name, str(served.notes / name))):
            for tool, more in (("read_passage", {"first": 1, "last": 9}), ("links", {})):
                params = {"name": tool, "arguments": {"path": path, **more}}
                said = call(session, "tools/call", params)
                assert "error" in said or said["result"]["isError"], (path, said)
                assert "root:" not in json.dumps(said)


@contextmanager
def session_of(url: str) -> Iterator[httpx2.Client]:
    """Yield a session of MCP without the SDK, which would tidy up what is hostile."""
    headers = {"accept": "application/json, text/event-stream"}
    about = {"protocolVersion": VERSION, "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}
    with httpx2.Client(base_url=url, headers=headers, timeout=30, trust_env=False) as session:
        begun = session.post("/mcp", json={"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": about})
        session.headers.update({"mcp-session-id": begun.headers["mcp-session-id"], "mcp-protocol-version": VERSION})
        session.post("/mcp", json={"jsonrpc": "2.0", "method": "notifications/initialized"})
        yield session
        session.delete("/mcp")


def call(session: httpx2.Client, method: str, params: dict[str, Any]) -> dict[str, Any]:
    answer = session.post("/mcp", json={"jsonrpc": "2.0", "id": 2, "method": method, "params": params})
    data = [line[6:] for line in answer.text.splitlines() if line.startswith("data: {")] or [answer.text]
    return dict(json.loads(data[-1]))


SCRIPT = "<script>alert(1)</script><img src=x onerror=alert(1)>"


def test_what_a_model_says_is_never_served_as_a_page(served: Any) -> None:
    served.says = lambda _request: SCRIPT
    for stream in (False, True):
        body = {"model": "archive", "stream": stream, "messages": [{"role": "user", "content": f"pump {SCRIPT}"}]}
        answer = httpx2.post(served.url + CHAT, json=body, timeout=30, trust_env=False)
        assert answer.headers["content-type"].startswith(("application/json", "text/event-stream"))
        assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("path", [f"/{SCRIPT}", f"/v1/models/{SCRIPT}", f"/page/{SCRIPT}", "/page/files/../up.py"])
def test_what_is_asked_for_is_quoted_as_text_alone(served: Any, path: str) -> None:
    answer = ask(served.url, path=path.replace("<", "%3C").replace(">", "%3E"), accept="text/html")
    assert answer.status_code == 404
    assert answer.headers["content-type"].startswith("application/json")
