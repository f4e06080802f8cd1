"""An answer of OpenAI's API in the words of Ollama's: one JSON object, or one a line (NDJSON) as it comes.

Counts and durations are the engine's own (llama.cpp's ``timings``, everybody's ``usage``); what it does not tell is
left out. All durations are in nanoseconds.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, Literal

Shape = Literal["chat", "generate"]

_NANOSECONDS = 1_000_000_000
_MILLISECOND = 1_000_000

# What OpenAI calls an end; all others are a model that said what it wanted to say.
_REASONS = {"length": "length"}


class BadAnswer(Exception):
    """The engine's answer cannot be told in Ollama's words. One line."""


def now() -> str:
    """Return the time as Ollama writes it."""
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")


class Retelling:
    """One answer on its way: made of OpenAI's chunks or of its whole, told as ``model``'s answer in ``shape``."""

    def __init__(self, model: str, shape: Shape, clock: Callable[[], float] = time.monotonic) -> None:
        self._model = model
        self._shape = shape
        self._clock = clock
        self._began = clock()
        self._reason = "stop"
        self._usage: Mapping[str, Any] = {}
        self._timings: Mapping[str, Any] = {}
        self._extra: dict[str, Any] = {}
        self._calls: dict[int, dict[str, str]] = {}  # calls of tools by their index, as far as they have come

    def waiting(self, place: int | None) -> dict[str, Any]:
        """Return a sign of life: an empty piece, which says how many requests come first where there is a ``place``."""
        return {**self._line("", ""), **({} if place is None else {"queue_position": place})}

    def chunk(self, chunk: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """Yield the lines that one chunk of a stream makes: none or one."""
        self._note(chunk)
        for choice in chunk.get("choices") or ():
            said = choice.get("delta") or {}
            self._reason = _REASONS.get(choice.get("finish_reason"), self._reason)
            self._keep_extra(said)
            for fragment in said.get("tool_calls") or ():
                self._gather(fragment)
            text = said.get("content") or choice.get("text") or ""
            thinking, logprobs = _thinking(said), _logprobs(choice)
            if text or thinking or logprobs:
                yield self._line(text, thinking, logprobs)

    def last(self) -> Iterator[dict[str, Any]]:
        """Yield the lines that end a stream: the calls of tools, which come whole, and the counts.

        Raises BadAnswer for a call whose arguments are no JSON object.
        """
        if self._calls:
            line = self._line("", "")
            line["message"]["tool_calls"] = [_call(index, call) for index, call in sorted(self._calls.items())]
            yield line
        yield self._ended(self._line("", ""))

    def whole(self, answer: Mapping[str, Any]) -> dict[str, Any]:
        """Return an answer that came in one piece. Raises BadAnswer."""
        self._note(answer)
        choice = (answer.get("choices") or [{}])[0]
        said = choice.get("message") or {}
        self._reason = _REASONS.get(choice.get("finish_reason"), self._reason)
        self._keep_extra(said)
        line = self._line(said.get("content") or choice.get("text") or "", _thinking(said), _logprobs(choice))
        for index, call in enumerate(said.get("tool_calls") or ()):
            self._gather({**call, "index": index})
        if self._calls:
            line["message"]["tool_calls"] = [_call(index, call) for index, call in self._calls.items()]
        return self._ended(line)

    def loaded(self) -> dict[str, Any]:
        """Return the answer to a request that asks nothing, which loads a model: it is there, and stays."""
        return {**self._line("", ""), "done": True, "done_reason": "load"}

    def _note(self, said: Mapping[str, Any]) -> None:
        self._usage = said.get("usage") or self._usage
        self._timings = said.get("timings") or self._timings
        self._keep_extra(said)

    def _keep_extra(self, said: Mapping[str, Any]) -> None:
        """Keep what only answers over notes have."""
        if said.get("citations") is not None:
            self._extra["citations"] = said["citations"]

    def _gather(self, fragment: Mapping[str, Any]) -> None:
        """Add a fragment of a call of a tool to what has come of it. Its name comes once, its arguments in pieces."""
        call = self._calls.setdefault(int(fragment.get("index") or 0), {"id": "", "name": "", "arguments": ""})
        function = fragment.get("function") or {}
        call["id"] = fragment.get("id") or call["id"]
        call["name"] = function.get("name") or call["name"]
        call["arguments"] += function.get("arguments") or ""

    def _line(self, text: str, thinking: str, logprobs: list[Any] | None = None) -> dict[str, Any]:
        line: dict[str, Any] = {"model": self._model, "created_at": now()}
        thought = {"thinking": thinking} if thinking else {}
        if self._shape == "chat":
            line["message"] = {"role": "assistant", "content": text, **thought}
        else:
            line |= {"response": text, **thought}
        if logprobs:
            line["logprobs"] = logprobs
        return {**line, "done": False}

    def _ended(self, line: dict[str, Any]) -> dict[str, Any]:
        if self._extra:
            (line["message"] if self._shape == "chat" else line).update(self._extra)
        return {**line, "done": True, "done_reason": self._reason, **self._counts()}

    def _counts(self) -> dict[str, int]:
        """Return what the answer took. ``load_duration``: the waiting in line, and all else that is not the model's."""
        total = round((self._clock() - self._began) * _NANOSECONDS)
        counts: dict[str, int | None] = {"total_duration": total}
        prompt_ms, predicted_ms = self._timings.get("prompt_ms"), self._timings.get("predicted_ms")
        if prompt_ms is not None and predicted_ms is not None:
            prompt, predicted = round(prompt_ms * _MILLISECOND), round(predicted_ms * _MILLISECOND)
            counts |= {"load_duration": max(0, total - prompt - predicted)}
            counts |= {"prompt_eval_duration": prompt, "eval_duration": predicted}
        counts["prompt_eval_count"] = self._usage.get("prompt_tokens")
        counts["eval_count"] = self._usage.get("completion_tokens")
        return {name: count for name, count in counts.items() if count is not None}


