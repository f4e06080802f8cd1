"""What a client's messages ask of the archive: the last turn is the question, those before it are what was said."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from quietmind.base.errors import UsageError
from quietmind.engine.port import Message, Role

# ``developer`` is what OpenAI calls the system since 2024. What a tool has answered is nothing that the person said.
_ROLES: dict[str, Role | None] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": None,
    "function": None,
}


def asked(messages: object) -> tuple[str, tuple[Message, ...]]:
    """Return the question that ``messages`` end with, and the turns before it, the oldest first.

    Raises UsageError for messages that end with no question, or hold more than text.
    """
    if not isinstance(messages, list) or not messages:
        raise UsageError("messages: a list of them is needed, of which the last is the question")
    turns = [turn for number, message in enumerate(messages) if (turn := _turn(number, message)) is not None]
    if not turns or turns[-1].role != "user":
        raise UsageError("messages: the last one must be of the user: it is what is asked")
    return turns[-1].content, tuple(turn for turn in turns[:-1] if turn.content.strip())


def _turn(number: int, message: object) -> Message | None:
    """Return a message as one turn; None for one that nobody said."""
    named = message.get("role") if isinstance(message, Mapping) else None
    if not isinstance(message, Mapping) or not isinstance(named, str) or named not in _ROLES:
        raise UsageError(f"messages[{number}]: must have a role, one of {', '.join(_ROLES)}")
    role = _ROLES[named]
    return None if role is None else Message(role, _text(number, message.get("content")))


def _text(number: int, content: Any) -> str:
    """Return the words of a message, which come in one piece or in parts."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise UsageError(f"messages[{number}].content: must be a text")
    texts = []
    for part in content:
        if not isinstance(part, Mapping) or not isinstance(part.get("text"), str):
            raise UsageError(f"messages[{number}].content: the archive reads text alone, no images and no sound")
        texts.append(part["text"])
    return "\n".join(texts)
