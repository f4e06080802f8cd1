"""What must hold of every index that passages are found by: the archive's own, and a copy of it in Qdrant.

The copy is kept by the client's local mode, and by a server (tests/conftest.py).
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from numpy.typing import NDArray

from quietmind.base.sqlite import connect
from quietmind.notes.copying import bring_up_to_date
from quietmind.notes.document import Kind
from quietmind.notes.embedded import Embedded
from quietmind.notes.embedding import embedded_text, text_key
from quietmind.notes.filtering import Filter
from quietmind.notes.finding import Copied, Counts, Entry, Finder, find
from quietmind.notes.index import Index
from quietmind.notes.schema import MIGRATIONS
from quietmind.notes.vectors import Identity, Vectors

if TYPE_CHECKING:
    from quietmind.notes.qdrant import Qdrant

NOTES = {
    "pumps/one.md": "# Насос\n\nНасос включает реле.\n",
    "pumps/two.md": "# Реле\n\nРеле греется, насос молчит, насос не виноват.\n",
    "three.md": "# Pump\n\nThe relay starts the pump.\n",
    "four.md": "# Ёлка\n\nЁлку покупаем в декабре.\n",
    "talk.txt": "The pump is old. A pump that is new would cost more than the relay.\n",
}
# A vector of each note, by what it is about: pumps, trees, and nothing.
ABOUT = {
    "pumps/one.md": (0.9, 0.1, 0.0),
    "pumps/two.md": (0.7, 0.0, 0.3),
    "three.md": (1.0, 0.0, 0.0),
    "four.md": (0.0, 1.0, 0.0),
}
EMBEDDER = Identity("made up", "d" * 64, 3)

pytestmark = pytest.mark.filterwarnings("ignore:Payload indexes have no effect in the local Qdrant:UserWarning")


def unit(numbers: Sequence[float]) -> NDArray[np.float32]:
    vector = np.array(numbers, np.float32)
    return vector / np.float32(np.linalg.norm(vector))


class Archive:
    """An archive of NOTES, with the vectors of ABOUT."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "notes"
        self.connection = connect(folder / "archive.db", MIGRATIONS)
        self.vectors = Vectors(folder / "vectors", EMBEDDER)
        self._index = Index(self.connection, folder / "archive.db")
        for name, text in NOTES.items():
            self.write(name, text)
        self.index()
        self.embed(ABOUT)

    def write(self, name: str, text: str) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")

    def index(self) -> None:
        self._index.update(self.root)

    def embed(self, about: dict[str, tuple[float, float, float]]) -> None:
        """Give a vector to the passages of the notes in ``about``, and to no others."""
        rows = self.connection.execute(
            "SELECT passages.id, path, title, heading, text FROM passages JOIN documents ON documents.id = document"
        )
        keys, vectors = {}, {}
        for passage, path, title, heading, text in rows:
            name = str(Path(os.fsdecode(path)).relative_to(self.root))
            if name in about:
                keys[passage] = text_key(embedded_text(title, json.loads(heading), text))
                vectors[passage] = unit(about[name])
        with self.vectors.writing():
            if new := self.vectors.place(keys):
                matrix = np.array([vectors[passage] for passage in new])
                self.vectors.append([keys[passage] for passage in new], matrix, [(each, keys[each]) for each in new])

    def close(self) -> None:
        self.vectors.close()
        self.connection.close()


class Found:
    """An archive, what finds its passages, and what brings that up to date."""

    def __init__(self, archive: Archive, finder: Finder, copy: Qdrant | None) -> None:
        self.archive = archive
        self.finder = finder
        self._copy = copy

    def update(self) -> None:
        if self._copy is not None:
            bring_up_to_date(self.archive.connection, self._copy, self.archive.vectors)

    def names(self, query: str, about: Sequence[float] | None = None, within: Filter | None = None) -> list[str]:
        vector = unit(about) if about is not None else None
        hits = find(
            self.archive.connection, self.finder, query, 10, vector=vector, vectors=self.archive.vectors, within=within
        )
        return [str(hit.passage.path.relative_to(self.archive.root)) for hit in hits]


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[Archive]:
    archive = Archive(tmp_path)
    yield archive
    archive.close()


@pytest.fixture(params=["local", "server"])
def copy(request: pytest.FixtureRequest) -> Iterator[Qdrant]:
    yield from opened_copy(request)


@pytest.fixture(params=["embedded", "local", "server"])
def found(request: pytest.FixtureRequest, archive: Archive) -> Iterator[Found]:
    if request.param == "embedded":
        yield Found(archive, Embedded(archive.connection, archive.vectors), None)
        return
    for copy in opened_copy(request):
        found = Found(archive, Copied(archive.connection, copy), copy)
        found.update()
        yield found


