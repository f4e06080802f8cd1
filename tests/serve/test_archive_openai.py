"""The archive through OpenAI's API, over real HTTP: chunk by chunk, in one piece, and what is refused."""

from __future__ import annotations

import base64
import json
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from quietmind.engine.fake import Crash, Refuse, Slow
from quietmind.engine.port import Request
from quietmind.workspace.notebook import Source
from quietmind.workspace.workspace import Workspace

CHAT = "/v1/chat/completions"
ASKED = "How long does a single watering session last at most?"
SOURCES = "\n\nSources:  \n[1] "


def body(question: str = ASKED, **more: Any) -> dict[str, Any]:
    return {"model": "archive", "messages": [{"role": "user", "content": question}], **more}


def post(url: str, content: Any, path: str = CHAT) -> httpx2.Response:
    return httpx2.post(url + path, json=content, timeout=20, trust_env=False)


def refused(answer: httpx2.Response, status: int, code: str) -> str:
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert error["code"] == code
    assert "\n" not in error["message"]
    return str(error["message"])


def chunks(answer: httpx2.Response) -> list[dict[str, Any]]:
    """Return the chunks of a stream, each of which is one line of data and an empty one; the last is [DONE]."""
    assert answer.headers["content-type"] == "text/event-stream"
    events = [event for event in answer.text.removesuffix("\n\n").split("\n\n") if not event.startswith(":")]
    assert all(event.startswith("data: ") and "\n" not in event for event in events)
    assert events.pop() == "data: [DONE]"
    return [json.loads(event.removeprefix("data: ")) for event in events]


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.005)


@contextmanager
def streamed(url: str, content: Any) -> Iterator[Iterator[str]]:
    with httpx2.stream("POST", url + CHAT, json=content, timeout=20, trust_env=False) as answer:
        yield answer.iter_lines()


# In one piece, and chunk by chunk -------------------------------------------------------------------------


def test_an_answer_is_text_with_marks_its_sources_and_the_same_as_fields(served: Any) -> None:
    answer = post(served.url, body())
    assert answer.headers["x-queue-position"] == "0"
    content = answer.json()
    assert (content["object"], content["model"]) == ("chat.completion", "archive")
    (choice,) = content["choices"]
    assert (choice["index"], choice["finish_reason"], choice["message"]["role"]) == (0, "stop", "assistant")
    text, sources = choice["message"]["content"].split(SOURCES)
    first = choice["message"]["citations"][0]
    assert f"[{first['number']}]" in text
    assert first["verified"]
    assert Path(first["path"]).is_absolute()
    shown = f"{Path(first['path']).relative_to(served.notes)}:{first['first_line']}-{first['last_line']}"
    assert sources.startswith(f"{shown}  “{' '.join(first['quote'].split())}”")
    assert str(served.notes) not in choice["message"]["content"]
    usage = content["usage"]
    assert usage["prompt_tokens"] > 100
    assert usage["completion_tokens"] > 0
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert content["timings"]["predicted_n"] == usage["completion_tokens"]
    assert content["archive"]["found"]


