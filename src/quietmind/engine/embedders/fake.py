"""An embedder without a model, for tests: texts that share words are near, and the same text is always the same."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class FakeEmbedder:
    """Counts words, each in a place that its hash says; few of them share one.

    ``synonyms`` are counted as the word that they stand for.
    """

    most_tokens = None

    def __init__(self, name: str = "fake", dimensions: int = 1024, synonyms: dict[str, str] | None = None) -> None:
        self.name = name
        self.dimensions = dimensions
        self.digest = hashlib.sha256(f"{name} {dimensions}".encode()).hexdigest()
        self.embedded: list[str] = []
        self.closed = False
        self._synonyms = synonyms or {}

    def passages(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return the vectors of ``texts``, and keep these in ``embedded``."""
        import numpy as np

        self.embedded += texts
        return np.array([self.query(text) for text in texts], np.float32).reshape(-1, self.dimensions)

    def query(self, text: str) -> NDArray[np.float32]:
        """Return the vector of a query."""
        import numpy as np

        vector = np.zeros(self.dimensions, np.float32)
        for word in text.lower().split() or [""]:
            place = hashlib.sha256(self._synonyms.get(word, word).encode("utf-8", "replace")).digest()
            vector[int.from_bytes(place[:4], "big") % self.dimensions] += 1
        return vector / np.float32(np.linalg.norm(vector))

    def close(self) -> None:
        """Remember it."""
        self.closed = True
