"""A folder of notes beside the archive that indexes it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import pytest

from quietmind.base.sqlite import connect
from quietmind.notes.index import Index
from quietmind.notes.report import Report
from quietmind.notes.schema import MIGRATIONS
from quietmind.notes.search import documents, search


class Archive:
    """Notes below ``root``, and an open archive; nothing is indexed until somebody asks for it."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "notes"
        self.root.mkdir()
        self.database = folder / "archive.db"
        self.connection = connect(self.database, MIGRATIONS)
        self.index = Index(self.connection, self.database)

    def write(self, name: str, text: str | bytes = "слова") -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    def update(self) -> Report:
        return self.index.update(self.root)

    def names(self) -> list[str]:
        """The documents of the index, below the folder around ``root``, in the order of their paths."""
        return [str(entry.path.relative_to(self.root.parent)) for entry in documents(self.connection)]

    def found(self, query: str) -> list[str]:
        """The names of the files that a query finds, best first."""
        return [hit.passage.path.name for hit in search(self.connection, query)]

    def check(self) -> None:
        """Every passage has its document and its lemmas, and the database is sound."""
        assert self.connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert self.connection.execute("PRAGMA foreign_key_check").fetchall() == []
        self.connection.execute("INSERT INTO lemmas (lemmas) VALUES ('integrity-check')")
        ids = self.connection.execute("SELECT id FROM passages ORDER BY id").fetchall()
        assert ids == self.connection.execute("SELECT rowid FROM lemmas ORDER BY rowid").fetchall()


Indexed = Callable[[Mapping[str, str | bytes]], Archive]


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[Archive]:
    """One without notes."""
    archive = Archive(tmp_path)
    yield archive
    archive.check()
    archive.connection.close()


@pytest.fixture(scope="session")
def indexed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Indexed]:
    """Make archives of notes, by their names and texts, that are indexed; for tests that only read them."""
    with ExitStack() as stack:

        def make(notes: Mapping[str, str | bytes]) -> Archive:
            archive = Archive(tmp_path_factory.mktemp("archive"))
            stack.callback(archive.connection.close)
            for name, text in notes.items():
                archive.write(name, text)
            archive.update()
            return archive

        yield make
