"""Reads a model's header off a web server: header bytes only, asked for by HTTP ranges, never the weights.

Of a GGUF file the range grows until the header is whole; of a safetensors file it is as long as its first eight bytes
say. A server that ignores ranges would send the whole model, so its answer is closed unread.
Protocol: RFC 9110, section 14 (range requests).
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote, urlsplit

from quietmind.base.errors import DownloadFailed, ModelError, ModelFileDamaged, ModelNotFound, UsageError
from quietmind.base.paths import shown_path
from quietmind.model import gguf, safetensors
from quietmind.model.card import ModelCard
from quietmind.model.config import LARGEST_CONFIG, parse_config, shape_of
from quietmind.model.derive import derive_card, derive_stored_card, requantize_card
from quietmind.model.shape import Shape

if TYPE_CHECKING:
    import httpx2

HUB = "https://huggingface.co"
FIRST_RANGE = 1 << 20  # bytes; a header without a vocabulary fits
LARGEST_GGUF_HEADER = 1 << 27  # real ones end below 20 MiB
MOST_SHARDS = 1000
TIMEOUT_SECONDS = 30.0

_CONFIG = "config.json"
_TOTAL = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18})")
_NAME_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")


def is_remote(name: str) -> bool:
    """Whether a name says that the network is to be asked: ``hf:OWNER/NAME[/FILE]`` or a URL."""
    return name.startswith(("hf:", "https://", "http://"))


def remote_url(name: str) -> str:
    """Return the URL of ``hf:OWNER/NAME[/FILE]`` (FILE is config.json if left out); URLs as they are.

    ``$HF_ENDPOINT`` names another hub, as for huggingface_hub. Raises UsageError for a name that is neither.
    """
    if not name.startswith("hf:"):
        parts = urlsplit(name)
        if not parts.hostname or not PurePosixPath(parts.path).name:
            raise UsageError(f"{shown_path(name)} does not name a file on a server; write https://HOST/PATH/FILE")
        return name
    parts_of_name = name.removeprefix("hf:").split("/")
    if len(parts_of_name) < 2 or not all(_NAME_PART.fullmatch(part) for part in parts_of_name):
        raise UsageError(f"{shown_path(name)} does not name a repository; write hf:OWNER/NAME or hf:OWNER/NAME/FILE")
    owner, repository, *file = parts_of_name
    endpoint = os.environ.get("HF_ENDPOINT", HUB).rstrip("/")
    return f"{endpoint}/{owner}/{repository}/resolve/main/{quote('/'.join(file) or _CONFIG)}"


def read_remote_card(name: str, quantization: str | None = None) -> ModelCard:
    """Return the card of a model on a server: of a GGUF or safetensors file, an index of them, or a config.json.

    With ``quantization`` the card is derived instead of read from the weights' headers.
    ``name`` is as remote_url takes it. Raises UsageError, ModelNotFound, DownloadFailed, ModelFileDamaged,
    ModelNotUnderstood.
    """
    url = remote_url(name)
    file = unquote(PurePosixPath(urlsplit(url).path).name)
    with _client() as client:
        server = _Server(client, name)
        if file.endswith(".gguf"):
            card = _gguf_card(server, url, file, name)
            return card if quantization in (None, card.quantization) else requantize_card(card, quantization)
        if not file.endswith((".json", ".safetensors")):
            raise UsageError(f"{shown_path(name)}: is no .gguf, .safetensors or .json file; name one of these")
        shape = _shape(server, url if file == _CONFIG else _beside(url, _CONFIG), name)
        if quantization is not None:
            return replace(derive_card(shape, quantization), path=Path(name))
        if file == _CONFIG:
            return replace(derive_stored_card(shape), path=Path(name))
        return _checkpoint_card(server, url, file, name, shape)


def _beside(url: str, file: str) -> str:
    """Return the URL of another file in the same folder."""
    parts = urlsplit(url)
    return parts._replace(path=f"{parts.path.rpartition('/')[0]}/{quote(file)}").geturl()


def _shape(server: _Server, url: str, name: str) -> Shape:
    source = Path(name if name.endswith(_CONFIG) else f"{name}/{_CONFIG}")
    return shape_of(parse_config(server.whole(url, LARGEST_CONFIG), source), _model_name(name), source)


def _model_name(name: str) -> str:
    """Return what to call the model: the repository's name, or the last folder of a URL."""
    if name.startswith("hf:"):
        return name.split("/")[1]
    folders = re.sub(r"/resolve/[^/]+(?=/)", "", urlsplit(name).path).split("/")[:-1]
    return unquote(folders[-1]) if folders and folders[-1] else urlsplit(name).hostname or name


