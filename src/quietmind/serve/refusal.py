"""Errors as OpenAI's clients expect them: an HTTP status, and one JSON object that names what happened."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from quietmind.base.errors import (
    ArchiveLocked,
    Cancelled,
    ContextOverflow,
    DiskFull,
    EngineCrashed,
    EngineGivenUp,
    EngineHung,
    EngineRefused,
    EngineStartFailed,
    EngineUnreachable,
    IndexAway,
    LineFull,
    ModelNotFound,
    NotesError,
    NothingIndexed,
    QuietmindError,
    UsageError,
)

_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error", 503: "service_unavailable"}

# What a client is told of each of our errors: the first that fits, so that a kind stands before those above it.
_STATUS: tuple[tuple[type[QuietmindError], int, str], ...] = (
    (UsageError, 400, "invalid_request"),
    (ContextOverflow, 400, "context_length_exceeded"),
    (ModelNotFound, 404, "model_not_found"),
    (NotesError, 404, "no_such_note"),
    (NothingIndexed, 409, "nothing_indexed"),
    (LineFull, 429, "line_full"),
    (Cancelled, 499, "cancelled"),
    (EngineRefused, 422, "engine_refused"),
    (EngineUnreachable, 502, "engine_unreachable"),
    (EngineGivenUp, 503, "engine_given_up"),
    (EngineCrashed, 503, "engine_starting"),
    (EngineHung, 503, "engine_starting"),
    (EngineStartFailed, 503, "engine_starting"),
    (ArchiveLocked, 503, "archive_locked"),
    (IndexAway, 503, "index_away"),
    (DiskFull, 507, "disk_full"),
)
# Seconds after which what is refused for now may be asked again.
_AGAIN = {"line_full": 30, "engine_starting": 5, "archive_locked": 5}


@dataclass(frozen=True)
class Refusal:
    """An answer that is an error. ``code`` is for programs, ``message`` one line for people, ``numbers`` for both."""

    status: int
    message: str
    code: str | None = None
    retry_after_s: int | None = None
    numbers: Mapping[str, int] = field(default_factory=dict)

    @property
    def body(self) -> bytes:
        """The JSON that OpenAI's API answers with."""
        kind = _TYPES.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        error = {"message": self.message, "type": kind, "param": None, "code": self.code, **self.numbers}
        return json.dumps({"error": error}, ensure_ascii=False).encode("utf-8", "replace")

    @property
    def event(self) -> bytes:
        """The same as an event of a stream whose status has been sent already."""
        return b"data: " + self.body + b"\n\n"

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        """Headers that go with the body."""
        lines = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(self.body))]
        if self.retry_after_s is not None:
            lines.append((b"retry-after", b"%d" % self.retry_after_s))
        if self.status == 401:
            lines.append((b"www-authenticate", b"Bearer"))
        return lines


class Refused(Exception):
    """Raised by a route that has a refusal to answer with."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.message)
        self.refusal = refusal


def refuse(status: int, message: str, *, code: str | None = None, retry_after_s: int | None = None) -> Refusal:
    """Return a refusal whose message is one line."""
    return Refusal(status, " ".join(message.split()), code, retry_after_s)


def failed_inside() -> Refusal:
    """Return what a client is told of an error that nobody has foreseen: nothing of it, since it may quote others."""
    return refuse(500, "something failed inside; see what the program said", code="internal")


def refused(error: QuietmindError) -> Refusal:
    """Return what a client is told of ``error``: the one place that says which status each of ours has."""
    found = ((status, code) for kind, status, code in _STATUS if isinstance(error, kind))
    status, code = next(found, (500, "internal"))
    numbers = {"needed": error.needed, "context": error.context} if isinstance(error, ContextOverflow) else {}
    return Refusal(status, " ".join(str(error).split()), code, _AGAIN.get(code), numbers)
