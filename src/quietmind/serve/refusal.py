"""Errors as OpenAI's clients expect them: an HTTP status, and one JSON object that names what happened."""

from __future__ import annotations

import json
from dataclasses import dataclass

_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error", 503: "service_unavailable"}


@dataclass(frozen=True)
class Refusal:
    """An answer that is an error. ``code`` is for programs, ``message`` one line for people."""

    status: int
    message: str
    code: str | None = None
    retry_after_s: int | None = None

    @property
    def body(self) -> bytes:
        """The JSON that OpenAI's API answers with."""
        kind = _TYPES.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        error = {"message": self.message, "type": kind, "param": None, "code": self.code}
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


def refuse(status: int, message: str, *, code: str | None = None, retry_after_s: int | None = None) -> Refusal:
    """Return a refusal whose message is one line."""
    return Refusal(status, " ".join(message.split()), code, retry_after_s)