def _checkpoint_card(server: _Server, url: str, file: str, name: str, shape: Shape) -> ModelCard:
    if not file.endswith(".json"):
        tensors, size = _remote_tensors(server, url, Path(name))
        return safetensors.checkpoint_card(shape, tensors, (Path(name),), size)
    shards = safetensors.shard_names(server.whole(url, safetensors.MAX_HEADER), Path(name))
    if len(shards) > MOST_SHARDS:
        raise ModelFileDamaged(f"{shown_path(name)}: names {len(shards):,} files, more than any model has")
    stored: list[safetensors.StoredTensor] = []
    total = 0
    for shard, wanted in shards.items():
        tensors, size = _remote_tensors(server, _beside(url, shard), Path(shard))
        stored += [tensor for tensor in tensors if tensor.name in wanted]
        total += size
    return safetensors.checkpoint_card(shape, stored, tuple(Path(shard) for shard in shards), total)


def _remote_tensors(server: _Server, url: str, source: Path) -> tuple[tuple[safetensors.StoredTensor, ...], int]:
    """Return the tensors of one safetensors file, and its bytes."""
    first, size = server.range(url, 0, safetensors.LENGTH_BYTES)
    length = safetensors.header_length(first, size, source)
    header = server.range(url, safetensors.LENGTH_BYTES, length)[0] if length else b""
    return safetensors.parse_header(header, size, source), size


def _gguf_card(server: _Server, url: str, file: str, name: str) -> ModelCard:
    """Copy the headers of all parts, each before a hole as long as its weights, and read them as files."""
    with tempfile.TemporaryDirectory(prefix="quietmind-header-") as scratch:
        paths = gguf.part_paths(Path(scratch, file))
        for path in paths:
            _copy_header(server, _beside(url, path.name), path)
        try:
            card = gguf.read_card(paths[0])
        except ModelError as error:
            raise _renamed(error, scratch, name) from None
    return replace(card, path=Path(name), files=tuple(Path(path.name) for path in paths))


def _copy_header(server: _Server, url: str, path: Path) -> None:
    """Write the header of a GGUF file to ``path``, a hole for the rest. What is fetched doubles until it is whole."""
    head, size = server.range(url, 0, FIRST_RANGE)
    while True:
        with path.open("wb") as copy:
            copy.write(head)
            copy.truncate(size)
        if len(head) == size or len(head) >= LARGEST_GGUF_HEADER or _whole(path, len(head)):
            return  # where it is damaged all the same, whoever reads it says so
        more, _ = server.range(url, len(head), len(head))
        head += more


def _whole(path: Path, fetched: int) -> bool:
    """Whether the first ``fetched`` bytes hold the header of the file: read past them, a hole is all zeros."""
    try:
        return gguf.read_part(path).data_offset <= fetched
    except ModelError:
        return False


def _renamed(error: ModelError, scratch: str, name: str) -> ModelError:
    """Return the error with the name that the person gave in place of our copy's."""
    said = re.sub(re.escape(shown_path(scratch)) + r"[^:]*", lambda _: shown_path(name), str(error))
    return type(error)(said)


