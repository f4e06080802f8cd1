"""The process that transformers runs in: ``python -m quietmind.engine.transformers_child KEY=VALUE ...``.

The words are those of ``transformers_model.ModelOptions``, and ``socket=PATH`` or ``port=N`` of the loopback, and
``name=MODEL``; the key that requests must bear is the one line of standard input. It speaks OpenAI's HTTP with token
numbers as prompts, and ``/tokenize`` and ``/detokenize`` as vLLM does, so that one client speaks to both; beyond that,
streams tell of the progress of a prompt, which may take minutes here.
"""

from __future__ import annotations

import hmac
import json
import os
import secrets
import select
import socket
import socketserver
import sys
import threading
import time
import traceback
from collections.abc import Generator, Iterator, Mapping
from contextlib import closing, suppress
from http.server import BaseHTTPRequestHandler
from itertools import chain
from typing import Any, NoReturn

from quietmind.engine.transformers_model import Ended, ModelOptions, Piece, Progress, Sampling, TransformersModel

Item = Progress | Piece | Ended

_LARGEST_REQUEST_BYTES = 64 << 20
_SILENT_SECONDS = 30.0  # what a client may take between the parts of its request


class Refused(Exception):
    """A request that cannot be served: its status and the reason."""

    def __init__(self, reason: str, status: int = 400) -> None:
        super().__init__(reason)
        self.status = status


