"""The copy of a workspace's index in a Qdrant server: which one, filling it, and searching through it.

The archive stays here, whole; what is copied can be made again from it. Each embedder's vectors have a collection of
their own: after a change of embedder the new one is filled beside the old, which serves until then.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from quietmind.base.errors import IndexAway, UsageError, WorkspaceError
from quietmind.base.files import write_whole
from quietmind.base.paths import expanded, shown_path
from quietmind.base.progress import SILENT, Progress
from quietmind.base.settings import Settings
from quietmind.kvstore.lock import try_hold
from quietmind.notes import qdrant
from quietmind.notes.copying import Brought, bring_up_to_date
from quietmind.notes.finding import Copied, Counts, Finder
from quietmind.notes.vectors import Vectors

EMBEDDED = "embedded"
KEY_VARIABLE = "QUIETMIND_INDEX_KEY"

_SCHEME = "qdrant:"
_STATE, _LOCK = "copy.json", "copy.lock"
_SEARCH_SECONDS = 5.0  # somebody waits, and the archive's own index answers instead
_FILL_SECONDS = 120.0  # a batch, by a cluster that is busy with others

_ID = re.compile(r"[0-9a-f]{12}")


@dataclass(frozen=True)
class Place:
    """A server that may hold a copy. ``shards`` and ``replicas`` None: what the server does by itself."""

    address: str
    key: str = field(default="", repr=False)
    shards: int | None = None
    replicas: int | None = None


@dataclass(frozen=True)
class _State:
    """What the workspace knows of its copy: a name of its own on the server, and which collection serves."""

    id: str
    collection: str | None = None
    embedder: str | None = None


def place_of(
    settings: Settings, allow_remote: Sequence[str], announce: Callable[[str], None] = lambda _: None
) -> Place | None:
    """Return where ``settings`` want the copy; None: nowhere, the archive's own index is all.

    ``announce`` is told, in a line, when what notes are found by will leave this machine. Raises UsageError for a
    setting that makes no sense, and for another host without consent (``allow_remote``; see engine/endpoint.py).
    """
    if settings.index in (None, EMBEDDED):
        return None
    if not settings.index.startswith(_SCHEME):
        raise UsageError(
            f"{settings.index!r} is no index; known are {EMBEDDED}, and {_SCHEME} with an address, such as "
            f"{_SCHEME}http://127.0.0.1:6333"
        )
    from quietmind.engine.endpoint import checked, key_from_environment, key_from_file

    where = checked(settings.index.removeprefix(_SCHEME), allow_remote)
    if where.remote:
        how = "" if where.base.startswith("https:") else ", unencrypted"
        announce(f"what notes are found by will leave this machine: vectors and hashes are sent to {where.base}{how}")
    key = ""
    if settings.index_key_file is not None:
        key = key_from_file(expanded(settings.index_key_file))
    elif KEY_VARIABLE in os.environ:
        key = key_from_environment(KEY_VARIABLE)
    return Place(where.base, key, settings.index_shards, settings.index_replicas)


class Elsewhere:
    """The copy at ``place`` of the index of the workspace in ``folder``. Nothing is asked before it is needed."""

    def __init__(self, folder: Path, place: Place) -> None:
        self._folder = folder
        self.place = place

    def finder(self, connection: sqlite3.Connection, vectors: Vectors | None) -> Finder:
        """Return what finds passages in the copy, by ``vectors`` too where they are given. Close it.

        Raises IndexAway where nothing was copied yet, or not these vectors.
        """
        state = self._state()
        if state is None or state.collection is None:
            raise IndexAway(f"{self.place.address} has no copy of this index yet; run `quietmind index`")
        if vectors is not None and vectors.identity.digest != state.embedder:
            raise IndexAway(f"{self.place.address} has no copy of these vectors yet; run `quietmind index`")
        return Copied(connection, self._copy(state.collection, _SEARCH_SECONDS))

    def counts(self) -> Counts | None:
        """Return what the copy that serves holds; None: there is none yet. Raises IndexAway."""
        state = self._state()
        if state is None or state.collection is None:
            return None
        copy = self._copy(state.collection, _SEARCH_SECONDS)
        try:
            return copy.counts()
        finally:
            copy.close()

    def bring_up_to_date(
        self, connection: sqlite3.Connection, vectors: Vectors | None, progress: Progress = SILENT
    ) -> Brought | None:
        """Have the copy hold what the archive does, with ``vectors``; None: another process is at it.

        Killed at any moment, what was copied stays, and what served goes on serving. Raises IndexAway, WorkspaceError.
        """
        with self._one_at_a_time() as alone:
            if not alone:
                return None
            state = self._state() or _State(secrets.token_hex(6))
            embedder = vectors.identity.digest if vectors is not None else None
            prefix = f"quietmind-{state.id}-"
            name = f"{prefix}{embedder[:12] if embedder else 'words'}"
            copy = self._copy(name, _FILL_SECONDS)
            try:
                dimensions = vectors.identity.dimensions if vectors is not None else None
                if state.collection is None or not copy.exists():
                    # The name, before anything bears it; and what the server has lost serves no more until it is whole.
                    self._remember(_State(state.id))
                copy.make(dimensions, shards=self.place.shards, replicas=self.place.replicas)
                brought = bring_up_to_date(connection, copy, vectors, progress)
                self._remember(_State(state.id, name, embedder))
                copy.drop_others(prefix)
            finally:
                copy.close()
        return brought

    def _copy(self, collection: str, seconds: float) -> qdrant.Qdrant:
        client = qdrant.connect(self.place.address, self.place.key, seconds)
        return qdrant.Qdrant(client, collection, self.place.address)

    def _state(self) -> _State | None:
        file = self._folder / _STATE
        try:
            said = json.loads(file.read_text(encoding="utf-8"))
            state = _State(**said)
            if not _ID.fullmatch(state.id):
                raise ValueError("its id is none")
        except FileNotFoundError:
            return None
        except OSError as error:
            raise IndexAway(f"{shown_path(file)}: cannot be read ({error.strerror}); check its permissions") from error
        except (ValueError, TypeError) as error:
            raise IndexAway(
                f"{shown_path(file)}: does not say where the copy of the index is ({error}); remove it, and run "
                "`quietmind index` to make a copy anew"
            ) from error
        return state

    def _remember(self, state: _State) -> None:
        file = self._folder / _STATE
        try:
            write_whole(file, json.dumps(vars(state)).encode())
        except OSError as error:
            raise WorkspaceError(f"{shown_path(file)}: cannot be written ({error.strerror})") from error

    @contextmanager
    def _one_at_a_time(self) -> Iterator[bool]:
        """Yield whether this is the one process that fills the copy."""
        try:
            lock = (self._folder / _LOCK).open("ab")
        except OSError as error:
            raise WorkspaceError(f"{shown_path(self._folder)}: cannot be written to ({error.strerror})") from error
        with lock:
            yield try_hold(lock.fileno())


def searched_elsewhere(
    folder: Path, settings: Settings, allow_remote: Sequence[str], warn: Callable[[str], None]
) -> Elsewhere | None:
    """Return the copy that searches of the workspace in ``folder`` use; None where the settings want none.

    Where they want one that may not be asked, ``warn`` is told why, and the archive's own index answers.
    """
    try:
        place = place_of(settings, allow_remote, warn)
    except UsageError as error:
        warn(f"found in the archive's own index: {error}")
        return None
    return Elsewhere(folder, place) if place is not None else None
