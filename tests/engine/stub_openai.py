"""A small server that speaks as vLLM, SGLang or Ollama does, over real sockets; also a program: see ``main``.

Its tokenizer knows a few control tokens, which it recognises in any text as Hugging Face's does, and bytes. Its answers
to prompts are words in a row; a prompt that holds ``CRASH``, ``HANG``, ... makes it do that.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import socket
import socketserver
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

MARKERS = ["<|im_start|>", "<|im_end|>", "<s>"]
_SPLIT = re.compile("(" + "|".join(map(re.escape, MARKERS)) + ")")
FIRST_BYTE = 100
WORDS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]


def encode(text: str, *, start: bool) -> list[int]:
    tokens = [MARKERS.index("<s>")] if start else []
    for piece in _SPLIT.split(text):
        tokens += [MARKERS.index(piece)] if piece in MARKERS else [FIRST_BYTE + byte for byte in piece.encode()]
    return tokens


def decode(tokens: list[int], *, skip: bool = False) -> str:
    text = b""
    for token in tokens:
        if token >= FIRST_BYTE:
            text += bytes([token - FIRST_BYTE])
        elif not skip:
            text += MARKERS[token].encode()
    return text.decode("utf-8", "replace")


def rendered(messages: list[dict[str, str]]) -> str:
    turns = [f"<|im_start|>{each['role']}\n{each['content']}<|im_end|>\n" for each in messages]
    return "<s>" + "".join(turns) + "<|im_start|>assistant\n"


class Stub(socketserver.ThreadingMixIn, socketserver.TCPServer):
    """The server. ``requests`` are the bodies of generations; ``cancelled`` is set when a client has gone away."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(
        self, address: Any, *, flavour: str = "vllm", key: str = "", context: int = 512, model: str = ""
    ) -> None:
        self.flavour, self.key, self.context = flavour, key, context
        self.requests: list[dict[str, Any]] = []
        self.cancelled = threading.Event()
        self.seen: set[tuple[int, ...]] = set()
        self.model = model or ("stub:latest" if flavour == "ollama" else "stub")
        self.read_at_most: int | None = None
        if isinstance(address, str):
            self.address_family = socket.AF_UNIX
        super().__init__(address, Answering)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def __enter__(self) -> Stub:
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.shutdown()
        self.server_close()