def opened_copy(request: pytest.FixtureRequest) -> Iterator[Qdrant]:
    pytest.importorskip("qdrant_client", reason="the client of Qdrant is not installed (extra `qdrant`)")
    from qdrant_client import QdrantClient

    from quietmind.notes import qdrant

    if request.param == "local":
        copy = qdrant.Qdrant(QdrantClient(":memory:"), "notes", "Qdrant in this process")
    else:
        server = request.getfixturevalue("qdrant_here")
        client = qdrant.connect(server.address, server.key)
        copy = qdrant.Qdrant(client, f"quietmind-test-{uuid.uuid4().hex}", server.address)
    copy.make(EMBEDDER.dimensions)
    yield copy
    copy.drop()
    copy.close()


def test_words_are_found_whatever_their_inflection(found: Found) -> None:
    assert set(found.names("насосы и реле")) == {"pumps/one.md", "pumps/two.md"}
    assert found.names("ёлкой") == ["four.md"]
    assert found.names("паровоз") == []
    assert found.names("") == []


def test_what_only_meaning_finds_is_found(found: Found) -> None:
    assert found.names("дерево на праздник", (0.0, 1.0, 0.0))[0] == "four.md"
    assert found.names("дерево на праздник") == []


def test_words_and_meaning_are_ranked_together(found: Found) -> None:
    names = found.names("насос включает реле", (1.0, 0.0, 0.0))
    assert names[0] == "pumps/one.md"
    assert set(names) == set(ABOUT)


def test_a_passage_without_a_vector_is_found_by_words_beside_those_that_have_one(found: Found) -> None:
    assert "talk.txt" in found.names("an old pump", (1.0, 0.0, 0.0))


def test_it_says_what_it_holds(found: Found) -> None:
    assert found.finder.counts() == Counts(5, 4)
    passages = [id_ for (id_,) in found.archive.connection.execute("SELECT id FROM passages")]
    assert len(found.finder.placed(passages)) == 4
    assert found.finder.placed([]) == set()
    assert found.finder.placed([10_000]) == set()


def test_a_filter_holds_for_both_legs_before_anything_is_ranked(found: Found) -> None:
    pumps = Filter(folders=(found.archive.root / "pumps",))
    assert set(found.names("pump relay реле", within=pumps)) == {"pumps/one.md", "pumps/two.md"}
    assert set(found.names("pump", (1.0, 0.0, 0.0), pumps)) == {"pumps/one.md", "pumps/two.md"}
    note = Filter(folders=(found.archive.root / "three.md",))
    assert found.names("pump relay насос", within=note) == ["three.md"]
    assert found.names("pump", within=Filter(kinds=(Kind.TEXT,))) == ["talk.txt"]
    assert found.names("pump", (1.0, 0.0, 0.0), Filter(folders=(found.archive.root / "nowhere",))) == []
    assert found.names("pump", within=Filter(folders=(found.archive.root / "pum",))) == []


def test_what_changed_is_never_found_as_it_was(found: Found) -> None:
    found.archive.write("four.md", "# Ель\n\nТеперь о паровозе.\n")
    found.archive.index()
    assert found.names("ёлка") == []
    assert "four.md" not in found.names("дерево на праздник", (0.0, 1.0, 0.0))
    found.update()
    assert found.names("паровозы") == ["four.md"]
    assert found.names("ёлка") == []


def test_what_is_gone_is_never_found(found: Found) -> None:
    (found.archive.root / "pumps/two.md").unlink()
    found.archive.index()
    assert found.names("насос реле", (0.7, 0.0, 0.3))[0] == "pumps/one.md"
    assert "pumps/two.md" not in found.names("насос реле", (0.7, 0.0, 0.3))
    found.update()
    assert found.finder.counts().passages == 4


def test_a_vector_that_comes_later_is_found_by(found: Found) -> None:
    found.archive.embed({**ABOUT, "talk.txt": (0.0, 0.0, 1.0)})
    found.update()
    assert found.finder.counts() == Counts(5, 5)
    assert found.names("что-то совсем другое", (0.0, 0.0, 1.0))[0] == "talk.txt"