class _Server:
    """Asks for ranges of files. ``name`` is what messages call the model."""

    def __init__(self, client: httpx2.Client, name: str) -> None:
        self._client = client
        self._name = shown_path(name)

    def whole(self, url: str, limit: int) -> bytes:
        """Return a whole file of at most ``limit`` bytes. Raises ModelNotFound, DownloadFailed."""
        with self._answer(url, {}) as answer:
            if answer.status_code != 200:
                raise self._refused(answer, url)
            raw = _read(answer, limit)
        if len(raw) > limit:
            raise DownloadFailed(f"{self._name}: {_file(url)} is larger than {limit:,} bytes, more than it can be")
        return raw

    def range(self, url: str, start: int, count: int) -> tuple[bytes, int]:
        """Return up to ``count`` bytes from ``start`` on, fewer at the end of the file, and the size of the file.

        Raises ModelNotFound, DownloadFailed.
        """
        with self._answer(url, {"Range": f"bytes={start}-{start + count - 1}"}) as answer:
            if answer.status_code != 206:
                raise self._refused(answer, url)
            first, last, size = self._placed(answer)
            if not start == first <= last < min(start + count, size):
                raise DownloadFailed(f"{self._name}: the server sent another range than was asked for; try again")
            raw = _read(answer, last - first + 1)
        if len(raw) != last - first + 1:
            raise DownloadFailed(
                f"{self._name}: the server promised {last - first + 1:,} bytes and sent {len(raw):,}; try again"
            )
        return raw, size

    @contextmanager
    def _answer(self, url: str, headers: dict[str, str]) -> Iterator[httpx2.Response]:
        """Ask, and yield the answer before its body is read. Failures of the network become DownloadFailed."""
        import httpx2

        try:
            with self._client.stream("GET", url, headers=headers | {"Accept-Encoding": "identity"}) as answer:
                if url.startswith("https:") and answer.url.scheme != "https":
                    raise DownloadFailed(
                        f"{self._name}: the server leads from https to {answer.url.scheme}; not followed"
                    )
                yield answer
        except (httpx2.HTTPError, httpx2.InvalidURL, httpx2.StreamError) as error:
            why = str(error) or type(error).__name__
            raise DownloadFailed(f"{self._name}: could not be read ({why}); check the name and the network") from error

    def _refused(self, answer: httpx2.Response, url: str) -> ModelNotFound | DownloadFailed:
        """Return the error for a status that is not the one hoped for."""
        status = answer.status_code
        if status in (401, 403):
            return DownloadFailed(
                f"{self._name}: the server wants a login (HTTP {status}); fetch the model, and name its file"
            )
        if status == 404:
            return ModelNotFound(f"{self._name}: {_file(url)} is not there (HTTP 404); check the name")
        if status == 200:
            return DownloadFailed(
                f"{self._name}: the server ignores ranges and would send the whole file; fetch it, and name the file"
            )
        return DownloadFailed(f"{self._name}: the server answers with HTTP {status}; try again later")

    def _placed(self, answer: httpx2.Response) -> tuple[int, int, int]:
        """Return the first and last byte that an answer holds, and the size of the file."""
        match = _TOTAL.fullmatch(answer.headers.get("Content-Range", ""))
        if match is None:
            raise DownloadFailed(f"{self._name}: the server does not say how large the file is; fetch it instead")
        return int(match[1]), int(match[2]), int(match[3])


def _file(url: str) -> str:
    """Return a URL's last part for one line of a message."""
    return shown_path(unquote(PurePosixPath(urlsplit(url).path).name))


def _read(answer: httpx2.Response, count: int) -> bytes:
    """Read ``count`` bytes of the body, and a little more where there are more; fewer where it ends before."""
    raw = bytearray()
    for piece in answer.iter_bytes():
        raw += piece
        if len(raw) > count:
            break
    return bytes(raw)


@contextmanager
def _client() -> Iterator[httpx2.Client]:
    import httpx2

    with httpx2.Client(follow_redirects=True, timeout=TIMEOUT_SECONDS) as client:
        yield client
