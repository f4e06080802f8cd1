"""The models of embeddings that questions and clients share: opened once, and used by one thread at a time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from quietmind.notes.embedding import Embedder
from quietmind.workspace.embedding import key_of_embedder, open_embedder

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Embedders:
    """Those that were opened, by name. ``warn`` gets a line that the person should know of one."""

    def __init__(self, warn: Callable[[str], None]) -> None:
        self._warn = warn
        self._opening = threading.Lock()
        self._open: dict[str, _OneAtATime] = {}

    def open(self, name: str) -> Embedder:
        """Return the embedder of this name; closing it leaves it open. Raises UsageError, EngineError, ModelError."""
        with self._opening:
            if name not in self._open:
                self._open[name] = _OneAtATime(open_embedder(name, key=key_of_embedder(None), announce=self._warn))
            return self._open[name]

    def close(self) -> None:
        """Let go of all of them."""
        with self._opening:
            for embedder in self._open.values():
                embedder.end()
            self._open.clear()


class _OneAtATime:
    """An embedder for several threads, which ends with all others and not by ``close``. Implements the port."""

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder
        self._working = threading.Lock()
        self.name = embedder.name
        self.digest = embedder.digest
        self.dimensions = embedder.dimensions
        self.most_tokens = embedder.most_tokens

    def passages(self, texts: Sequence[str]) -> NDArray[np.float32]:
        with self._working:
            return self._embedder.passages(texts)

    def query(self, text: str) -> NDArray[np.float32]:
        with self._working:
            return self._embedder.query(text)

    def close(self) -> None:
        """Do nothing: others use it."""

    def end(self) -> None:
        with self._working:
            self._embedder.close()