class Service:
    """What is served: one model, one generation at a time."""

    def __init__(self, model: TransformersModel, name: str) -> None:
        self.model = model
        self.name = name
        self._turn = threading.Lock()

    def models(self) -> dict[str, Any]:
        """Answer /v1/models."""
        card = {"id": self.name, "object": "model", "owned_by": "me", "max_model_len": self.model.options.context}
        return {"object": "list", "data": [card]}

    def tokenize(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Answer /tokenize: of a text, or of a chat as the model's template renders it."""
        if "messages" in body:
            tokens = self.model.encode(self.model.render(body["messages"]), start=False)
        else:
            text, start = str(body["prompt"]), bool(body.get("add_special_tokens", True))
            tokens = self.model.encode(text, start=start)
        return {"tokens": tokens, "count": len(tokens), "max_model_len": self.model.options.context}

    def detokenize(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Answer /detokenize; control tokens are spelled out."""
        return {"prompt": self.model.decode([int(token) for token in body["tokens"]])}

    def prompt_of(self, body: Mapping[str, Any], *, chat: bool) -> list[int]:
        """Return the tokens of a request's prompt; what a chat's messages say never becomes a control token."""
        if not chat:
            prompt = body["prompt"]
            return self.model.encode(prompt, start=True) if isinstance(prompt, str) else [int(each) for each in prompt]
        return self.model.chat_tokens(body["messages"])

    def generate(self, tokens: list[int], body: Mapping[str, Any]) -> Generator[Item]:
        """Continue ``tokens``. Raises Refused for what this engine cannot do or has no room for."""
        left = self.model.options.context - len(tokens)
        most = body.get("max_tokens") or body.get("max_completion_tokens") or max(1, left)
        if not tokens:
            raise Refused("the prompt is empty")
        if most > left:
            raise Refused(
                f"This model's maximum context length is {self.model.options.context} tokens. However, you requested "
                f"{len(tokens) + most} tokens ({len(tokens)} in the prompt, {most} in the completion)."
            )
        if (body.get("response_format") or {}).get("type", "text") != "text" or body.get("tools"):
            raise Refused("transformers cannot hold its output to a schema; use another engine for that")
        stop = body.get("stop") or ()
        sampling = Sampling(
            max_tokens=int(most),
            temperature=float(1.0 if body.get("temperature") is None else body["temperature"]),
            seed=int(body.get("seed") or 0),
            stop=(stop,) if isinstance(stop, str) else tuple(map(str, stop)),
        )
        with self._turn:
            yield from self.model.generate(tokens, sampling)


class Answering(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    timeout = _SILENT_SECONDS
    wbufsize = -1  # an answer goes out in one piece
    service: Service
    key: str
    _begun = False  # whether the answer is under way

    def log_message(self, *_: Any) -> None:
        """Log nothing: what is asked is nobody's business."""

    def address_string(self) -> str:
        """Return a name; a Unix socket's peer has no address."""
        return "local"

    def do_GET(self) -> None:
        """Answer /health, without a key, and /v1/models."""
        if self.path == "/health":
            self._reply({"status": "ok"})
        elif self._admitted():
            if self.path == "/v1/models":
                self._reply(self.service.models())
            else:
                self._refuse(Refused(f"no such path: {self.path}", 404))

    def do_POST(self) -> None:
        """Answer the rest. Raises what is no fault of the request, for the server's ``handle_error``."""
        self._begun = False
        try:
            if not self._admitted():
                self.close_connection = True  # its body is not read
                return
            self._answer(self._body())
        except Refused as error:
            self._refuse(error)
        except OSError:
            self.close_connection = True  # the client has gone
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            self._refuse(Refused(f"{type(error).__name__}: {error}"))
        except Exception as error:
            if not of_memory(error):  # else there is no answer but the end of this process
                self._refuse(Refused(f"{type(error).__name__}: {error}", 500))
            raise

    def _answer(self, body: dict[str, Any]) -> None:
        if self.path == "/tokenize":
            self._reply(self.service.tokenize(body))
        elif self.path == "/detokenize":
            self._reply(self.service.detokenize(body))
        elif self.path in {"/v1/completions", "/v1/chat/completions"}:
            chat = "chat" in self.path
            tokens = self.service.prompt_of(body, chat=chat)
            with closing(self.service.generate(tokens, body)) as items:
                first = next(items)  # refusals come before the first item, and still have a status
                (self._stream if body.get("stream") else self._complete)(first, items, body, len(tokens))
        else:
            raise Refused(f"no such path: {self.path}", 404)

    def _body(self) -> dict[str, Any]:
        length = int(self.headers.get("Content-Length") or 0)
        if not 0 < length <= _LARGEST_REQUEST_BYTES:
            self.close_connection = True
            raise Refused(f"a request of {length} bytes is not taken", 413)
        body = json.loads(self.rfile.read(length))
        if not isinstance(body, dict):
            raise Refused("a request is a JSON object")
        return body

    def _admitted(self) -> bool:
        given = self.headers.get("Authorization") or ""
        if hmac.compare_digest(given.encode(), f"Bearer {self.key}".encode()):
            return True
        self._refuse(Refused("Unauthorized", 401))
        return False

    def _complete(self, first: Item, items: Iterator[Item], body: dict[str, Any], length: int) -> None:
        texts, last = [], first
        for last in items:
            if isinstance(last, Piece):
                texts.append(last.text)
            if self._client_gone():
                return
        assert isinstance(last, Ended)
        said = {"message": {"role": "assistant", "content": "".join(texts)}}
        choice = said if "messages" in body else {"text": "".join(texts)}
        self._reply(self._event({**choice, "finish_reason": last.reason}) | _usage(last, length))

    def _stream(self, first: Item, items: Iterator[Item], body: dict[str, Any], length: int) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream; charset=utf-8")
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = self._begun = True
        chat = "messages" in body
        for item in chain((first,), items):
            if isinstance(item, Progress) and body.get("return_progress"):
                self._send({"choices": [], "prompt_progress": {"total": length, "processed": item.done}})
            elif isinstance(item, Piece) and item.text:
                said = {"delta": {"content": item.text}} if chat else {"text": item.text}
                self._send(self._event({**said, "finish_reason": None}))
            elif isinstance(item, Ended):
                end: dict[str, Any] = {"delta": {}} if chat else {"text": ""}
                self._send(self._event({**end, "finish_reason": item.reason}))
                if (body.get("stream_options") or {}).get("include_usage"):
                    self._send({"choices": [], **_usage(item, length)})
            if self._client_gone():
                return
        self.wfile.write(b"data: [DONE]\n\n")
        self.wfile.flush()

    def _client_gone(self) -> bool:
        """Say whether the client has hung up, which is its way to cancel; a write would notice one piece later."""
        readable = select.poll()
        readable.register(self.connection, select.POLLIN)
        return bool(readable.poll(0)) and self.connection.recv(1, socket.MSG_PEEK) == b""

    def _event(self, choice: dict[str, Any]) -> dict[str, Any]:
        kind = "text_completion" if "text" in choice else "chat.completion" + (".chunk" if "delta" in choice else "")
        head = {"id": f"quietmind-{secrets.token_hex(8)}", "object": kind, "created": int(time.time())}
        return {**head, "model": self.service.name, "choices": [{"index": 0, **choice}]}

    def _send(self, event: dict[str, Any]) -> None:
        self.wfile.write(b"data: " + json.dumps(event).encode() + b"\n\n")
        self.wfile.flush()

    def _reply(self, content: Any, status: int = 200) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()

    def _refuse(self, refused: Refused) -> None:
        if self._begun:  # too late for a status
            with suppress(OSError):
                self._send({"error": {"message": str(refused), "code": refused.status}})
            return
        self._reply({"error": {"message": str(refused), "code": refused.status}}, refused.status)


class Server(socketserver.ThreadingMixIn, socketserver.TCPServer):
    """A server on a Unix socket (a path) or on a port of the loopback (a number)."""

    daemon_threads = True

    def __init__(self, where: str | int, service: Service, key: str) -> None:
        if isinstance(where, str):
            self.address_family = socket.AF_UNIX
        handler = type("Answering", (Answering,), {"service": service, "key": key})
        super().__init__(where if isinstance(where, str) else ("127.0.0.1", where), handler)  # type: ignore[arg-type]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """End the process when memory has run out, which the next request would meet again; log anything else."""
        del request, client_address
        error = sys.exception()
        if isinstance(error, ConnectionError | TimeoutError):
            return
        traceback.print_exc()
        if error is not None and of_memory(error):
            _end("out of memory")


def of_memory(error: BaseException) -> bool:
    """Say whether an error means that memory ran out: Python's, or one of torch's allocators, in their words."""
    words = ("out of memory", "not enough memory", "can't allocate memory")
    return isinstance(error, MemoryError) or any(each in str(error) for each in words)


def _usage(ended: Ended, length: int) -> dict[str, Any]:
    return {
        "usage": {
            "prompt_tokens": length,
            "completion_tokens": ended.predicted,
            "total_tokens": length + ended.predicted,
            "prompt_tokens_details": {"cached_tokens": ended.cached},
        },
        "timings": {
            "cache_n": ended.cached,
            "prompt_n": ended.prompt,
            "prompt_ms": ended.prompt_ms,
            "predicted_n": ended.predicted,
            "predicted_ms": ended.predicted_ms,
        },
    }


def _end(reason: str) -> NoReturn:
    sys.stderr.write(f"{reason}\n")
    sys.stderr.flush()
    os._exit(1)


def main(words: list[str]) -> None:
    """Load the model and serve it."""
    key = sys.stdin.readline().strip()
    own = {"socket": "", "port": "", "name": ""}
    rest = []
    for word in words:
        name, _, value = word.partition("=")
        if name in own:
            own[name] = value
        else:
            rest.append(word)
    if not key:
        _end("no key came on standard input")
    if not own["socket"] and not own["port"].isdecimal():
        _end("neither socket=PATH nor port=NUMBER says where to listen")
    options = ModelOptions.from_words(rest)
    model = TransformersModel(options)
    service = Service(model, own["name"] or options.model.name)
    with Server(own["socket"] or int(own["port"]), service, key) as server:
        server.serve_forever()


if __name__ == "__main__":
    main(sys.argv[1:])
