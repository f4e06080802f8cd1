"""Kills what writes an archive, at random moments, and looks at what is left: the half of archive_faults.py that does.

Notes are changed, and a process that indexes, embeds or goes over to another embedder is killed while it works on
that. Afterwards the database must be sound, every document whole and as one of the versions of its file says, search
must work, and the next run must reach exactly what an undisturbed one reaches.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from index_speed import page, vocabulary

from quietmind.base.sqlite import connect
from quietmind.engine.embedders.fake import FakeEmbedder
from quietmind.notes.embedding import embedded_text, text_key
from quietmind.notes.index import Index
from quietmind.notes.passages import passages
from quietmind.notes.reading import read_document
from quietmind.notes.search import search
from quietmind.notes.vectors import Identity, Vectors
from quietmind.workspace.embedding import FOLDER, Searcher, embed
from quietmind.workspace.schema import ALL_MIGRATIONS, DATABASE

PAGES = 60
PATIENCE_S = 1800.0  # for a child on a busy machine
DIMENSIONS = 64
QUERIES = ("проверка датчика", "cache of the prefill requests", "REQ-7")

INDEXER = """
import sys
from pathlib import Path
from quietmind.base.sqlite import connect
from quietmind.notes import index
from quietmind.workspace.schema import ALL_MIGRATIONS
root, database, readers = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
index.readers_for = lambda files, size: readers
connection = connect(database, ALL_MIGRATIONS)
print("ready", flush=True)
index.Index(connection, database, batch_seconds=0.03).update(root)
print("done", flush=True)
"""

EMBEDDER = """
import sys, time
from pathlib import Path
from archive_kills import DIMENSIONS
from quietmind.base.sqlite import connect
from quietmind.engine.embedders.fake import FakeEmbedder
from quietmind.workspace import embedding
from quietmind.workspace.schema import ALL_MIGRATIONS, DATABASE
folder, name = Path(sys.argv[1]), sys.argv[2]
embedding._FIRST_BATCH = embedding._LARGEST_BATCH = 8
connection = connect(folder / DATABASE, ALL_MIGRATIONS)
embedder = FakeEmbedder(name, DIMENSIONS)
print("ready", flush=True)
embedding.embed(connection, folder, embedder)
print("done", flush=True)
"""

Contents = dict[str, tuple[Any, ...]]


@dataclass
class Killing:
    """How one kind of process fared. ``midway``: killed with something done and something left to do."""

    kills: int = 0
    midway: int = 0
    wrong: list[str] = field(default_factory=list)
    lasting: float = 1.0

    def summary(self) -> dict[str, Any]:
        """Return what goes into the line of JSON."""
        return {"kills": self.kills, "midway": self.midway, "wrong": len(self.wrong)}


class Notes:
    """A folder of invented notes that change."""

    def __init__(self, root: Path, chance: random.Random, count: int = PAGES) -> None:
        self.root = root
        self._chance = chance
        self._russian, self._english = vocabulary(chance)
        self._made = 0
        root.mkdir(parents=True)
        for _ in range(count):
            self.add()

    def add(self) -> None:
        """Write a new note."""
        self._made += 1
        self._write(self.root / f"{self._made % 7}" / f"note {self._made}.md")

    def change(self, share: float) -> None:
        """Write, rename or remove so many of the notes, and write as many new ones as are gone."""
        paths = sorted(self.root.rglob("*.md"))
        for path in self._chance.sample(paths, max(1, int(share * len(paths)))):
            match self._chance.choice(["write", "write", "rename", "remove"]):
                case "write":
                    self._write(path)
                case "rename":
                    path.rename(path.with_name(f"{path.stem}+.md"))
                case "remove":
                    path.unlink()
                    self.add()

    def _write(self, path: Path) -> None:
        path.parent.mkdir(exist_ok=True)
        words = self._english if self._made % 4 == 3 else self._russian
        path.write_text(page(self._made, words, self._chance), encoding="utf-8")


def contents(connection: sqlite3.Connection) -> Contents:
    """Return all rows of each document, by its path, without the numbers and times that two runs give differently."""
    tables = {
        table: [column for _, column, *_ in connection.execute(f"PRAGMA table_info({table})")]
        for (table,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table' AND sql LIKE '%REFE%'")
    }
    found: dict[str, list[Any]] = {}
    paths = {}
    told = "id, path, kind, title, encoding, lines, repaired_lines, size, sha256, made_by"
    for id_, path, *about in connection.execute(f"SELECT {told} FROM documents"):
        paths[id_] = os.fsdecode(path)
        found[paths[id_]] = [tuple(about)]
    for table, columns in sorted(tables.items()):
        if "document" not in columns:
            continue
        kept = [column for column in columns if column not in ("id", "document", "passage")]
        order = ", ".join(column for column in ("id", "passage", "number", "tag") if column in columns)
        rows = connection.execute(f"SELECT document, {', '.join(kept)} FROM {table} ORDER BY document, {order}")
        for document, *row in rows:
            found[paths[document]].append((table, *row))
    lemmas = "SELECT document, l.title, l.heading, l.body FROM lemmas l JOIN passages p ON p.id = l.rowid ORDER BY p.id"
    for document, *row in connection.execute(lemmas):
        found[paths[document]].append(("lemmas", *row))
    return {path: tuple(rows) for path, rows in found.items()}


def undisturbed(root: Path, folder: Path) -> Contents:
    """Return the contents of an index of ``root`` that nothing happened to."""
    database = folder / "clean.db"
    for path in folder.glob("clean.db*"):
        path.unlink()
    with closing(connect(database, ALL_MIGRATIONS)) as connection:
        Index(connection, database).update(root)
        return contents(connection)


def unsound(connection: sqlite3.Connection) -> list[str]:
    """Return what is wrong with the database itself."""
    wrong = []
    if (said := connection.execute("PRAGMA integrity_check").fetchone()) != ("ok",):
        wrong.append(f"integrity_check: {said}")
    if said := connection.execute("PRAGMA foreign_key_check").fetchall():
        wrong.append(f"foreign_key_check: {said}")
    try:
        connection.execute("INSERT INTO lemmas (lemmas) VALUES ('integrity-check')")
    except sqlite3.DatabaseError as error:
        wrong.append(f"full text: {error}")
    return wrong


def not_in_the_files(connection: sqlite3.Connection, allowed: set[str]) -> list[str]:
    """Return answers whose words no version of the notes has."""
    hits = [hit for query in QUERIES for hit in search(connection, query)]
    if not hits and allowed and connection.execute("SELECT count(*) FROM documents").fetchone() != (0,):
        return ["search finds nothing"]
    return [f"not in the files: {hit.passage.path}" for hit in hits if hit.passage.text not in allowed]


def texts(root: Path) -> set[str]:
    """Return the passages of the notes below ``root``, read from the files."""
    return {passage.text for path in root.rglob("*.md") for passage in passages(read_document(path))}


@contextmanager
def child(script: str, *words: object) -> Iterator[subprocess.Popen[bytes]]:
    """Start a script and wait until it is about to do its work; kill it in the end, if it is still there."""
    command = [sys.executable, "-c", script, *map(str, words)]
    with subprocess.Popen(command, cwd=Path(__file__).parent, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        if process.stdout.readline() != b"ready\n":
            raise RuntimeError(f"{command}: did not start")
        try:
            yield process
        finally:
            process.kill()


def killed(killing: Killing, chance: random.Random, script: str, *words: object) -> None:
    """Start a script and kill it at a random moment; its children must end too."""
    with child(script, *words) as process:
        time.sleep(chance.uniform(0.0, killing.lasting))
        children = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
        process.send_signal(signal.SIGKILL)
        said = process.communicate()[0]
    killing.kills += 1
    # So long that most kills fall into the work, on this machine as it is now.
    killing.lasting = max(0.05, killing.lasting * (0.8 if said else 1.1))
    _, left = psutil.wait_procs(children, timeout=PATIENCE_S)
    killing.wrong += [f"still running: {each}" for each in left]


def finished(script: str, *words: object) -> float:
    """Run a script to its end and return the seconds that its work took."""
    with child(script, *words) as process:
        began = time.monotonic()
        said, _ = process.communicate(timeout=PATIENCE_S)
        if said != b"done\n":
            raise RuntimeError(f"{words}: did not finish")
    return time.monotonic() - began


def kill_indexing(folder: Path, kills: int, chance: random.Random) -> dict[str, Any]:
    """Kill a process that indexes, in every other round one with processes that read for it."""
    notes = Notes(folder / "notes", chance)
    database, killing = folder / DATABASE, Killing()
    before: Contents = {}
    said_before: set[str] = set()
    for number in range(kills):
        readers = 2 * (number % 2)
        if number % 5 == 0:  # all of it anew
            for path in folder.glob(f"{DATABASE}*"):
                path.unlink()
            before = {}
        else:
            notes.change(0.4)
        after, said = undisturbed(notes.root, folder), texts(notes.root)
        killed(killing, chance, INDEXER, notes.root, database, readers)
        with closing(connect(database, ALL_MIGRATIONS)) as connection:
            got = contents(connection)
            killing.midway += got not in (before, after)
            killing.wrong += unsound(connection) + not_in_the_files(connection, said | said_before)
            killing.wrong += [
                f"torn: {path}" for path, rows in got.items() if rows not in (before.get(path), after.get(path))
            ]
            lost = [path for path, rows in before.items() if after.get(path) == rows and got.get(path) != rows]
            killing.wrong += [f"lost: {path}" for path in lost]
            Index(connection, database).update(notes.root)
            if contents(connection) != after:
                killing.wrong.append(f"round {number}: the next run did not complete it")
            killing.wrong += unsound(connection)
        before, said_before = after, said
    return _told("indexings", killing)


def kill_embedding(folder: Path, kills: int, chance: random.Random) -> dict[str, Any]:
    """Kill a process that makes vectors, of all notes or of those that changed."""
    notes = Notes(folder / "notes", chance)
    killing = Killing()
    with closing(connect(folder / DATABASE, ALL_MIGRATIONS)) as connection:
        index = Index(connection, folder / DATABASE)
        for number in range(kills):
            if number % 5 == 0:
                shutil.rmtree(folder / FOLDER, ignore_errors=True)
            else:
                notes.change(0.3)
            index.update(notes.root)
            killed(killing, chance, EMBEDDER, folder, "fake")
            have = _checked_vectors(connection, folder, "fake", killing, complete=False)
            embed(connection, folder, FakeEmbedder("fake", DIMENSIONS))
            all_ = _checked_vectors(connection, folder, "fake", killing, complete=True)
            killing.midway += 0 < have < all_
    return _told("embeddings", killing)


def kill_switching(folder: Path, kills: int, chance: random.Random) -> dict[str, Any]:
    """Kill a process that makes vectors of another embedder; until they are complete the old ones must serve."""
    notes = Notes(folder / "notes", chance)
    killing = Killing()
    with closing(connect(folder / DATABASE, ALL_MIGRATIONS)) as connection:
        Index(connection, folder / DATABASE).update(notes.root)
        embed(connection, folder, FakeEmbedder("fake-0", DIMENSIONS))
        for number in range(kills):
            old, new = f"fake-{number}", f"fake-{number + 1}"
            killed(killing, chance, EMBEDDER, folder, new)
            have = _checked_vectors(connection, folder, new, killing, complete=False)
            all_ = _checked_vectors(connection, folder, old, killing, complete=True)
            killing.midway += 0 < have < all_
            serving = _serving(folder, new, connection, killing)
            # All vectors may be there without the word that they are, which comes after the last.
            if serving != old and (serving, have) != (new, all_):
                killing.wrong.append(f"round {number}: {serving} serves, {new} has {have} of {all_}")
            embed(connection, folder, FakeEmbedder(new, DIMENSIONS))
            _checked_vectors(connection, folder, new, killing, complete=True)
            if (serving := _serving(folder, new, connection, killing)) != new:
                killing.wrong.append(f"round {number}: {serving} serves when {new} is complete")
            for path in (folder / FOLDER).glob(f"{old}-*"):
                shutil.rmtree(path)
    return _told("switches", killing)


def _checked_vectors(
    connection: sqlite3.Connection, folder: Path, name: str, killing: Killing, *, complete: bool
) -> int:
    """Return how many passages have a vector of ``name``; each must be what its text gives."""
    found = next((folder / FOLDER).glob(f"{name}-*"), None)
    rows = connection.execute(
        "SELECT passages.id, title, heading, text FROM passages JOIN documents ON documents.id = document"
    ).fetchall()
    if found is None:
        killing.wrong += [f"{name}: no vectors"] if complete else []
        return 0
    embedder, have = FakeEmbedder(name, DIMENSIONS), 0
    identity = Identity(name, embedder.digest, DIMENSIONS)  # killed early, the table does not say it
    with Vectors(found, identity) as vectors, vectors.writing():
        if vectors.counts() == (0, 0):
            return 0
        placed = vectors.placed([id_ for id_, *_ in rows])
        for id_, title, heading, text in rows:
            said = embedded_text(title, _headings(heading), text)
            key = text_key(said)
            near = {each.passage: each for each in vectors.nearest(embedder.query(said), 5).found}
            if id_ in placed and id_ in near and near[id_].key == key:
                have += 1
                if near[id_].similarity < 0.99:
                    killing.wrong.append(f"{name}: passage {id_} has another vector, {near[id_].similarity:.3f}")
    if complete and have != len(rows):
        killing.wrong.append(f"{name}: {have} of {len(rows)} passages have their vector after a whole run")
    return have


def _serving(folder: Path, wanted: str, connection: sqlite3.Connection, killing: Killing) -> str | None:
    """Return whose vectors a search uses, after one that has to find something."""
    with closing(
        Searcher(folder, wanted, lambda name: FakeEmbedder(name, DIMENSIONS), killing.wrong.append)
    ) as searcher:
        if not searcher.search(connection, QUERIES[0], 5):
            killing.wrong.append("search finds nothing")
        serving = searcher.serving()
        return serving[0].identity.name if serving else None


def _headings(said: str) -> list[str]:
    return list(json.loads(said))


def _told(what: str, killing: Killing) -> dict[str, Any]:
    for line in killing.wrong[:5]:
        print(f"wrong      {line}")
    print(
        f"measured   {killing.kills} {what} killed, {killing.midway} of them midway: {len(killing.wrong)} wrong",
        flush=True,
    )
    return killing.summary()
