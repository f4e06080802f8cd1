"""The address as an Ollama, for Ollama's own Python client and for what other clients send."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx2
import pytest

ollama = pytest.importorskip("ollama", reason="Ollama's own client takes the extra dev: pip install 'quietmind[dev]'")

MODEL = "fake-model"
ASKED = [{"role": "user", "content": "how are you"}]
SAID = "You said: how are you"


@pytest.fixture
def client(served: Any) -> Iterator[Any]:
    with ollama.Client(served.url, trust_env=False) as client:
        yield client


def post(url: str, path: str, patience: float = 20, **fields: Any) -> httpx2.Response:
    return httpx2.post(url + path, json=fields, timeout=patience, trust_env=False)


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.005)


def test_a_chat_is_answered_whole(served: Any, client: Any) -> None:
    answer = client.chat(MODEL, ASKED, options={"num_predict": 50, "temperature": 0.5, "seed": 7})
    assert answer.message.content == SAID
    assert answer.message.role == "assistant"
    assert (answer.model, answer.done, answer.done_reason) == (MODEL, True, "stop")
    assert (answer.prompt_eval_count, answer.eval_count) == (7, 5)
    assert answer.total_duration > 0
    sent = served.behind.requests[-1]
    assert (sent["max_tokens"], sent["temperature"], sent["seed"]) == (50, 0.5, 7)


def test_a_chat_comes_word_by_word(client: Any) -> None:
    *pieces, last = client.chat(MODEL, ASKED, stream=True)
    assert [piece.message.content for piece in pieces] == ["You ", "said: ", "how ", "are ", "you"]
    assert not any(piece.done for piece in pieces)
    assert (last.done, last.done_reason, last.message.content, last.eval_count) == (True, "stop", "", 5)


def test_many_are_answered_at_once_each_with_its_own(served: Any) -> None:
    async def ask(client: Any, name: str) -> str:
        if name.endswith("0"):
            answer = await client.chat(MODEL, [{"role": "user", "content": name}])
            return str(answer.message.content)
        stream = await client.chat(MODEL, [{"role": "user", "content": name}], stream=True)
        return "".join([part.message.content async for part in stream])

    async def all_of_them() -> list[str]:
        async with ollama.AsyncClient(served.url, trust_env=False) as client:
            return await asyncio.gather(*(ask(client, f"client{n}") for n in range(20)))

    assert asyncio.run(all_of_them()) == [f"You said: client{n}" for n in range(20)]


@pytest.mark.parametrize("stream", [False, True])
def test_tools_go_there_and_their_calls_come_back(served: Any, client: Any, stream: bool) -> None:
    def add(a: int, b: int) -> int:
        """Add two numbers.

        Args:
            a: one
            b: the other
        """
        return a + b

    answer = client.chat(MODEL, ASKED, tools=[add], stream=stream)
    parts = list(answer) if stream else [answer]
    (call,) = [call for part in parts for call in part.message.tool_calls or ()]
    assert (call.function.name, call.function.arguments) == ("add", {})
    assert parts[-1].done_reason == "stop"
    assert served.behind.requests[-1]["tools"][0]["function"]["parameters"]["required"] == ["a", "b"]

    turns = [*ASKED, {"role": "assistant", "tool_calls": [call]}, {"role": "tool", "tool_name": "add", "content": "3"}]
    assert client.chat(MODEL, turns).message.content == "You said: 3"
    sent = served.behind.requests[-1]["messages"]
    assert sent[1]["tool_calls"][0]["function"] == {"name": "add", "arguments": "{}"}
    assert sent[2]["tool_call_id"] == sent[1]["tool_calls"][0]["id"]


def test_a_schema_is_handed_to_the_engine(served: Any, client: Any) -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}}
    client.chat(MODEL, ASKED, format=schema)
    assert served.behind.requests[-1]["response_format"]["json_schema"]["schema"] == schema


def test_a_prompt_is_continued(served: Any, client: Any) -> None:
    answer = client.generate(MODEL, "how are you", system="be brief")
    assert (answer.response, answer.done) == (SAID, True)
    assert [each["role"] for each in served.behind.requests[-1]["messages"]] == ["system", "user"]
    assert "".join(part.response for part in client.generate(MODEL, "how are you", stream=True)) == SAID
    assert client.generate(MODEL, "<s>how are you", raw=True).response == "You said: <s>how are you"
    assert served.behind.requests[-1]["prompt"] == "<s>how are you"
    assert "".join(part.response for part in client.generate(MODEL, "as it is", raw=True, stream=True)).endswith("is")


def test_texts_are_embedded(client: Any) -> None:
    assert client.embed(MODEL, ["a", "b"]).embeddings == [[1.0, 0.0], [1.0, 0.0]]
    assert client.embed(MODEL, "a").embeddings == [[1.0, 0.0]]
    assert client.embeddings(MODEL, "a").embedding == [1.0, 0.0]


def test_models_are_listed_and_shown(served: Any, client: Any) -> None:
    assert MODEL in [model.model for model in client.list().models]
    shown = client.show(MODEL)
    assert "completion" in shown.capabilities
    assert shown.modelinfo["quietmind.context_length"] == 4096
    assert list(client.ps().models) == []  # of this one nobody knows how it was planned
    version = httpx2.get(f"{served.url}/api/version", trust_env=False).json()
    assert [part.isdigit() for part in version["version"].split(".")] == [True] * 3


def test_a_tag_that_clients_add_is_understood(client: Any) -> None:
    assert client.chat(f"{MODEL}:latest", ASKED).model == f"{MODEL}:latest"
    assert client.show(f"{MODEL}:latest").modelinfo


def test_one_that_asks_nothing_hears_that_the_model_is_there(served: Any, client: Any) -> None:
    before = len(served.behind.requests)
    assert client.chat(MODEL, [], keep_alive=0).done_reason == "load"
    assert client.generate(MODEL).done_reason == "load"
    assert len(served.behind.requests) == before
    with pytest.raises(ollama.ResponseError) as caught:
        client.generate("another")
    assert caught.value.status_code == 404


@pytest.mark.parametrize("stream", [False, True])
def test_errors_are_told_by_status_and_one_text(client: Any, stream: bool) -> None:
    def answered(**fields: Any) -> Any:
        answer = client.chat(**{"model": MODEL, "messages": ASKED, "stream": stream, **fields})
        return list(answer) if stream else answer

    for fields, status, words in (
        ({"model": "another"}, 404, "no model 'another' runs here"),
        (
            {"options": {"num_ctx": 10_000}},
            400,
            "num_ctx asks for 10,000 tokens, and fake-model runs with a context of",
        ),
        ({"messages": [{**ASKED[0], "images": [b"png"]}]}, 400, "images are not understood"),
    ):
        with pytest.raises(ollama.ResponseError) as caught:
            answered(**fields)
        assert (caught.value.status_code, words in caught.value.error) == (status, True)
    assert answered(options={"num_ctx": 4096})


def test_models_are_not_managed_here(client: Any) -> None:
    acts: tuple[Callable[[], object], ...] = (
        lambda: client.pull(MODEL),
        lambda: list(client.push(MODEL, stream=True)),
        lambda: client.create("b", from_=MODEL),
        lambda: client.copy(MODEL, "b"),
        lambda: client.delete(MODEL),
    )
    for act in acts:
        with pytest.raises(ollama.ResponseError, match="quietmind pull NAME") as caught:
            act()
        assert caught.value.status_code == 501


def test_whoever_asks_for_the_root_is_told_what_clients_look_for(served: Any) -> None:
    assert httpx2.get(served.url, trust_env=False).text == "Ollama is running"
    assert httpx2.head(served.url, trust_env=False).status_code == 200
    browser = httpx2.get(served.url, headers={"Accept": "text/html,*/*"}, trust_env=False)
    assert browser.text != "Ollama is running"


def test_whoever_waits_is_told_the_place(served: Any) -> None:
    served.behind.pause = 0.1
    holding = threading.Thread(target=post, args=(served.url, "/api/chat"), kwargs={"model": MODEL, "messages": ASKED})
    before = len(served.behind.requests)
    holding.start()
    until(lambda: len(served.behind.requests) > before)
    answer = post(served.url, "/api/chat", model=MODEL, messages=ASKED)
    holding.join()
    assert answer.headers["content-type"] == "application/x-ndjson"
    assert answer.headers["x-queue-position"] == "1"
    first, *lines = [json.loads(line) for line in answer.text.splitlines()]
    assert (first["queue_position"], first["message"]["content"], first["done"]) == (1, "", False)
    assert "".join(line["message"]["content"] for line in lines) == SAID


def test_a_client_that_goes_away_gives_its_turn_to_the_next(served: Any) -> None:
    served.behind.pause = 0.3
    words = [{"role": "user", "content": "word " * 200}]
    before = len(served.behind.requests)
    with pytest.raises(httpx2.ReadTimeout):
        post(served.url, "/api/chat", 0.5, model=MODEL, messages=words)
    assert len(served.behind.requests) == before + 1
    until(lambda: not served.lane.turns._line)


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_goes_away_while_it_waits_leaves_the_line(served: Any, stream: bool) -> None:
    with served.lane.turns.join():
        with pytest.raises(httpx2.ReadTimeout):
            post(served.url, "/api/chat", 0.3, model=MODEL, messages=ASKED, stream=stream)
        until(lambda: not served.lane.turns.waiting)


def test_an_engine_that_breaks_off_ends_the_stream_with_an_error(served: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    handler: Any = served.behind.RequestHandlerClass
    plain = handler.event

    def event(self: Any, content: Any) -> None:
        if content["choices"] and content["choices"][0].get("delta", {}).get("content") == "how ":
            raise OSError("the engine went")
        plain(self, content)

    monkeypatch.setattr(handler, "event", event)
    answer = post(served.url, "/api/chat", model=MODEL, messages=ASKED)
    *lines, last = [json.loads(line) for line in answer.text.splitlines()]
    assert [line["message"]["content"] for line in lines] == ["You ", "said: "]
    assert last == {"error": f"{MODEL}: the engine broke off its answer; ask again"}


@pytest.mark.parametrize("path", ["/api/chat", "/api/generate", "/api/embed", "/api/embeddings", "/api/show"])
@pytest.mark.parametrize("body", [b"", b"[]", b"{", b"\xff", b'{"model": 5}', b'{"model": "\\ud800"}'])
def test_nonsense_is_refused_in_one_line(served: Any, path: str, body: bytes) -> None:
    answer = httpx2.post(served.url + path, content=body, trust_env=False)
    assert answer.status_code in (400, 404)
    assert answer.json().keys() == {"error"}
    assert "\n" not in answer.json()["error"]


def test_errors_that_others_give_are_one_text_too(served: Any) -> None:
    answers = (
        httpx2.get(f"{served.url}/api/chat", trust_env=False),
        httpx2.get(f"{served.url}/api/nothing", trust_env=False),
        httpx2.get(f"{served.url}/api/tags", headers={"Host": "evil.example"}, trust_env=False),
    )
    assert [answer.status_code for answer in answers] == [405, 404, 403]
    assert all(isinstance(answer.json()["error"], str) for answer in answers)
    elsewhere = httpx2.get(f"{served.url}/v1/nothing", trust_env=False)
    assert elsewhere.json()["error"]["code"] == "path"


def test_a_body_that_is_nested_without_end_is_refused(served: Any) -> None:
    for depth in (500, 990, 5_000):  # the middle one may be read, and not written again
        nested = '{"a":' * depth + "1" + "}" * depth
        body = f'{{"model": "{MODEL}", "messages": [{{"role": "user", "content": "x"}}], "format": {nested}}}'
        answer = httpx2.post(f"{served.url}/api/chat", content=body, trust_env=False)
        assert answer.status_code in (200, 400)


QUESTION = "How long does a single watering session last at most?"


def test_the_notes_answer_with_their_sources_as_text_and_as_a_field(client: Any) -> None:
    answer = client.chat("archive", [{"role": "user", "content": QUESTION}])
    assert "[1]" in answer.message.content
    assert "Sources:" in answer.message.content
    assert (answer.done_reason, answer.done) == ("stop", True)
    assert answer.prompt_eval_count > 0
    assert answer.eval_duration > 0


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", ["/api/chat", "/api/generate"])
def test_citations_stand_on_the_last_line(served: Any, path: str, stream: bool) -> None:
    asked: dict[str, Any] = (
        {"messages": [{"role": "user", "content": QUESTION}]} if path == "/api/chat" else {"prompt": QUESTION}
    )
    answer = post(served.url, path, model="archive:latest", stream=stream, **asked)
    *lines, last = [json.loads(line) for line in answer.text.splitlines()]
    said = [each["message"] if path == "/api/chat" else each for each in (*lines, last)]
    assert last["done"]
    assert said[-1]["citations"][0]["verified"]
    assert said[-1]["citations"][0]["path"].startswith("/")
    assert not any("citations" in each for each in said[:-1])
    text = "".join(each["content" if path == "/api/chat" else "response"] for each in said)
    assert "[1]" in text
    assert "Sources:" in text


def test_the_notes_are_listed_and_have_no_tools(served: Any, client: Any) -> None:
    assert {"archive", "archive:deep"} <= {model.model for model in client.list().models}
    shown = client.show("archive")
    assert shown.capabilities == ["completion"]
    assert shown.modelinfo["quietmind.context_length"] == 4096
    asked = {"model": "archive", "messages": [{"role": "user", "content": QUESTION}]}
    refused: tuple[tuple[dict[str, Any], int], ...] = (
        ({"model": "archive:nothing"}, 404),
        ({"format": "json"}, 400),
        ({"tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}]}, 400),
        ({"options": {"num_ctx": 100_000}}, 400),
        ({"messages": [{"role": "assistant", "content": "and?"}]}, 400),
    )
    for fields, status in refused:
        answer = post(served.url, "/api/chat", **{**asked, **fields})
        assert answer.status_code == status
        assert isinstance(answer.json()["error"], str)


def test_a_question_whose_client_goes_away_leaves_the_line(served: Any) -> None:
    asked = {"model": "archive", "messages": [{"role": "user", "content": QUESTION}]}
    with served.lane.turns.join():
        with pytest.raises(httpx2.ReadTimeout):
            post(served.url, "/api/chat", 1.5, stream=False, **asked)
        until(lambda: not served.lane.turns.waiting)
