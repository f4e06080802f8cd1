"""Prompts as token numbers, counted and made by the tokenizer that a server offers beside the model.

What a note says is never read as a control token. llama-server can be told not to; for vLLM and SGLang, whose tokenizer
recognises these in any text, the note is cut where it spells one.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping, Sequence
from typing import Any

from quietmind.engine.markers import Markers
from quietmind.engine.openai_http import OpenAIHttp, json_schema
from quietmind.engine.port import Message, Prompt, Segment


class ServedTokens:
    """The tokenizer of vLLM, SGLang or our transformers child, for the model that it calls ``model``."""

    path = "/v1/completions"
    estimated = False

    def __init__(self, http: OpenAIHttp, model: str, markers: Markers) -> None:
        self._http = http
        self._model = model
        self._markers = markers

    def tokens(self, prompt: str) -> list[int]:
        """Return the tokens to send; control tokens only from what the template wrote.

        A rendered prompt holds its start token in words, since the template wrote it; a plain one is given one.
        """
        if not isinstance(prompt, Prompt):
            return self._encode(prompt, start=True)
        tokens: list[int] = []
        for segment in prompt.segments:
            tokens += self._encode(segment.text, start=False) if segment.trusted else self.plain(segment.text)
        return tokens

    def plain(self, text: str) -> list[int]:
        """Return the tokens of ``text`` alone, none of which is a control token."""
        tokens: list[int] = []
        known: dict[str, list[int]] = {}
        for piece in self._markers.cut(text):
            if piece not in known:
                known[piece] = self._encode(piece, start=False)
            tokens += known[piece]
        return tokens

    def render(self, messages: Sequence[Message]) -> Prompt:
        """Return the prompt that the chat template makes of ``messages``."""
        # The template is given a word that nobody can guess in the place of each message, and so cannot mix them up.
        places = {f"q{secrets.token_hex(16)}q": message for message in messages}
        text = self._rendered([{"role": message.role, "content": place} for place, message in places.items()])
        segments = []
        for piece in re.split(f"({'|'.join(places)})", text) if places else [text]:
            message = places.get(piece)
            segments.append(Segment(piece, True) if message is None else Segment(message.content, False))
        return Prompt(segments)

    def works(self) -> bool:
        """Say whether the server renders a chat and gives the text back. Raises EngineError or on an odd answer."""
        prompt = self.render([Message("user", "one two")])
        return [segment.text for segment in prompt.segments if not segment.trusted] == ["one two"]

    def body(self, prompt: str, tokens: list[int]) -> Mapping[str, Any]:
        """Return what a request says of its prompt."""
        del prompt
        return {"prompt": tokens}

    def held_to(self, schema: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return what a request says to hold the output to ``schema``."""
        return json_schema(schema)

    def text(self, choice: Mapping[str, Any]) -> str:
        """Return the piece of text that an event's choice brings."""
        return str(choice.get("text") or "")

    def _rendered(self, messages: list[dict[str, str]]) -> str:
        return self._decode(_numbers(self._http.post("/tokenize", {"model": self._model, "messages": messages})))

    def _encode(self, text: str, *, start: bool) -> list[int]:
        if not text and not start:
            return []
        return _numbers(
            self._http.post("/tokenize", {"model": self._model, "prompt": text, "add_special_tokens": start})
        )

    def _decode(self, tokens: list[int]) -> str:
        # vLLM keeps control tokens and answers "prompt"; SGLang drops them unless told not to, and answers "text".
        body = {"model": self._model, "tokens": tokens, "skip_special_tokens": False}
        answer = self._http.post("/detokenize", body)
        return str(answer["prompt"] if "prompt" in answer else answer["text"])


class LlamaTokens(ServedTokens):
    """The tokenizer of a llama-server."""

    def __init__(self, http: OpenAIHttp, model: str) -> None:
        super().__init__(http, model, Markers(()))

    def tokens(self, prompt: str) -> list[int]:
        """Return the tokens to send, the start token first: a rendered prompt does not hold it here."""
        segments = prompt.segments if isinstance(prompt, Prompt) else (Segment(prompt, True),)
        tokens: list[int] = []
        for number, segment in enumerate(segments):
            if segment.tokens is not None:
                tokens += segment.tokens
            else:
                tokens += self._spelled(segment.text, start=number == 0, special=segment.trusted)
        return tokens

    def plain(self, text: str) -> list[int]:
        """Return the tokens of ``text`` alone, none of which is a control token."""
        return self._spelled(text, start=False, special=False)

    def held_to(self, schema: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return what a request says to hold the output to ``schema``; of raw completions OpenAI has no word for it."""
        return {"json_schema": schema}

    def _rendered(self, messages: list[dict[str, str]]) -> str:
        return str(self._http.post("/apply-template", {"model": self._model, "messages": messages})["prompt"])

    def _spelled(self, text: str, *, start: bool, special: bool) -> list[int]:
        # llama-server has no use for the model's name here; whoever stands in front of several does.
        body = {"model": self._model, "content": text, "add_special": start, "parse_special": special}
        return _numbers(self._http.post("/tokenize", body))


def _numbers(answer: Any) -> list[int]:
    return [int(token) for token in answer["tokens"]]
