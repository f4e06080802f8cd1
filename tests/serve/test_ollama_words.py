"""Ollama's words and OpenAI's for the same request and the same answer: nothing lost, nothing made up."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quietmind.base.errors import UsageError
from quietmind.serve.ollama_answer import BadAnswer, Embedding, Retelling, error_of
from quietmind.serve.ollama_request import chat, embed, embeddings, generate, parsed

USER = {"role": "user", "content": "Сколько стоит зима?"}

_scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
_json = st.recursive(
    _scalars,
    lambda each: st.lists(each, max_size=3) | st.dictionaries(st.text(max_size=5), each, max_size=3),
    max_leaves=8,
)
_texts = st.text(max_size=8)
_names = st.text("abc_", min_size=1, max_size=4)


def requested(body: dict[str, Any] | None) -> dict[str, Any]:
    assert body is not None
    return body


def test_a_chat_is_carried_with_everything_it_asks() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    asked = chat(
        {
            "model": "m",
            "messages": [{"role": "system", "content": "be brief"}, USER],
            "format": schema,
            "think": False,
            "keep_alive": "5m",
            "options": {
                "num_predict": 7.0,
                "temperature": 0,
                "seed": 3,
                "stop": "\n",
                "top_k": 4,
                "repeat_penalty": 1.1,
                "num_ctx": 2048,
                "num_gpu": 99,
            },
        }
    )
    assert (asked.path, asked.model, asked.streamed, asked.context) == ("/v1/chat/completions", "m", True, 2048)
    assert asked.body == {
        "model": "m",
        "messages": [{"role": "system", "content": "be brief"}, USER],
        "response_format": {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}},
        "chat_template_kwargs": {"enable_thinking": False},
        "temperature": 0,
        "seed": 3,
        "top_k": 4,
        "repeat_penalty": 1.1,
        "repetition_penalty": 1.1,
        "max_tokens": 7,
        "stop": ["\n"],
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def test_a_prompt_becomes_a_chat_and_a_raw_one_stays_what_it_is() -> None:
    asked = generate({"model": "m", "prompt": "hi", "system": "be brief", "stream": False, "format": "json"})
    assert asked.path == "/v1/chat/completions"
    assert asked.body == {
        "model": "m",
        "messages": [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hi"}],
        "response_format": {"type": "json_object"},
    }
    raw = generate({"model": "m", "prompt": "<s>hi", "raw": True, "stream": False})
    assert (raw.path, raw.body) == ("/v1/completions", {"model": "m", "prompt": "<s>hi"})


def test_one_that_asks_nothing_asks_for_the_model_alone() -> None:
    for asked in (
        chat({"model": "m"}),
        chat({"model": "m", "messages": [], "keep_alive": 0}),
        generate({"model": "m"}),
        generate({"model": "m", "raw": True}),
        embed({"model": "m", "input": []}),
        embeddings({"name": "m", "prompt": ""}),
    ):
        assert asked.model == "m"
        assert asked.body is None


def test_texts_to_embed_keep_their_order() -> None:
    assert requested(embed({"model": "m", "input": ["b", "a"], "dimensions": 8}).body) == {
        "model": "m",
        "input": ["b", "a"],
        "dimensions": 8,
        "encoding_format": "float",
    }
    assert requested(embed({"model": "m", "input": "b"}).body)["input"] == ["b"]
    assert requested(embeddings({"model": "m", "prompt": "b"}).body)["input"] == ["b"]


@pytest.mark.parametrize(
    ("fields", "about"),
    [
        ({}, "name a model"),
        ({"model": 3}, "`model`"),
        ({"model": "m", "messages": {}}, "`messages`"),
        ({"model": "m", "messages": [{"role": "king", "content": "x"}]}, "messages[0]"),
        ({"model": "m", "messages": [{**USER, "images": ["iVBOR"]}]}, "images are not understood"),
        ({"model": "m", "messages": [{**USER, "content": [{"type": "text"}]}]}, "`content`"),
        ({"model": "m", "messages": [USER], "tools": ["f"]}, "`tools`"),
        ({"model": "m", "messages": [{"role": "assistant", "tool_calls": [{"function": {}}]}]}, "`tool_calls`"),
        ({"model": "m", "messages": [USER], "format": "xml"}, "`format`"),
        ({"model": "m", "messages": [USER], "think": "hard"}, "`think`"),
        ({"model": "m", "messages": [USER], "options": {"temperature": "hot"}}, "`temperature`"),
        ({"model": "m", "messages": [USER], "options": {"seed": 1.5}}, "`seed`"),
        ({"model": "m", "messages": [USER], "options": {"num_ctx": 0}}, "`num_ctx`"),
        ({"model": "m", "messages": [USER], "options": {"num_predict": 0}}, "num_predict is 0"),
        ({"model": "m", "messages": [USER], "options": {"stop": [1]}}, "`stop`"),
        ({"model": "m", "messages": [USER], "stream": "yes"}, "`stream`"),
    ],
)
def test_what_cannot_be_carried_is_refused_by_its_name(fields: dict[str, Any], about: str) -> None:
    with pytest.raises(UsageError) as caught:
        chat(fields)
    assert about in str(caught.value)


@pytest.mark.parametrize(
    "fields", [{"images": ["x"]}, {"suffix": "x"}, {"template": "x"}, {"context": [1]}, {"raw": True, "system": "x"}]
)
def test_a_prompt_in_a_form_that_we_lack_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        generate({"model": "m", "prompt": "hi", **fields})


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"[" * 100_000, b"\xff", b'{"model": NaN}', b'{"model": 1e999}'])
def test_a_body_that_is_no_object_is_refused(body: bytes) -> None:
    with pytest.raises(UsageError):
        parsed(body)


_fields = st.dictionaries(
    st.sampled_from(
        [
            *("name", "messages", "prompt", "input", "options", "format", "tools", "think", "stream", "raw", "system"),
            *("dimensions", "logprobs", "top_logprobs", "suffix", "images", "context", "template", "keep_alive"),
        ]
    ),
    _json
    | st.lists(st.dictionaries(st.sampled_from(["role", "content", "tool_calls", "tool_name"]), _json, max_size=3))
    | st.dictionaries(st.sampled_from(["num_ctx", "num_predict", "seed", "stop", "temperature"]), _json),
)


@settings(max_examples=60)
@given(_fields)
def test_whatever_is_asked_makes_a_request_that_is_json_or_a_refusal_of_one_line(fields: dict[str, Any]) -> None:
    body = json.dumps({**fields, "model": "m"}).encode()
    for translate in (chat, generate, embed, embeddings):
        refusal = ""
        try:
            json.dumps(translate(parsed(body)).body, allow_nan=False).encode("ascii")
        except UsageError as error:
            refusal = str(error)
        assert "\n" not in refusal


@settings(max_examples=50)
@given(st.lists(st.lists(_names, min_size=1, max_size=3), max_size=4), st.randoms(use_true_random=False), st.booleans())
def test_each_result_of_a_tool_goes_to_a_call_of_that_name(rounds: list[list[str]], random: Any, named: bool) -> None:
    messages: list[dict[str, Any]] = [USER]
    for names in rounds:
        calls = [{"function": {"name": name, "arguments": {"n": n}}} for n, name in enumerate(names)]
        messages.append({"role": "assistant", "tool_calls": calls})
        answered = random.sample(names, len(names)) if named else names
        messages += [{"role": "tool", "content": "x", **({"tool_name": name} if named else {})} for name in answered]
    told = requested(chat({"model": "m", "messages": messages}).body)["messages"]
    called = {call["id"]: call["function"]["name"] for each in told for call in each.get("tool_calls", ())}
    assert len(called) == sum(map(len, rounds))
    results = [each["tool_call_id"] for each in told if each["role"] == "tool"]
    assert sorted(results) == sorted(called)
    if named:
        assert [called[result] for result in results] == [each["name"] for each in told if each["role"] == "tool"]


def test_a_result_that_names_its_call_goes_to_it() -> None:
    calls = [{"id": each, "function": {"name": "f", "arguments": {}}} for each in ("one", "two")]
    messages = [
        USER,
        {"role": "assistant", "tool_calls": calls},
        {"role": "tool", "tool_call_id": "two", "content": "2"},
        {"role": "tool", "tool_name": "f", "content": "1"},
    ]
    told = requested(chat({"model": "m", "messages": messages}).body)["messages"]
    assert [each["tool_call_id"] for each in told[2:]] == ["two", "one"]


def delta(**fields: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": fields, "finish_reason": None}]}


def told(retelling: Retelling, chunks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    lines = [line for chunk in chunks for line in retelling.chunk(chunk)]
    return [*lines, *retelling.last()]


ENDED: list[dict[str, Any]] = [
    {"choices": [{"index": 0, "delta": {}, "finish_reason": "length"}]},
    {
        "choices": [],
        "usage": {"prompt_tokens": 5, "completion_tokens": 2},
        "timings": {"prompt_ms": 1.5, "predicted_ms": 2000},
    },
]


@given(st.lists(st.tuples(_texts, _texts), max_size=6), st.booleans())
def test_a_stream_says_every_word_and_thought_once(pieces: list[tuple[str, str]], older: bool) -> None:
    key = "reasoning_content" if older else "reasoning"
    chunks = [
        delta(role="assistant", content=""),
        *(delta(**{"content": text, key: th}) for text, th in pieces),
        *ENDED,
    ]
    lines = told(Retelling("m", "chat"), chunks)
    assert "".join(line["message"]["content"] for line in lines) == "".join(text for text, _ in pieces)
    assert "".join(line["message"].get("thinking", "") for line in lines) == "".join(thought for _, thought in pieces)
    assert [line["done"] for line in lines] == [False] * (len(lines) - 1) + [True]
    assert {line["model"] for line in lines} == {"m"}


def test_counts_and_durations_are_the_engines() -> None:
    seconds = iter([10.0, 13.0])
    (last,) = told(Retelling("m", "generate", lambda: next(seconds)), ENDED)
    del last["created_at"]
    assert last == {
        "model": "m",
        "response": "",
        "done": True,
        "done_reason": "length",
        "total_duration": 3_000_000_000,
        "load_duration": 998_500_000,
        "prompt_eval_count": 5,
        "prompt_eval_duration": 1_500_000,
        "eval_count": 2,
        "eval_duration": 2_000_000_000,
    }


def test_what_the_engine_does_not_tell_is_left_out() -> None:
    (last,) = told(Retelling("m", "chat"), [])
    assert last.keys() == {"model", "created_at", "message", "done", "done_reason", "total_duration"}


_arguments = st.dictionaries(_texts, st.integers() | _texts | st.lists(st.booleans(), max_size=2), max_size=3)


@settings(max_examples=50)
@given(st.lists(st.tuples(_names, _arguments), min_size=1, max_size=3), st.data())
def test_calls_of_tools_come_whole_however_they_were_cut(calls: list[tuple[str, dict[str, Any]]], data: Any) -> None:
    chunks = []
    for index, (name, arguments) in enumerate(calls):
        chunks.append(delta(tool_calls=[{"index": index, "id": f"c{index}", "function": {"name": name}}]))
        text = json.dumps(arguments)
        cut = data.draw(st.integers(0, len(text)))
        for piece in (text[:cut], text[cut:]):
            chunks.append(delta(tool_calls=[{"index": index, "function": {"arguments": piece}}]))
    *lines, last = told(Retelling("m", "chat"), [*chunks, *ENDED])
    (line,) = lines
    expected = [
        {"id": f"c{index}", "function": {"index": index, "name": name, "arguments": arguments}}
        for index, (name, arguments) in enumerate(calls)
    ]
    assert line["message"]["tool_calls"] == expected
    assert last["done"]
    whole = [
        {"id": f"c{index}", "function": {"name": name, "arguments": json.dumps(arguments)}}
        for index, (name, arguments) in enumerate(calls)
    ]
    answer = Retelling("m", "chat").whole({"choices": [{"message": {"content": None, "tool_calls": whole}}]})
    assert answer["message"] == {"role": "assistant", "content": "", "tool_calls": expected}


def test_a_call_cut_off_within_its_arguments_is_an_error() -> None:
    retelling = Retelling("m", "chat")
    chunk = delta(tool_calls=[{"index": 0, "function": {"name": "f", "arguments": '{"a": '}}])
    with pytest.raises(BadAnswer, match="'f'"):
        told(retelling, [chunk])


def test_citations_come_with_the_last_line() -> None:
    cited = [{"path": "note.md", "lines": [3, 5]}]
    chunk = {**delta(content="x"), "citations": cited}
    first, last = told(Retelling("archive", "chat"), [chunk, *ENDED])
    assert "citations" not in first["message"]
    assert last["message"] == {"role": "assistant", "content": "", "citations": cited}
    whole = {"choices": [{"message": {"content": "x", "citations": cited}}]}
    assert Retelling("archive", "chat").whole(whole)["message"]["citations"] == cited
    assert Retelling("archive", "generate").whole(whole)["citations"] == cited


def test_vectors_come_in_the_order_of_their_texts() -> None:
    answer = {
        "data": [{"index": 1, "embedding": [1.0]}, {"index": 0, "embedding": [0.0]}],
        "usage": {"prompt_tokens": 4},
    }
    seconds = iter([1.0, 1.5])
    assert Embedding("m", clock=lambda: next(seconds)).whole(answer) == {
        "model": "m",
        "embeddings": [[0.0], [1.0]],
        "total_duration": 500_000_000,
        "prompt_eval_count": 4,
    }
    assert Embedding("m", single=True).whole(answer) == {"embedding": [0.0]}
    with pytest.raises(BadAnswer):
        Embedding("m").whole({"data": [{"text": "no"}]})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"error": {"message": "too long", "code": 400}}', "too long"),
        (b'{"error": "too long"}', "too long"),
        (b"<html>", "the engine answered with status 500"),
        (b'{"detail": "x"}', "the engine answered with status 500"),
    ],
)
def test_an_error_is_one_text(content: bytes, message: str) -> None:
    assert error_of(content, 500) == {"error": message}
