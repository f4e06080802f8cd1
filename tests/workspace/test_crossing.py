"""What embeds and what asks agree about the languages: the means are measured by the one and used by the other."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from quietmind.engine.embedders.fake import FakeEmbedder
from quietmind.workspace.embedding import Searcher
from quietmind.workspace.workspace import Workspace

TOPICS = 60


class Partial(FakeEmbedder):
    """Knows that ``топикN`` is ``topicN``, and puts all that is Russian together, far from all that is not."""

    def query(self, text: str) -> NDArray[np.float32]:
        vector = super().query(text.lower().replace("топик", "topic"))
        russian = any("а" <= char <= "я" for char in text.lower())
        vector[0] = 0.8 if russian else -0.8
        return vector / np.float32(np.linalg.norm(vector))


def first(archive: Workspace, query: str, count: int) -> Sequence[str]:
    return [hit.passage.path.name for hit in archive.search(query, count)]


def test_a_question_in_one_language_finds_the_note_in_the_other(tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    notes.mkdir()
    for n in range(TOPICS):
        (notes / f"{n:02}-en.md").write_text(f"topic{n} topic{n} topic{n}\n", encoding="utf-8")
        (notes / f"{n:02}-ru.md").write_text(f"топик{n} топик{n} топик{n}\n", encoding="utf-8")
    with Workspace(tmp_path / "workspace", create=True) as archive:
        archive.index(notes)
        embedder = Partial()
        archive.embed(embedder)
        archive.search_with(Searcher(archive.folder, "fake", lambda name: embedder))
        assert set(first(archive, "топик7", 2)) == {"07-ru.md", "07-en.md"}
        (means,) = archive.folder.glob("vectors/*/language-means")
        means.unlink()
        assert "07-en.md" not in first(archive, "топик7", 2)
