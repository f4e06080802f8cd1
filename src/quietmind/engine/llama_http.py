"""The HTTP that llama.cpp's server speaks, whoever runs it: requests, event streams, and what its errors mean."""

from __future__ import annotations

import json
import socket
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quietmind.base.errors import ContextOverflow, EngineError, EngineRefused
from quietmind.engine.cancel import Cancel, Line
from quietmind.engine.port import Position, Timings

if TYPE_CHECKING:
    import httpx2

# The server closes an idle connection after 5 s (it says so: ``keep-alive: timeout=5``). A request sent just then
# would be answered by nothing at all, so that we let go of connections well before.
_KEEP_ALIVE_SECONDS = 2.0
_CONNECT_SECONDS = 5.0
_HEALTH_SECONDS = 2.0

Broken = Callable[[Exception], EngineError]


class LlamaHttp:
    """A client of one server, at the Unix socket ``at`` where one is given.

    ``silence`` is how many seconds an answer, or the next piece of it, may take. ``broken`` is told of every
    failure that is not an answer of the server (silence, a lost connection, an answer that cannot be read) and
    returns the error to raise: only the owner of the server knows whether it still lives.
    """

    def __init__(
        self,
        address: str,
        key: str,
        *,
        silence: float,
        broken: Broken,
        at: Path | None = None,
        transport: httpx2.BaseTransport | None = None,
    ) -> None:
        import httpx2

        def client(limits: httpx2.Limits) -> httpx2.Client:
            unix = httpx2.HTTPTransport(uds=str(at), limits=limits, trust_env=False) if at is not None else None
            return httpx2.Client(
                base_url=address,
                headers={"Authorization": f"Bearer {key}", "Content-Type": "application/json"},
                timeout=httpx2.Timeout(silence, connect=_CONNECT_SECONDS),
                limits=limits,
                trust_env=False,  # a proxy in the environment is no business of the loopback
                transport=unix or transport,
            )

        self._broken = broken
        self._socket = at
        self._failures = (
            *(httpx2.HTTPError, httpx2.InvalidURL, httpx2.CookieConflict, httpx2.StreamError),
            *(OSError, ValueError, KeyError, TypeError, AttributeError),  # from sockets and from reading answers
        )
        self._client = client(httpx2.Limits(keepalive_expiry=_KEEP_ALIVE_SECONDS))
        # Each stream has a connection of its own: the server closes it after a stream without announcing that, so that
        # the next request on it would be lost; and whoever cancels one hangs up on nothing else.
        self._streams = client(httpx2.Limits(max_keepalive_connections=0))
        for each in (self._client, self._streams):
            weakref.finalize(self, each.close)  # for an engine that is dropped instead of stopped

    def get(self, path: str) -> Any:
        """Return the JSON at ``path``. Raises EngineRefused, or what ``broken`` makes of a failure."""
        with self._translated():
            self._require_listening()
            response = self._client.get(path)
            return _read(response)

    def post(self, path: str, body: Mapping[str, Any]) -> Any:
        """Return the JSON that ``path`` answers to ``body``. Raises as :meth:`get`."""
        with self._translated():
            self._require_listening()
            response = self._client.post(path, content=_encode(body))
            return _read(response)

    def stream(self, path: str, body: Mapping[str, Any], cancel: Cancel | None = None) -> Iterator[dict[str, Any]]:
        """Yield the JSON of each event that ``path`` sends until the one whose ``stop`` is true, which is included.

        Closing the iterator closes the connection, which the server takes as a cancellation; so does ``cancel``, at any
        moment and from any thread. Raises as :meth:`get`; Cancelled.
        """
        cancel = cancel or Cancel()
        line = Line()
        with cancel.ending(line.hang_up):
            yield from self._events(path, body, line, cancel)

    def _events(self, path: str, body: Mapping[str, Any], line: Line, cancel: Cancel) -> Iterator[dict[str, Any]]:
        import httpx2

        with self._translated(cancel):
            self._require_listening()
            request = self._streams.build_request(
                "POST",
                path,
                content=_encode(body),
                headers={"Connection": "close"},
                extensions={"trace": line.opened},
            )
            response = self._streams.send(request, stream=True)
        try:
            with self._translated(cancel):
                if response.status_code != 200:
                    response.read()
                    _read(response)
            events = iter(httpx2.EventSource(response))  # its lines end at \n and \r only, not at U+2028
            while True:
                with self._translated(cancel):
                    event = next(events, None)
                    if event is None:
                        raise httpx2.RemoteProtocolError("the stream ended before the generation did")
                    content = json.loads(event.data)
                    if "error" in content:
                        raise refusal(content["error"])
                yield content
                if content.get("stop"):
                    return
        finally:
            response.close()

    def healthy(self) -> bool:
        """Say whether the server answers that it is ready, within 2 seconds. Never raises."""
        try:
            self._require_listening()
            return self._client.get("/health", timeout=_HEALTH_SECONDS).status_code == 200
        except (*self._failures, RuntimeError):  # RuntimeError: the client is closed
            return False

    def close(self) -> None:
        """Close every connection."""
        self._client.close()
        self._streams.close()

    @contextmanager
    def _translated(self, cancel: Cancel | None = None) -> Iterator[None]:
        try:
            yield
        except self._failures as error:
            if cancel is not None:  # it was us who hung up, and the server is well
                cancel.require_wanted()
            raise self._broken(error) from error

    def _require_listening(self) -> None:
        """Raise OSError where nobody listens at the socket: the library would leave its own attempt unclosed."""
        if self._socket is not None:
            with socket.socket(socket.AF_UNIX) as probe:
                probe.connect(str(self._socket))


def refusal(error: Mapping[str, Any]) -> EngineError:
    """Return our error for an error object of the server: ContextOverflow or EngineRefused."""
    if error.get("type") == "exceed_context_size_error":
        needed, context = int(error["n_prompt_tokens"]), int(error["n_ctx"])
        return ContextOverflow(
            f"the prompt has {needed:,} tokens and the context holds {context:,}; shorten the prompt or start with a "
            "larger context",
            needed=needed,
            context=context,
        )
    return EngineRefused(f"llama.cpp refused the request: {' '.join(str(error.get('message', error)).split())}")


def timings(reported: Mapping[str, Any]) -> Timings:
    """Read the ``timings`` of a last event. Raises KeyError, TypeError or ValueError."""
    return Timings(
        cached=int(reported["cache_n"]),
        prompt=int(reported["prompt_n"]),
        prompt_ms=float(reported["prompt_ms"]),
        predicted=int(reported["predicted_n"]),
        predicted_ms=float(reported["predicted_ms"]),
    )


def positions(places: Iterable[Mapping[str, Any]]) -> tuple[Position, ...]:
    """Read what was likely at some places. Raises KeyError, TypeError or ValueError."""
    return tuple(
        Position(
            int(place["id"]),
            str(place["token"]),
            {int(each["id"]): float(each["logprob"]) for each in place["top_logprobs"]},
        )
        for place in places
    )


def _encode(body: Mapping[str, Any]) -> bytes:
    # A lone surrogate (a file name that is not UTF-8) has no encoding, and no meaning to a model either.
    return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


def _read(response: httpx2.Response) -> Any:
    content = json.loads(response.content)
    if response.status_code == 200:
        return content
    raise refusal(content["error"])
