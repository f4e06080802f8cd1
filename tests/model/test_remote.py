"""A model on a server is known by its header alone: what is asked for, and which servers are refused."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from quietmind.base.errors import DownloadFailed, ModelError, ModelFileDamaged, ModelNotFound, UsageError
from quietmind.model import remote
from quietmind.model.open import open_card
from quietmind.model.remote import read_remote_card, remote_url

CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 128,
    "max_position_embeddings": 512,
}


class Server(ThreadingHTTPServer):
    """Files by path, the bytes that were sent of them, and the ways in which servers misbehave."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.sent = 0
        self.asked: list[str] = []
        self.manner = "honest"
        self.url = f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, *_: object) -> None:
        """Say nothing: readers that have seen enough hang up."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self) -> None:
        state = self.server
        state.asked.append(self.path)
        content = state.files.get(self.path)
        if content is None or state.manner.isdecimal():
            self.answer(404 if content is None else int(state.manner), b"")
            return
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if asked is None or state.manner == "ignores ranges":
            self.answer(200, content)
            return
        first, last = int(asked[1]), min(int(asked[2]), len(content) - 1)
        place = {
            "lies about the place": f"bytes {first + 1}-{last}/{len(content)}",
            "hides the size": f"bytes {first}-{last}/*",
        }.get(state.manner, f"bytes {first}-{last}/{len(content)}")
        body = content[first : last + 1]
        self.answer(206, body[: len(body) // 2] if state.manner == "breaks off" else body, len(body), place)

    def answer(self, status: int, body: bytes, promised: int | None = None, place: str | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body) if promised is None else promised))
        if place:
            self.send_header("Content-Range", place)
        self.end_headers()
        self.close_connection = promised is not None and promised > len(body)
        self.wfile.write(body)
        self.server.sent += len(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture
def big(server: Server, write_gguf: Callable[..., bytes], small_model: Callable[..., Any]) -> Server:
    """A server with a model whose header takes 200 KB and whose weights take 3 MB."""
    metadata, tensors = small_model()
    metadata["tokenizer.ggml.tokens"] = [f"token number {number}" for number in range(7000)]
    tensors.append(("ballast.weight", (1024, 768), "f32"))
    server.files["/owner/model/resolve/main/model.gguf"] = write_gguf(metadata, tensors)
    return server


def test_only_the_header_of_a_gguf_file_is_fetched(big: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "FIRST_RANGE", 1 << 14)
    card = read_remote_card("hf:owner/model/model.gguf")
    assert (card.arch, card.layers, card.vocabulary, card.exact) == ("llama", 2, 32, True)
    (content,) = big.files.values()
    assert card.file_bytes == len(content) > 3_000_000
    assert big.sent <= 1 << 18  # 200 KB, in ranges that double
    assert str(card.path) == "hf:owner/model/model.gguf"


def test_all_parts_of_a_split_model_are_read(
    server: Server, write_gguf: Callable[..., bytes], small_model: Callable[..., Any]
) -> None:
    metadata, tensors = small_model()
    for number, rows in enumerate((tensors[:9], tensors[9:])):
        facts = (metadata if number == 0 else {"general.architecture": "llama"}) | {
            "split.no": number,
            "split.count": 2,
            "split.tensors.count": len(tensors),
        }
        server.files[f"/m/model-0000{number + 1}-of-00002.gguf"] = write_gguf(facts, rows)
    card = read_remote_card(f"{server.url}/m/model-00001-of-00002.gguf")
    assert len(card.tensors) == len(tensors)
    assert card.file_bytes == sum(map(len, server.files.values()))


def test_a_configuration_is_derived(server: Server) -> None:
    server.files["/owner/some-model/resolve/main/config.json"] = json.dumps(CONFIG).encode()
    card = read_remote_card("hf:owner/some-model", "Q8_0")
    assert (card.name, card.quantization, card.exact) == ("some-model", "Q8_0", False)
    assert read_remote_card("hf:owner/some-model/config.json").quantization == "Q4_K_M"
    assert open_card("hf:owner/some-model", "q8_0").weight_bytes == card.weight_bytes


def tensors_file(rows: list[tuple[str, list[int]]], ballast: int = 0) -> bytes:
    table, at = {}, 0
    for name, shape in rows:
        size = 2
        for extent in shape:
            size *= extent
        table[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [at, at + size]}
        at += size
    header = json.dumps(table).encode() + b" " * ballast
    return len(header).to_bytes(8, "little") + header + bytes(at)


def test_the_headers_of_all_shards_are_joined_and_of_the_weights_nothing_is_sent(server: Server) -> None:
    at = "/owner/model/resolve/main/"
    server.files[f"{at}config.json"] = json.dumps(CONFIG).encode()
    shards = {
        "a.safetensors": [("model.embed_tokens.weight", [128, 64]), ("model.norm.weight", [64])],
        "b.safetensors": [("lm_head.weight", [128, 64])],
    }
    weights = {row[0]: shard for shard, rows in shards.items() for row in rows}
    server.files[f"{at}model.safetensors.index.json"] = json.dumps({"weight_map": weights}).encode()
    for shard, rows in shards.items():
        server.files[at + shard] = tensors_file(rows, ballast=6000)
    card = read_remote_card("hf:owner/model/model.safetensors.index.json")
    assert {tensor.name for tensor in card.tensors} == {"token_embd.weight", "output_norm.weight", "output.weight"}
    assert card.weight_bytes == 2 * (2 * 128 * 64 + 64)
    headers = [server.files[at + shard] for shard in shards]
    assert server.sent <= sum(len(content) for path, content in server.files.items() if path.endswith(".json")) + sum(
        8 + int.from_bytes(content[:8], "little") for content in headers
    )
    single = read_remote_card("hf:owner/model/a.safetensors")
    assert single.file_bytes == len(server.files[f"{at}a.safetensors"])


@pytest.mark.parametrize(
    ("manner", "kind", "message"),
    [
        ("ignores ranges", DownloadFailed, "ignores ranges"),
        ("lies about the place", DownloadFailed, "another range"),
        ("hides the size", DownloadFailed, "how large"),
        ("breaks off", DownloadFailed, r"could not be read|promised"),
        ("401", DownloadFailed, "wants a login"),
        ("403", DownloadFailed, "wants a login"),
        ("503", DownloadFailed, "HTTP 503"),
    ],
)
def test_a_server_that_misbehaves_is_refused_in_one_line(
    big: Server, manner: str, kind: type[ModelError], message: str
) -> None:
    big.manner = manner
    with pytest.raises(kind, match=message) as refusal:
        read_remote_card("hf:owner/model/model.gguf")
    assert "\n" not in str(refusal.value)
    assert str(refusal.value).startswith("hf:owner/model/model.gguf: ")


def test_a_server_that_ignores_ranges_does_not_get_to_send_the_model(
    big: Server, write_gguf: Callable[..., bytes], small_model: Callable[..., Any]
) -> None:
    metadata, tensors = small_model()
    tensors.append(("ballast.weight", (1024, 16384), "f32"))  # 64 MiB: more than the buffers between us hold
    big.files["/owner/model/resolve/main/model.gguf"] = write_gguf(metadata, tensors)
    big.manner = "ignores ranges"
    with pytest.raises(DownloadFailed, match="ignores ranges"):
        read_remote_card("hf:owner/model/model.gguf")
    assert big.sent == 0


def test_what_is_not_there_is_not_found(server: Server) -> None:
    with pytest.raises(ModelNotFound, match=r"absent\.gguf is not there \(HTTP 404\)"):
        read_remote_card("hf:owner/model/absent.gguf")
    with pytest.raises(ModelNotFound, match="404"):
        open_card("hf:owner/model/absent.gguf")


def test_nobody_listening_is_one_line(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(DownloadFailed, match="check the name and the network"):
        read_remote_card("hf:owner/model/model.gguf")


@pytest.mark.parametrize("length", [10, 50_000, 1_000_000])
def test_a_truncated_file_is_damage(big: Server, monkeypatch: pytest.MonkeyPatch, length: int) -> None:
    monkeypatch.setattr(remote, "FIRST_RANGE", 1 << 14)
    ((path, content),) = big.files.items()
    big.files[path] = content[:length]
    with pytest.raises(ModelFileDamaged) as refusal:
        read_remote_card("hf:owner/model/model.gguf")
    assert str(refusal.value).startswith("hf:owner/model/model.gguf: ")
    assert "/tmp" not in str(refusal.value)


def test_a_configuration_larger_than_any_is_not_read_to_its_end(server: Server) -> None:
    server.files["/owner/model/resolve/main/config.json"] = b" " * (1 << 23)
    with pytest.raises((DownloadFailed, ModelFileDamaged), match="larger than"):
        read_remote_card("hf:owner/model")


@pytest.mark.parametrize(
    "name",
    [
        "hf:",
        "hf:owner",
        "hf:../x/model.gguf",
        "hf:owner/model/../../x.gguf",
        "hf:owner//x",
        "https://",
        "https://host/",
    ],
)
def test_names_that_name_no_file_are_wrong_usage(name: str) -> None:
    with pytest.raises(UsageError):
        remote_url(name)


def test_other_kinds_of_files_are_wrong_usage(server: Server) -> None:
    with pytest.raises(UsageError, match=r"no \.gguf"):
        read_remote_card("hf:owner/model/pytorch_model.bin")
    assert server.asked == []
