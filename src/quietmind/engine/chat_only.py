"""Prompts as messages, for servers that apply the chat template and serve no tokenizer: Ollama, LM Studio."""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping, Sequence
from typing import Any, Self

from quietmind.engine.openai_http import json_schema
from quietmind.engine.port import Message, Prompt, Segment

# Published tokenizers make a token of about four letters of English, three of Russian and one or two signs of other
# scripts, and numbers are cut into short runs; an estimate had better be too large than too small.
_PIECE = re.compile(r"[A-Za-z]{1,3}|[Ѐ-ӿ]{1,2}|\d{1,2}|\s+|.", re.DOTALL)
_WORD = re.compile(r"\w+")


class ChatPrompt(Prompt):
    """A prompt that keeps its messages, for a server that renders them itself. Its text is for people."""

    __slots__ = ("messages",)
    messages: tuple[Message, ...]

    @classmethod
    def of(cls, messages: Sequence[Message]) -> Self:
        """Return the prompt of ``messages``: each under its role."""
        segments = []
        for message in messages:
            segments += [Segment(f"{message.role}:\n", True), Segment(f"{message.content}\n\n", False)]
        prompt = cls(segments)
        prompt.messages = tuple(messages)
        return prompt


class ChatOnly:
    """Chat completions. What a message says cannot become a control token as far as the server sees to it."""

    path = "/v1/chat/completions"
    estimated = True

    def tokens(self, prompt: str) -> list[int]:
        """Return as many numbers as ``prompt`` may have tokens: an estimate, on the large side."""
        return self.plain(prompt)

    def plain(self, text: str) -> list[int]:
        """Return a number for each piece of ``text``, the same for the same piece everywhere."""
        return [zlib.crc32(piece.encode("utf-8", "replace")) for piece in _PIECE.findall(text)]

    def render(self, messages: Sequence[Message]) -> Prompt:
        """Return a prompt that carries ``messages``."""
        return ChatPrompt.of(messages)

    def body(self, prompt: str, tokens: list[int]) -> Mapping[str, Any]:
        """Return what a request says of its prompt: its messages; a plain text is what the person says."""
        del tokens
        messages = prompt.messages if isinstance(prompt, ChatPrompt) else (Message("user", str(prompt)),)
        return {"messages": [{"role": message.role, "content": message.content} for message in messages]}

    def held_to(self, schema: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return what a request says to hold the output to ``schema``."""
        return json_schema(schema)

    def text(self, choice: Mapping[str, Any]) -> str:
        """Return the piece of text that an event's choice brings; a model's thinking is none."""
        return str((choice.get("delta") or {}).get("content") or "")


def fewest_tokens(prompt: str) -> int:
    """Return how many tokens ``prompt`` has at the least: no tokenizer in use joins two words.

    A server that has read fewer has cut the prompt, which Ollama does without a word.
    """
    return sum(1 for _ in _WORD.finditer(prompt))
