"""A filter leaves what its conditions say, to both legs of a search, before anything is ranked."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from datetime import UTC, date, datetime
from pathlib import Path

import numpy as np
import pytest

from quietmind.base.errors import UsageError
from quietmind.base.sqlite import connect
from quietmind.notes.document import Kind
from quietmind.notes.facets import facets_of, unread
from quietmind.notes.filtering import Filter, chosen, count_within, passages_within, settled
from quietmind.notes.fusion import fused, key_of
from quietmind.notes.index import Index
from quietmind.notes.language import Language
from quietmind.notes.meaning import Meaning
from quietmind.notes.schema import MIGRATIONS
from quietmind.notes.search import ranked, search
from quietmind.notes.selecting import notes_tagged
from quietmind.notes.vectors import Identity, Vectors

CHAT = """>[!nexus_user] **User** - 30.06.2025 at 11:04
> Почему насос не включается по ночам, если реле исправно и вода есть?
<!-- UID: one -->

>[!nexus_agent] **Assistant** - 02.07.2025 at 09:15
> The pump does not start at night because the relay waits for the pressure sensor.
<!-- UID: two -->
"""
NOTES = {
    "garden/pump.md": "---\ntags: [Garden/Pump, plans]\ndate: 2024-05-17\n---\n# Насос\n\n"
    "Насос качает воду в бак, пока реле давления его не остановит.\n",
    "garden/2024-06-01 relay.md": "# Relay\n\nThe relay starts the pump when the pressure falls. #plans\n",
    "garden/deep/both.md": "# Pump and насос\n\nThe pump is controlled by the relay, as everybody knows by now.\n\n"
    "## Насос\n\nНасос управляется через реле, и это давно известно каждому здесь.\n",
    "other/plain.txt": "The pump is loud. #noise",
    "other/chat.md": CHAT,
}


class Archive:
    def __init__(self, folder: Path) -> None:
        self.root = folder / "notes"
        for name, text in NOTES.items():
            path = self.root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
            written = datetime(2023, 3, 4, 12, tzinfo=UTC).timestamp()
            os.utime(path, (written, written))
        self.connection = connect(folder / "archive.db", MIGRATIONS)
        self.index = Index(self.connection, folder / "archive.db")
        self.index.update(self.root)

    def settled(self, within: Filter) -> Filter:
        return settled(self.connection, within)

    def found(self, within: Filter, query: str = "pump насос") -> list[str]:
        hits = search(self.connection, query, 10, self.settled(within))
        return sorted(f"{hit.passage.path.name}:{hit.passage.first_line}" for hit in hits)


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Archive]:
    archive = Archive(tmp_path_factory.mktemp("filter"))
    yield archive
    archive.connection.close()


ALL = ["2024-06-01 relay.md:1", "both.md:1", "chat.md:1", "chat.md:5", "plain.txt:1", "pump.md:1"]


@pytest.mark.parametrize(
    ("within", "left"),
    [
        (Filter(), ALL),
        (Filter(folders=(Path("garden/deep"),)), ["both.md:1"]),
        (Filter(folders=(Path("garden/deep"), Path("other/plain.txt"))), ["both.md:1", "plain.txt:1"]),
        (Filter(tags=("plans",)), ["2024-06-01 relay.md:1", "pump.md:1"]),
        (Filter(tags=("#GARDEN",)), ["pump.md:1"]),
        (Filter(tags=("plans", "garden/pump")), ["pump.md:1"]),
        (Filter(languages=(Language.RUSSIAN,)), ["both.md:1", "chat.md:1", "pump.md:1"]),
        (
            Filter(languages=(Language.ENGLISH,)),
            ["2024-06-01 relay.md:1", "both.md:1", "chat.md:5", "plain.txt:1"],
        ),
        (Filter(kinds=(Kind.CHAT, Kind.TEXT)), ["chat.md:1", "chat.md:5", "plain.txt:1"]),
        (Filter(speakers=("USER",)), ["chat.md:1"]),
        (Filter(since=date(2024, 5, 18)), ["2024-06-01 relay.md:1", "chat.md:1", "chat.md:5"]),
        (Filter(since=date(2025, 7, 1)), ["chat.md:5"]),
        (Filter(until=date(2023, 12, 31)), ["both.md:1", "plain.txt:1"]),
        (Filter(since=date(2024, 5, 17), until=date(2024, 5, 17)), ["pump.md:1"]),
        (Filter(tags=("plans",), languages=(Language.ENGLISH,)), ["2024-06-01 relay.md:1"]),
    ],
)
def test_what_is_left_is_what_every_condition_leaves(archive: Archive, within: Filter, left: list[str]) -> None:
    assert archive.found(within) == left


def test_a_narrow_filter_still_finds_its_ten(tmp_path: Path) -> None:
    root = tmp_path / "notes"
    for number in range(300):
        folder = root / ("few" if number % 30 == 0 else "many")
        folder.mkdir(parents=True, exist_ok=True)
        words = "pump " * (1 if folder.name == "few" else 9)
        (folder / f"{number:03}.md").write_text(f"# {number}\n\n{words}and something else\n")
    connection = connect(tmp_path / "archive.db", MIGRATIONS)
    Index(connection, tmp_path / "archive.db").update(root)
    within = settled(connection, Filter(folders=(root / "few",)))
    assert len(search(connection, "pump", 10, within)) == 10
    assert all(hit.passage.path.parent.name == "few" for hit in search(connection, "pump", 10, within))
    assert not any(hit.passage.path.parent.name == "few" for hit in search(connection, "pump", 10))
    connection.close()


def test_scores_are_those_of_the_whole_archive(archive: Archive) -> None:
    """A filter says what is found, not how much it is about the question."""
    everywhere = {hit.passage: hit.score for hit in search(archive.connection, "pump relay", 10)}
    within = archive.settled(Filter(languages=(Language.ENGLISH,)))
    inside = {hit.passage: hit.score for hit in search(archive.connection, "pump relay", 10, within)}
    assert inside
    assert all(everywhere[passage] == score for passage, score in inside.items())


def test_the_nearest_are_the_nearest_of_those_that_are_allowed(archive: Archive, tmp_path: Path) -> None:
    allowed = archive.settled(Filter(folders=(archive.root / "other",)))
    every = passages_within(archive.connection, Filter(folders=(archive.root,)))
    assert every is not None
    hits = ranked(archive.connection, "pump насос реле relay", 20)
    keys = {passage: key_of(hits[passage].passage) for passage in every}
    vectors = np.eye(8, dtype=np.float32)[: len(every)]
    with Vectors(tmp_path / "vectors", Identity("fake", "0" * 64, 8)) as stored:
        with stored.writing():
            stored.place({})
            stored.append(list(keys.values()), vectors, keys.items())
        query = np.arange(8, 0, -1, dtype=np.float32)
        query /= np.linalg.norm(query)
        among = passages_within(archive.connection, allowed)
        nearest = stored.nearest(query, 1, among)
        assert among is not None
        assert nearest.placed == len(among) == count_within(archive.connection, allowed)
        assert [near.passage for near in nearest.found] == [among[0]]
        assert among[0] not in {near.passage for near in stored.nearest(query, 1).found}
        found = fused(
            archive.connection, "nothing", Meaning(stored.nearest(query, 9, among)), 9, stored.placed, allowed
        )
        assert {hit.passage.path.parent.name for hit in found} == {"other"}
        assert len(found) == len(among)


@pytest.mark.parametrize(
    ("within", "said"),
    [
        (Filter(folders=(Path("/"),), tags=("planz",)), r"bears the tag #planz; close to it: #plans"),
        (Filter(tags=("123",)), r"bears the tag #123; there are 3 others"),
        (Filter(folders=(Path("garden/none"),)), r"^garden/none: holds no indexed note; indexed are: .*notes$"),
        (Filter(folders=(Path("/nowhere/at all"),)), r"is outside of the archive; indexed are: "),
        (Filter(speakers=("nobody",)), r"nobody called 'nobody' speaks .*; those who do: assistant, user$"),
        (Filter(since=date(2025, 1, 1), until=date(2024, 1, 1)), r"ends before it begins"),
        (
            Filter(tags=("noise",), languages=(Language.RUSSIAN,), since=date(2020, 1, 1)),
            r"#noise: 1 note, in the language ru: 3 notes, since 2020-01-01: 5 notes, together none; drop a condition$",
        ),
        (Filter(since=date(2030, 1, 1)), r"since 2030-01-01: 0 notes; widen it$"),
    ],
)
def test_a_filter_that_leaves_nothing_says_why_in_one_line(archive: Archive, within: Filter, said: str) -> None:
    with pytest.raises(UsageError, match=said) as raised:
        archive.settled(within)
    assert "\n" not in str(raised.value)


def test_the_days_at_both_ends_of_time_are_days_as_others(archive: Archive) -> None:
    assert archive.found(Filter(since=date.min, until=date.max)) == ALL


def test_the_time_of_a_file_counts_in_local_days(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    path = archive.root / "other" / "plain.txt"
    late = datetime(2023, 3, 4, 22, 30, tzinfo=UTC).timestamp()  # the 5th in Moscow, the 4th in New York
    os.utime(path, (late, late))
    archive.index.update(archive.root)
    only = Filter(folders=(path,), since=date(2023, 3, 5), until=date(2023, 3, 5))
    for zone, here in (("Europe/Moscow", True), ("America/New_York", False)):
        monkeypatch.setenv("TZ", zone)
        time.tzset()
        try:
            (passage,) = [hit.passage for hit in search(archive.connection, "loud", 1)]
            (of_passage,) = facets_of(archive.connection, [passage])
            assert of_passage is not None
            assert of_passage.day == date(2023, 3, 5 if here else 4)
            left = passages_within(archive.connection, only)
            assert bool(left) is here
        finally:
            monkeypatch.undo()
            time.tzset()


def test_what_an_older_version_indexed_is_filtered_by_what_is_known_and_read_again(tmp_path: Path) -> None:
    archive = Archive(tmp_path)
    before = archive.connection
    with before:
        before.execute("DROP TABLE facets")
        before.execute("DROP TABLE tags")
        before.execute("DELETE FROM migrations WHERE name = 'notes-3-facets'")
        before.execute("UPDATE documents SET made_by = 'reader 1, cutter 1, lemmas 1, links 1'")
    before.close()
    archive.connection = connect(tmp_path / "archive.db", MIGRATIONS)
    assert unread(archive.connection) == len(NOTES)
    assert archive.found(Filter(folders=(archive.root / "garden/deep",))) == ["both.md:1"]
    assert archive.found(Filter(speakers=("user",))) == ["chat.md:1"]
    assert archive.found(Filter(since=date(2025, 7, 1))) == ["chat.md:5"]
    assert [note.path.name for note in notes_tagged(archive.connection, "garden")] == ["pump.md"]
    with pytest.raises(UsageError, match=r"5 notes were indexed before there were filters: run `quietmind index`"):
        archive.settled(Filter(tags=("plans",)))
    Index(archive.connection, tmp_path / "archive.db").update(archive.root)
    assert unread(archive.connection) == 0
    assert archive.found(Filter(tags=("plans",))) == ["2024-06-01 relay.md:1", "pump.md:1"]
    assert [note.path.name for note in notes_tagged(archive.connection, "garden")] == ["pump.md"]
    archive.connection.close()


def test_a_note_that_goes_takes_its_facets_along(tmp_path: Path) -> None:
    archive = Archive(tmp_path)
    (archive.root / "garden/pump.md").unlink()
    archive.index.update(archive.root)
    assert notes_tagged(archive.connection, "garden") == []
    (orphans,) = archive.connection.execute(
        "SELECT count(*) FROM facets WHERE passage NOT IN (SELECT id FROM passages)"
    ).fetchone()
    (facets,) = archive.connection.execute("SELECT count(*) FROM facets").fetchone()
    (passages,) = archive.connection.execute("SELECT count(*) FROM passages").fetchone()
    assert (orphans, facets) == (0, passages)
    archive.connection.close()


def test_without_a_condition_everything_is_left() -> None:
    assert chosen(Filter()) == chosen(None) == ("", ())