def test_a_stream_says_the_same_chunk_by_chunk(served: Any) -> None:
    whole = post(served.url, body()).json()["choices"][0]["message"]
    first, *said, last = chunks(post(served.url, body(stream=True)))
    for chunk in (first, *said, last):
        assert chunk.keys() >= {"id", "created", "model", "object", "choices"}
        assert (chunk["id"], chunk["object"], chunk["model"]) == (first["id"], "chat.completion.chunk", "archive")
        assert "usage" not in chunk
    assert first["choices"] == [
        {"index": 0, "delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None}
    ]
    assert all(chunk["choices"][0]["delta"].keys() == {"content"} for chunk in said)
    assert all(chunk["choices"][0]["finish_reason"] is None for chunk in said)
    assert "".join(chunk["choices"][0]["delta"]["content"] for chunk in said) == whole["content"]
    assert len(said) > 2
    assert (last["choices"][0]["delta"], last["choices"][0]["finish_reason"]) == ({}, "stop")
    assert last["citations"] == whole["citations"]


def test_what_a_stream_took_comes_behind_it_where_that_is_wanted(served: Any) -> None:
    *others, last = chunks(post(served.url, body(stream=True, stream_options={"include_usage": True})))
    assert all(chunk["usage"] is None for chunk in others)
    assert last["choices"] == []
    assert last["usage"]["completion_tokens"] > 0


def test_an_answer_that_was_cut_says_so(served: Any) -> None:
    content = post(served.url, body(max_tokens=3)).json()
    assert content["choices"][0]["finish_reason"] == "length"
    assert "3 tokens (max_tokens)" in content["choices"][0]["message"]["content"]
    assert content["usage"]["completion_tokens"] == 3


@pytest.mark.parametrize("stream", [False, True])
def test_completions_answer_a_prompt(served: Any, stream: bool) -> None:
    answer = post(served.url, {"model": "archive", "prompt": ASKED, "stream": stream}, "/v1/completions")
    parts = chunks(answer) if stream else [answer.json()]
    assert {part["object"] for part in parts} == {"text_completion"}
    assert SOURCES in "".join(part["choices"][0]["text"] for part in parts)
    assert parts[-1]["choices"][0]["finish_reason"] == "stop"
    assert parts[-1]["citations"]


def test_a_question_that_the_notes_say_nothing_of_reaches_no_model(served: Any) -> None:
    before = len(served.engine.requests)
    content = post(served.url, body("Who painted the Sistine chapel?")).json()
    assert content["choices"][0]["message"]["content"].startswith("Nothing in the indexed notes")
    assert content["choices"][0]["message"]["citations"] == []
    assert content["usage"]["total_tokens"] == 0
    assert len(served.engine.requests) == before


def test_a_conversation_helps_to_find_and_is_told_to_the_model(served: Any) -> None:
    first = post(served.url, body()).json()["choices"][0]["message"]
    turns = [
        {"role": "system", "content": "Speak like a gardener."},
        {"role": "user", "content": ASKED},
        {"role": "assistant", "content": first["content"]},
        {"role": "user", "content": "and why?"},
    ]
    followed = post(served.url, body(messages=turns)).json()
    assert first["citations"][0]["path"] in [each["path"] for each in followed["choices"][0]["message"]["citations"]]
    prompt = served.engine.requests[-1].prompt
    assert prompt.index("Speak like a gardener.") < prompt.rindex("Question: and why?")
    assert "Sources:" not in prompt


# Names ----------------------------------------------------------------------------------------------------


def test_the_models_are_the_engine_and_the_names_of_the_notes(served: Any) -> None:
    with Workspace(served.workspace) as workspace:
        workspace.notebooks.make("hw", Source("path", str(served.notes / "hardware")))
    names = [each["id"] for each in httpx2.get(f"{served.url}/v1/models").json()["data"]]
    assert names == [served.lane.name, "archive", "archive:deep", "archive:hw"]
    assert httpx2.get(f"{served.url}/v1/models/archive:hw").json()["max_model_len"] == 4096
    message = refused(post(served.url, body(model="archive:cellar")), 404, "model_not_found")
    assert "hw" in message
    assert refused(httpx2.get(f"{served.url}/v1/models/archive:cellar"), 404, "model_not_found")


def test_a_notebook_and_all_of_them_can_be_asked(served: Any) -> None:
    with Workspace(served.workspace) as workspace:
        workspace.notebooks.make("watering", Source("path", str(served.notes / "requirements")))
    one = post(served.url, body(model="archive:watering")).json()
    assert one["archive"]["notebook"]["name"] == "watering"
    assert any("reading" in notice for notice in one["archive"]["notices"])
    deep = post(served.url, body(model="archive:deep", stream=True))
    assert "watering" in [part["notebook"] for part in chunks(deep)[-1]["archive"]["parts"]]


def test_other_models_are_passed_on(served: Any) -> None:
    content = post(served.url, body(model=served.lane.name)).json()
    assert content["choices"][0]["message"]["content"] == f"You said: {ASKED}"


def test_where_no_notes_are_indexed_the_command_is_named(serve: Any, tmp_path: Path) -> None:
    with serve(tmp_path, index=False) as here:
        assert "quietmind index" in refused(post(here.url, body(stream=True)), 409, "nothing_indexed")
        assert [each["id"] for each in httpx2.get(f"{here.url}/v1/models").json()["data"]] == [here.lane.name]


# What is refused ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "word"),
    [
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"n": 2}, "n:"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": "many"}, "max_tokens"),
        ({"max_completion_tokens": True}, "max_tokens"),
        ({"messages": []}, "messages"),
        ({"messages": "hello"}, "messages"),
        ({"messages": [{"role": "poet", "content": "hello"}]}, "messages[0]"),
        ({"messages": [{"role": ["user"], "content": "hello"}]}, "messages[0]"),
        ({"messages": [{"role": "assistant", "content": "hello"}]}, "last"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}, "images"),
        ({"messages": [{"role": "user", "content": " "}]}, "empty"),
    ],
)
def test_what_the_archive_cannot_do_is_refused_by_its_name(served: Any, more: dict[str, Any], word: str) -> None:
    assert word in refused(post(served.url, body(**more)), 400, "invalid_request")


def test_text_in_parts_and_half_characters_are_understood(served: Any) -> None:
    parts = [{"type": "text", "text": "How long does a single watering session"}, {"type": "text", "text": "last?"}]
    assert post(served.url, body(messages=[{"role": "user", "content": parts}])).json()["archive"]["found"]
    raw = json.dumps(body("How long does watering last? \ud83c")).encode()
    assert httpx2.post(served.url + CHAT, content=raw, timeout=20).status_code == 200