class Answering(BaseHTTPRequestHandler):
    server: Stub
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # an answer in one piece; events are flushed

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def address_string(self) -> str:
        return "here"

    def reply(self, content: Any, status: int = 200) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()

    def refuse(self, message: str, status: int = 400) -> None:
        self.reply({"error": {"message": message, "type": "BadRequestError", "param": None, "code": status}}, status)

    def admitted(self) -> bool:
        guarded = (self.path.startswith("/v1") and self.server.flavour != "llama-server") or (
            self.server.flavour in {"sglang", "llama-server"} and self.path != "/health"
        )
        if not self.server.key or not guarded or self.headers["Authorization"] == f"Bearer {self.server.key}":
            return True
        self.reply({"error": "Unauthorized"}, 401)
        return False

    def do_GET(self) -> None:
        if not self.admitted():
            return
        if self.path == "/v1/models":
            card: dict[str, Any] = {"id": self.server.model, "object": "model"}
            if self.server.flavour in {"vllm", "sglang"}:
                card["max_model_len"] = self.server.context
            self.reply({"object": "list", "data": [card]})
        elif self.path == "/health":
            self.reply({})
        elif self.path == "/props" and self.server.flavour == "llama-server":
            self.reply({"default_generation_settings": {"n_ctx": self.server.context}})
        elif self.path == "/api/version" and self.server.flavour == "ollama":
            self.reply({"version": "0.12.0"})
        elif self.path == "/api/ps" and self.server.flavour == "ollama":
            self.reply({"models": [{"name": self.server.model, "context_length": self.server.context}]})
        else:
            self.refuse("Not Found", 404)

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if not self.admitted():
            return
        tokenizes = self.server.flavour != "ollama"
        if self.server.flavour == "llama-server" and self.path in {"/tokenize", "/apply-template"}:
            self.as_llama_server(body)
        elif self.path == "/tokenize" and tokenizes:
            text = rendered(body["messages"]) if "messages" in body else body["prompt"]
            tokens = encode(text, start="messages" not in body and body["add_special_tokens"])
            self.reply({"tokens": tokens, "count": len(tokens), "max_model_len": self.server.context})
        elif self.path == "/detokenize" and tokenizes:
            if self.server.flavour == "vllm":
                self.reply({"prompt": decode(body["tokens"])})
            else:
                self.reply({"text": decode(body["tokens"], skip=body.get("skip_special_tokens", True))})
        elif self.path == "/api/generate" and not tokenizes:
            self.reply({"done": True})
        elif self.path == "/v1/completions" and tokenizes:
            self.generate(body, body["prompt"], chat=False)
        elif self.path == "/v1/chat/completions":
            self.generate(body, encode(rendered(body["messages"]), start=False), chat=True)
        else:
            self.refuse("Not Found", 404)

    def as_llama_server(self, body: dict[str, Any]) -> None:
        if self.path == "/apply-template":
            self.reply({"prompt": rendered(body["messages"]).removeprefix("<s>")})
            return
        text = body.get("content", "")
        start = bool(text) and body["add_special"]
        tokens = (
            encode(text, start=start) if body.get("parse_special", True) else [FIRST_BYTE + b for b in text.encode()]
        )
        self.reply({"tokens": [0] * (start and not body["parse_special"]) + tokens})

    def generate(self, body: dict[str, Any], tokens: list[int], *, chat: bool) -> None:
        self.server.requests.append(body)
        needed = len(tokens) + body["max_tokens"]
        if needed > self.server.context and self.server.flavour != "ollama":
            self.refuse(
                f"This model's maximum context length is {self.server.context} tokens. However, you requested "
                f"{body['max_tokens']} output tokens and your prompt contains {len(tokens)} input tokens, for a total "
                f"of {needed} tokens. Please reduce the length of the input prompt or the number of requested tokens."
            )
            return
        prompt = decode(tokens)
        self.misbehave_before(prompt)
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream; charset=utf-8")
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True
        try:
            if chat:
                self.event({"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]})
            self.answer(body, prompt, tokens, chat)
        except OSError:
            self.server.cancelled.set()

    def misbehave_before(self, prompt: str) -> None:
        if "CRASH" in prompt:
            sys.stderr.write(Path(os.environ["STUB_LAST_WORDS"]).read_text())
            sys.stderr.flush()
            os.abort()
        if "HANG" in prompt:
            time.sleep(600)

    def answer(self, body: dict[str, Any], prompt: str, tokens: list[int], chat: bool) -> None:
        schema = body.get("response_format", {}).get("json_schema", {}).get("schema")
        if self.server.flavour == "llama-server":
            schema = body.get("json_schema")
        text = json.dumps({"answer": 7}) if schema else " ".join(WORDS)
        pieces = re.findall(r"\S+\s*", text)
        said: list[str] = []
        reason = "stop"
        for piece in pieces * (1000 if "FOREVER" in prompt else 1):
            if len(said) == body["max_tokens"] and "FOREVER" not in prompt:
                reason = "length"
                break
            if any(stop in piece for stop in body.get("stop", [])):
                break
            said.append(piece)
            field = {"delta": {"content": piece}} if chat else {"text": piece}
            self.event({"choices": [{"index": 0, **field, "finish_reason": None}]})
            if "STALL" in prompt:
                time.sleep(600)
            if "SLOWLY" in prompt:
                time.sleep(0.02)
        last: dict[str, Any] = {"delta": {}} if chat else {"text": ""}
        self.event({"choices": [{"index": 0, **last, "finish_reason": reason}]})
        counted = min(len(tokens), self.server.read_at_most or len(tokens))
        cached = counted - 1 if tuple(tokens) in self.server.seen else 0
        self.server.seen.add(tuple(tokens))
        usage = {"prompt_tokens": counted, "completion_tokens": len(said), "total_tokens": counted + len(said)}
        self.event({"choices": [], "usage": {**usage, "prompt_tokens_details": {"cached_tokens": cached}}})
        self.wfile.write(b"data: [DONE]\n\n")
        self.wfile.flush()

    def event(self, content: dict[str, Any]) -> None:
        self.wfile.write(b"data: " + json.dumps(content).encode() + b"\n\n")
        self.wfile.flush()


def main(words: list[str], flavour: str) -> None:
    """Serve as ``vllm serve MODEL ...`` or ``sglang.launch_server ...`` would, from the words of the command line."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    for name in ("--uds", "--host", "--port", "--config", "--served-model-name", "--max-model-len", "--context-length"):
        parser.add_argument(name)
    known, _ = parser.parse_known_args(words)
    trouble = os.environ.get("STUB_TROUBLE")
    if trouble:
        sys.stderr.write(Path(trouble).read_text())
        sys.exit(1)
    if os.environ.get("STUB_NEVER_READY"):
        time.sleep(600)
    key = os.environ.get("VLLM_API_KEY", "")
    if known.config:
        key = re.findall(r"api-key: *\"?(\w+)", Path(known.config).read_text())[0]
    context = int(known.max_model_len or known.context_length or 512)
    where = known.uds or ("127.0.0.1", int(known.port))
    with Stub(where, flavour=flavour, key=key, context=context, model=known.served_model_name or ""):
        threading.Event().wait()


if __name__ == "__main__":
    main(sys.argv[2:], sys.argv[1])