def test_a_copy_ranks_as_the_archive_does(archive: Archive, copy: Qdrant) -> None:
    for number in range(60):
        words = " ".join(f"слово{each}" for each in range(number % 7, number, 3))
        archive.write(f"more/{number}.md", f"# Запись {number % 5}\n\n{words} {'насос ' * (number % 4)}\n")
    archive.index()
    bring_up_to_date(archive.connection, copy, archive.vectors)
    own, copied = Embedded(archive.connection, archive.vectors), Copied(archive.connection, copy)
    for query in ("слово3 слово9", "насос запись 2", "слово12 слово15 насос", "pump relay", "запись"):
        for about in (None, (0.9, 0.3, 0.1)):
            vector = unit(about) if about is not None else None
            ranked = find(archive.connection, own, query, 5, vector=vector)
            again = find(archive.connection, copied, query, 5, vector=vector)
            assert [hit.passage for hit in again] == [hit.passage for hit in ranked], query


def test_bringing_up_to_date_again_does_nothing(archive: Archive, copy: Qdrant) -> None:
    first = bring_up_to_date(archive.connection, copy, archive.vectors)
    again = bring_up_to_date(archive.connection, copy, archive.vectors)
    assert (first.put, first.removed, again.put, again.removed) == (5, 0, 0, 0)
    assert again.counts == Counts(5, 4)


def test_only_what_changed_is_carried_over(archive: Archive, copy: Qdrant) -> None:
    bring_up_to_date(archive.connection, copy, archive.vectors)
    archive.write("four.md", "# Ёлка\n\nЁлку покупаем в январе.\n")
    (archive.root / "pumps/one.md").unlink()
    archive.index()
    brought = bring_up_to_date(archive.connection, copy, archive.vectors)
    assert brought.put == 1
    assert brought.counts == Counts(4, 2)


def test_the_length_that_weights_rest_on_is_kept_until_it_is_wrong(archive: Archive, copy: Qdrant) -> None:
    bring_up_to_date(archive.connection, copy, archive.vectors)
    (average,) = {held.average for held in copy.held().values()}
    archive.write("five.md", "# Сад\n\nСнег лежит на крыше.\n")
    archive.index()
    assert bring_up_to_date(archive.connection, copy, archive.vectors).put == 1
    assert {held.average for held in copy.held().values()} == {average}
    archive.write("six.md", "# Длинная\n\n" + "слово за словом. " * 60)
    archive.index()
    assert bring_up_to_date(archive.connection, copy, archive.vectors).put == 7
    assert len({held.average for held in copy.held().values()}) == 1


class Ends(Exception):
    """The process ends here."""


class Mortal:
    """A copy that lasts for so many calls that write; the last one is carried out, and nobody hears of it."""

    def __init__(self, copy: Qdrant, calls: int) -> None:
        self._copy = copy
        self._left = calls

    def __getattr__(self, name: str) -> Any:
        return getattr(self._copy, name)

    def put(self, entries: Sequence[Entry]) -> None:
        self._copy.put(entries)
        self._count()

    def remove(self, passages: Sequence[int]) -> None:
        self._copy.remove(passages)
        self._count()

    def _count(self) -> None:
        self._left -= 1
        if not self._left:
            raise Ends


@pytest.mark.parametrize("calls", range(1, 8))
def test_ended_at_any_moment_the_next_update_does_the_rest(
    archive: Archive, copy: Qdrant, calls: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("quietmind.notes.copying._BATCH", 1)
    monkeypatch.setattr("quietmind.notes.copying._REMOVED_AT_ONCE", 1)
    with pytest.raises(Ends):
        bring_up_to_date(archive.connection, Mortal(copy, min(calls, 5)), archive.vectors)
    archive.write("four.md", "# Ель\n\nТеперь о паровозе.\n")
    (archive.root / "pumps/two.md").unlink()
    (archive.root / "talk.txt").unlink()
    archive.write("new.md", "# Новое\n\nНасос.\n")
    archive.index()
    finder = Copied(archive.connection, copy)
    there = {passage for (passage,) in archive.connection.execute("SELECT id FROM passages")}
    with suppress(Ends):
        bring_up_to_date(archive.connection, Mortal(copy, calls), archive.vectors)
    assert {passage for passage, _ in finder.by_words(["насос", "pump", "елка"], 10, None)} <= there
    bring_up_to_date(archive.connection, copy, archive.vectors)
    assert set(copy.held()) == there
    assert finder.counts() == Counts(4, 2)
    assert bring_up_to_date(archive.connection, copy, archive.vectors).put == 0


def test_no_word_of_a_note_is_in_a_copy(archive: Archive, copy: Qdrant) -> None:
    put: list[Entry] = []

    class Overheard(Mortal):
        def put(self, entries: Sequence[Entry]) -> None:
            put.extend(entries)
            super().put(entries)

    bring_up_to_date(archive.connection, Overheard(copy, 1000), archive.vectors)
    assert len(put) == 5
    said = repr(put).casefold()
    for word in ("насос", "pump", "relay", "four", "one.md", str(archive.root), "notes"):
        assert word.casefold() not in said
