"""The archive in the words of OpenAI's API: what a request asks, and the answer whole or chunk by chunk.

An answer's text ends with its sources as text. Beside it stand ``citations``, ``timings`` as llama.cpp's server names
them, and under ``archive`` all else that is known of it: on a whole answer, or on the last chunk with a choice.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any

from quietmind.base.errors import QuietmindError, UsageError
from quietmind.base.units import LARGEST_COUNT
from quietmind.engine.port import Timings
from quietmind.serve.archive import Archive, InLine, Question
from quietmind.serve.archive_names import question_for
from quietmind.serve.archive_request import asked
from quietmind.serve.exchange import Exchange, Headers
from quietmind.serve.refusal import refused
from quietmind.serve.relay import place_as_comment
from quietmind.serve.sources import behind
from quietmind.think.answer import Answer, Found, Notice, Text
from quietmind.think.telling import as_json

# What a request may ask of a model and not of the archive, whose answers have a form of their own.
_NOT_HERE = ("tools", "functions", "audio")
_PLAIN = ({"type": "text"}, None)


@dataclass(frozen=True)
class Wanted:
    """A request to the archive. ``counted``: a stream ends with what the answer took."""

    question: Question
    model: str
    chat: bool
    streamed: bool
    counted: bool


async def wanted(archive: Archive | None, body: Mapping[str, Any], *, chat: bool) -> Wanted:
    """Return what ``body`` asks of the archive. Raises UsageError, Refused, WorkspaceError."""
    model = str(body["model"])
    _require_plain(body)
    if chat:
        text, earlier = asked(body.get("messages"))
    else:
        text, earlier = _prompt(body.get("prompt")), ()
    question = replace(await question_for(archive, model), text=text, earlier=earlier, max_tokens=_most(body))
    options = body.get("stream_options")
    counted = isinstance(options, Mapping) and options.get("include_usage") is True
    return Wanted(question, model, chat, body.get("stream") is True, counted)


async def answer(archive: Archive, request: Wanted, exchange: Exchange) -> None:
    """Answer ``request``; what goes wrong is told as the answer, or as an event of the stream that has begun."""
    shape = _Shape(request)
    headers: Headers = [(b"x-queue-position", b"0")]
    said: Answer | None = None
    notices: list[str] = []
    try:
        async with aclosing(archive.ask(request.question)) as events:
            async for event in events:
                if isinstance(event, InLine) and not exchange.begun:
                    headers = [(b"x-queue-position", b"%d" % event.place)]
                if isinstance(event, Notice):
                    notices.append(event.text)
                if isinstance(event, Answer):
                    said = event
                elif request.streamed:
                    await _stream(event, shape, exchange, headers)
        assert said is not None, "an archive that raises nothing answers"
        sources = await behind(archive, said)
    except QuietmindError as error:
        await exchange.refuse(refused(error), headers)
        return
    if request.streamed:
        await _begin(shape, exchange, headers)
        await exchange.end(shape.ending(said, sources, notices))
    else:
        head = [(b"content-type", b"application/json"), *headers]
        await exchange.give(200, head, shape.whole(said, sources, notices))


async def _stream(event: object, shape: _Shape, exchange: Exchange, headers: Headers) -> None:
    """Send what ``event`` adds to the stream. It begins as late as may be: an error before it has a status."""
    if isinstance(event, Text):
        await _begin(shape, exchange, headers)
        await exchange.write(shape.piece(event.text))
    elif isinstance(event, InLine):
        await _begin(shape, exchange, headers)
        await exchange.write(place_as_comment(event.place) if event.place else b":\n\n")
    elif isinstance(event, Found):
        await _begin(shape, exchange, headers)
        await exchange.write(b": %d passages found\n\n" % len(event.given))
    elif isinstance(event, Notice) and exchange.begun:
        await exchange.write(b": " + " ".join(event.text.split()).encode("utf-8", "replace") + b"\n\n")


async def _begin(shape: _Shape, exchange: Exchange, headers: Headers) -> None:
    if not exchange.begun:
        head = [(b"content-type", b"text/event-stream"), (b"cache-control", b"no-cache"), *headers]
        await exchange.begin(200, head, events=True)
        await exchange.write(shape.beginning())


class _Shape:
    """One answer in the shape of OpenAI's objects."""

    def __init__(self, request: Wanted) -> None:
        self._request = request
        kind = "chatcmpl" if request.chat else "cmpl"
        self._common = {
            "id": f"{kind}-{secrets.token_hex(12)}",
            "created": int(time.time()),
            "model": request.model,
        }

    def beginning(self) -> bytes:
        """Return the chunk that says whose words follow."""
        return self._chunk({"role": "assistant", "content": ""}) if self._request.chat else b""

    def piece(self, text: str) -> bytes:
        """Return the chunk of a piece of text."""
        return self._chunk({"content": text}) if self._request.chat else self._chunk(text)

    def ending(self, said: Answer, sources: str, notices: Sequence[str]) -> bytes:
        """Return the chunks that come behind the text: its sources, why it ended, what it took, and the end."""
        chunks = self.piece(_apart(said, sources)) if sources else b""
        chunks += self._chunk({} if self._request.chat else "", finish=_reason(said), **_beside(said, notices))
        if self._request.counted:
            chunks += _event({**self._common, "object": self._object(".chunk"), "choices": [], "usage": _usage(said)})
        return chunks + b"data: [DONE]\n\n"

    def whole(self, said: Answer, sources: str, notices: Sequence[str]) -> bytes:
        """Return the answer in one piece."""
        text = said.text + (_apart(said, sources) if sources else "")
        beside = _beside(said, notices)
        if self._request.chat:
            message = {"role": "assistant", "content": text, "refusal": None, "citations": beside.pop("citations")}
            choice: dict[str, Any] = {"index": 0, "message": message}
        else:
            choice = {"index": 0, "text": text}
        choice |= {"logprobs": None, "finish_reason": _reason(said)}
        content = {**self._common, "object": self._object(), "choices": [choice], "usage": _usage(said), **beside}
        return _encoded(content)

    def _chunk(self, said: Mapping[str, str] | str, finish: str | None = None, **beside: Any) -> bytes:
        choice = {"delta": said} if self._request.chat else {"text": said}
        content = {
            **self._common,
            "object": self._object(".chunk"),
            "choices": [{"index": 0, **choice, "logprobs": None, "finish_reason": finish}],
            **beside,
        }
        return _event({**content, "usage": None} if self._request.counted else content)

    def _object(self, chunk: str = "") -> str:
        return f"chat.completion{chunk}" if self._request.chat else "text_completion"