@pytest.mark.parametrize("stream", [False, True])
def test_a_question_that_does_not_fit_is_refused_with_both_numbers(served: Any, stream: bool) -> None:
    answer = post(served.url, body(f"{ASKED} " * 400, stream=stream))
    assert "4,096" in refused(answer, 400, "context_length_exceeded")
    error = answer.json()["error"]
    assert error["needed"] > error["context"] == 4096


def test_an_error_of_the_engine_keeps_its_words(served: Any) -> None:
    served.says = lambda _: Refuse("no more today")
    assert "no more today" in refused(post(served.url, body()), 422, "engine_refused")


def test_an_engine_that_dies_within_an_answer_ends_the_stream_with_an_error(served: Any) -> None:
    served.says = lambda _: Crash("The session lasts twenty minutes and no longer than that. Then more.", after=14)
    answer = post(served.url, body(stream=True))
    *_, last = [line for line in answer.text.splitlines() if line]
    assert json.loads(last.removeprefix("data: "))["error"]["code"] == "engine_starting"
    until(lambda: served.lane.supervised.state == "ready")
    served.plain()
    assert post(served.url, body()).status_code == 200


# In line, and gone ----------------------------------------------------------------------------------------


def test_who_waits_is_told_the_place_and_others_search_meanwhile(served: Any) -> None:
    release = threading.Event()

    def slowly(_request: Request) -> Slow:
        release.wait(20)
        return Slow("The session lasts for a while.")

    served.says = slowly
    with streamed(served.url, body(stream=True)) as first:
        until(lambda: served.lane.turns.answering)
        with streamed(served.url, body(stream=True)) as second:
            head = next(line for line in second if line)
            assert json.loads(head.removeprefix("data: "))["choices"][0]["delta"]["role"] == "assistant"
            assert next(line for line in second if line) == ": queue position 1"
            nothing = post(served.url, body("Who painted the Sistine chapel?"))
            assert nothing.status_code == 200
            release.set()
            assert list(first)[-2] == "data: [DONE]"
            assert list(second)[-2] == "data: [DONE]"


@pytest.mark.parametrize("step", [Slow("never said", reading=60), Slow("word " * 400, between=0.05)])
def test_a_client_that_goes_away_frees_the_engine(served: Any, step: Slow) -> None:
    served.says = lambda _: step
    with streamed(served.url, body(stream=True)) as lines:
        next(lines)
        until(lambda: served.lane.turns.answering)
    until(lambda: not served.lane.turns.answering)
    served.plain()
    assert post(served.url, body()).status_code == 200
    assert len(served.engines) == 1 or served.lane.supervised.state == "ready"


# Vectors --------------------------------------------------------------------------------------------------


class Counting:
    """An embedder whose vectors say how long a text is."""

    name, digest, dimensions, most_tokens = "counting", "0" * 8, 2, None

    def passages(self, texts: list[str]) -> Any:
        import numpy as np

        return np.array([[len(text), 1] for text in texts], np.float32)

    def query(self, text: str) -> Any:
        return -self.passages([text])[0]

    def close(self) -> None:
        pass


@pytest.fixture
def embedding(served: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr("quietmind.serve.embedders.open_embedder", lambda _name, **_options: Counting())
    monkeypatch.setattr("quietmind.serve.embeddings.chosen", lambda _setting: "counting")
    return served


def test_the_embedder_of_the_notes_is_a_model(embedding: Any) -> None:
    assert "counting" in [each["id"] for each in httpx2.get(f"{embedding.url}/v1/models").json()["data"]]
    content = post(embedding.url, {"model": "counting", "input": ["four", "a"] * 20}, "/v1/embeddings").json()
    assert [each["index"] for each in content["data"]] == list(range(40))
    assert [each["embedding"] for each in content["data"][:2]] == [[4.0, 1.0], [1.0, 1.0]]
    query = {"model": "counting", "input": "four", "input_type": "query", "encoding_format": "base64"}
    packed = post(embedding.url, query, "/v1/embeddings").json()["data"][0]["embedding"]
    assert struct.unpack("<2f", base64.b64decode(packed)) == (-4.0, -1.0)


@pytest.mark.parametrize(
    "more", [{"input": []}, {"input": [1, 2]}, {"input": " "}, {"dimensions": 3}, {"encoding_format": "int"}]
)
def test_vectors_that_cannot_be_made_are_refused(embedding: Any, more: dict[str, Any]) -> None:
    answer = post(embedding.url, {"model": "counting", "input": "four", **more}, "/v1/embeddings")
    refused(answer, 400, "invalid_request")
