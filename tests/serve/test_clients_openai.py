"""The package that most programs ask with: what it sends arrives, and what it expects comes back."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.serve.conftest import Here

openai = pytest.importorskip("openai", reason="the client is not installed (extra `dev`)")

MODEL = "fake-model"
HELLO = [{"role": "user", "content": "hello there"}]
QUESTION = [{"role": "user", "content": "How does the hub pair with a sensor?"}]
TOOL = {
    "type": "function",
    "function": {"name": "weather", "description": "…", "parameters": {"type": "object", "properties": {}}},
}


@pytest.fixture(scope="module")
def client(_served: Here) -> Iterator[Any]:
    with openai.OpenAI(
        base_url=f"{_served.url}/v1",
        api_key="unused",
        max_retries=0,
        http_client=openai.DefaultHttpxClient(trust_env=False),
    ) as client:
        yield client


def test_models_are_listed_and_found(client: Any) -> None:
    assert MODEL in [model.id for model in client.models.list()]
    assert client.models.retrieve(MODEL).object == "model"
    with pytest.raises(openai.NotFoundError) as refused:
        client.models.retrieve("no-such-model")
    assert refused.value.code == "model_not_found"


def test_a_chat_is_answered_with_its_usage(client: Any) -> None:
    answer = client.chat.completions.create(model=MODEL, messages=HELLO)
    assert answer.choices[0].message.content == "You said: hello there"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_a_stream_comes_piece_by_piece_and_ends_with_its_usage(client: Any) -> None:
    with client.chat.completions.create(
        model=MODEL, messages=HELLO, stream=True, stream_options={"include_usage": True}
    ) as stream:
        chunks = list(stream)
    assert {chunk.object for chunk in chunks} == {"chat.completion.chunk"}
    assert len({chunk.id for chunk in chunks}) == 1
    said = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert "".join(said) == "You said: hello there"
    assert sum(map(bool, said)) > 1
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "stop"
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens == 4


def test_tools_and_schemas_reach_the_engine_as_they_are(client: Any, served: Here) -> None:
    answer = client.chat.completions.create(model=MODEL, messages=HELLO, tools=[TOOL], tool_choice="auto")
    assert answer.choices[0].finish_reason == "tool_calls"
    assert answer.choices[0].message.tool_calls[0].function.name == "weather"
    assert served.behind.requests[-1]["tools"] == [TOOL]
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    wanted = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema, "strict": True}}
    client.chat.completions.create(model=MODEL, messages=HELLO, response_format=wanted)
    assert served.behind.requests[-1]["response_format"] == wanted


def test_the_helper_for_streams_of_tools_understands_them(client: Any) -> None:
    with client.chat.completions.stream(model=MODEL, messages=HELLO, tools=[TOOL]) as stream:
        for _ in stream:
            pass
        final = stream.get_final_completion()
    assert final.choices[0].message.tool_calls[0].function.name == "weather"


def test_a_text_is_continued(client: Any) -> None:
    assert client.completions.create(model=MODEL, prompt="once upon").choices[0].text == "You said: once upon"
    with client.completions.create(model=MODEL, prompt="once upon", stream=True) as stream:
        assert "".join(chunk.choices[0].text for chunk in stream) == "You said: once upon"


def test_texts_are_embedded(client: Any) -> None:
    for encoding in ({}, {"encoding_format": "float"}):  # the library's own choice is base64
        found = client.embeddings.create(model=MODEL, input=["one", "two"], **encoding)
        assert [each.embedding for each in found.data] == [[1.0, 0.0]] * 2


def test_errors_are_of_the_classes_that_programs_catch(client: Any) -> None:
    with pytest.raises(openai.NotFoundError, match="no model 'other' runs here"):
        client.chat.completions.create(model="other", messages=HELLO)
    with pytest.raises(openai.BadRequestError, match="body"):
        client.post("/chat/completions", body=[1, 2], cast_to=object)
    with pytest.raises(openai.NotFoundError, match="nothing is at /v1/responses"):
        client.responses.create(model=MODEL, input="hello")


def test_asking_in_a_loop_is_the_same(client: Any, served: Here) -> None:
    async def ask() -> tuple[str, str]:
        async with openai.AsyncOpenAI(
            base_url=f"{served.url}/v1",
            api_key="unused",
            http_client=openai.DefaultAsyncHttpxClient(trust_env=False),
        ) as asking:
            whole = await asking.chat.completions.create(model=MODEL, messages=HELLO)
            stream = await asking.chat.completions.create(model=MODEL, messages=HELLO, stream=True)
            said = [chunk.choices[0].delta.content or "" async for chunk in stream]
            return whole.choices[0].message.content, "".join(said)

    assert asyncio.run(ask()) == ("You said: hello there",) * 2


def test_the_archive_answers_with_citations_beside_its_text(client: Any) -> None:
    asked = {"model": "archive", "messages": QUESTION}
    whole = client.chat.completions.create(**asked)
    (first, *_) = whole.choices[0].message.citations
    assert first["number"] == 1
    assert first["verified"] is True
    assert Path(first["path"]).is_absolute()
    with client.chat.completions.create(**asked, stream=True) as stream:
        chunks = list(stream)
    said = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert said == whole.choices[0].message.content
    assert chunks[-1].citations == whole.choices[0].message.citations


def test_what_does_not_fit_is_an_error_with_numbers(client: Any) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(model="archive", messages=QUESTION, max_tokens=100_000)
    assert refused.value.code == "context_length_exceeded"
    assert refused.value.body["context"] == 4096