def _require_plain(body: Mapping[str, Any]) -> None:
    """Raise UsageError for what the archive cannot do, rather than pass over it."""
    for field in _NOT_HERE:
        if body.get(field):
            raise UsageError(f"{field}: the archive answers in words, and calls nothing; ask a model by its own name")
    if body.get("response_format") not in _PLAIN:
        raise UsageError(
            "response_format: the archive answers in words with their sources; ask a model by its own name for JSON"
        )
    if body.get("n") not in (None, 1):
        raise UsageError("n: the archive gives one answer")


def _most(body: Mapping[str, Any]) -> int | None:
    """Return the most tokens that the answer may take; None where the request leaves that to the settings."""
    given = body.get("max_completion_tokens")
    most = body.get("max_tokens") if given is None else given
    if most is None:
        return None
    if isinstance(most, bool) or not isinstance(most, int) or not 1 <= most <= LARGEST_COUNT:
        raise UsageError("max_tokens: must be a whole number from 1")
    return most


def _prompt(prompt: object) -> str:
    """Return the one text to continue, which is taken for a question."""
    only = prompt[0] if isinstance(prompt, list) and len(prompt) == 1 else prompt
    if not isinstance(only, str):
        raise UsageError("prompt: the archive takes one text, which is the question")
    return only


def _apart(said: Answer, sources: str) -> str:
    return f"\n\n{sources}" if said.text else sources


def _reason(said: Answer) -> str:
    return "length" if said.cut else "stop"


def _beside(said: Answer, notices: Sequence[str]) -> dict[str, Any]:
    """Return what stands beside the text; ``notices`` are what the person should know of how it was asked."""
    known = as_json(said)
    citations = known.pop("citations")
    for repeated in ("question", "timings"):  # not the answer: here it stands without its sources as text
        del known[repeated]
    return {
        "citations": citations,
        "timings": _timings(said.timings.engine),
        "archive": {**known, "notices": list(notices)},
    }


def _timings(took: Timings) -> dict[str, float]:
    return {
        "cache_n": took.cached,
        "prompt_n": took.prompt,
        "prompt_ms": round(took.prompt_ms, 3),
        "predicted_n": took.predicted,
        "predicted_ms": round(took.predicted_ms, 3),
    }


def _usage(said: Answer) -> dict[str, Any]:
    took = said.timings.engine
    read = took.cached + took.prompt
    return {
        "prompt_tokens": read,
        "completion_tokens": took.predicted,
        "total_tokens": read + took.predicted,
        "prompt_tokens_details": {"cached_tokens": took.cached},
    }


def _event(content: Mapping[str, Any]) -> bytes:
    return b"data: " + _encoded(content) + b"\n\n"


def _encoded(content: Mapping[str, Any]) -> bytes:
    return json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