class Embedding:
    """Vectors of texts, in the order of the texts: all of them, or, as the older call has it, the ``single`` one."""

    def __init__(self, model: str, *, single: bool = False, clock: Callable[[], float] = time.monotonic) -> None:
        self._model = model
        self._single = single
        self._clock = clock
        self._began = clock()

    def whole(self, answer: Mapping[str, Any]) -> dict[str, Any]:
        """Return the answer. Raises BadAnswer where it holds no vectors."""
        try:
            vectors = [each["embedding"] for each in sorted(answer["data"], key=lambda each: each.get("index", 0))]
        except (KeyError, TypeError, AttributeError):
            raise BadAnswer("the engine's answer holds no embeddings; is this a model that embeds?") from None
        tokens = (answer.get("usage") or {}).get("prompt_tokens")
        return self._said(vectors, {} if tokens is None else {"prompt_eval_count": tokens})

    def loaded(self) -> dict[str, Any]:
        """Return the answer to a request without texts."""
        return self._said([], {})

    def _said(self, vectors: list[Any], counts: Mapping[str, int]) -> dict[str, Any]:
        if self._single:
            return {"embedding": vectors[0] if vectors else []}
        total = round((self._clock() - self._began) * _NANOSECONDS)
        return {"model": self._model, "embeddings": vectors, "total_duration": total, **counts}


def error_of(content: bytes, status: int) -> dict[str, str]:
    """Return an error as Ollama writes one, from what OpenAI's API or an engine answered."""
    return {"error": told(_json(content)) or f"the engine answered with status {status}"}


def told(answer: Any) -> str | None:
    """Return the message of an error in OpenAI's shape, or in a looser one; None for anything else."""
    error = answer.get("error") if isinstance(answer, dict) else None
    message = error.get("message") if isinstance(error, dict) else error
    return message if isinstance(message, str) and message else None


def _json(content: bytes) -> Any:
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        return None


def _call(index: int, call: Mapping[str, str]) -> dict[str, Any]:
    """Return a call of a tool as Ollama writes it: its arguments are an object, where OpenAI's are JSON in a string."""
    arguments = _json((call["arguments"] or "{}").encode("utf-8", "replace"))
    if not isinstance(arguments, dict):
        raise BadAnswer(f"the model called {call['name']!r} with arguments that are no JSON object; ask again")
    identity = {"id": call["id"]} if call["id"] else {}
    return {**identity, "function": {"index": index, "name": call["name"], "arguments": arguments}}


def _thinking(said: Mapping[str, Any]) -> str:
    """Return what was thought: ``reasoning_content`` of llama.cpp and SGLang, ``reasoning`` of newer vLLM."""
    return said.get("reasoning_content") or said.get("reasoning") or ""


def _logprobs(choice: Mapping[str, Any]) -> list[Any] | None:
    """Return the probabilities of the tokens, which both APIs write alike."""
    told_of = choice.get("logprobs")
    return told_of.get("content") if isinstance(told_of, dict) else None
