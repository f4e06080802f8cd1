"""The folder of snapshots: saved whole or not at all, found by content, checked when read, evicted by what they cost.

The folder is the only truth: each file describes itself, so that there is no index to fall out of step with it. Killed
at any moment, what is listed is whole; what was being written is removed by the next writer.
"""

from __future__ import annotations

import errno
import hashlib
import math
import os
import secrets
import shutil
import struct
import tempfile
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO, cast

from quietmind.base.errors import DiskFull, NoRoomForSnapshot, SnapshotDamaged, SnapshotError, SnapshotForeign
from quietmind.base.paths import shown_path
from quietmind.base.units import format_bytes
from quietmind.kvstore.codec.port import Codec, codec_named
from quietmind.kvstore.container import Header, Reader, write
from quietmind.kvstore.fingerprint import Fingerprint
from quietmind.kvstore.lock import hold, try_hold
from quietmind.kvstore.mapping import mapped

SUFFIX = ".snapshot"
_PIN = ".pin"
_PARTIAL = ".partial"
_LOCK = "lock"
_SCRATCH = ".scratch-"
_HELD = "held"
_BASES = "bases"

# Snapshots whose cost a byte differs by less than this factor count as equally dear: then the longest unused goes.
_ALIKE = 1.25


@dataclass(frozen=True)
class Snapshot:
    """A snapshot that lies in the store. ``bytes`` is its file's size; ``used`` is in seconds since the epoch."""

    path: Path
    header: Header
    bytes: int
    used: float
    pinned: bool

    @property
    def seconds_per_byte(self) -> float:
        """What it costs to read again, for each byte that it takes."""
        return self.header.seconds / self.bytes


@dataclass(frozen=True)
class Refused:
    """A file of the store that is not used, and why."""

    path: Path
    reason: str


@dataclass(frozen=True)
class Match:
    """A snapshot that begins as a prompt does: ``common`` of its tokens are the prompt's first ones."""

    snapshot: Snapshot
    common: int


class Store:
    """The snapshots in ``folder``, which is made when the first is saved.

    ``budget`` is the most bytes that all may take together, None for no limit. Several processes may use one folder.
    """

    def __init__(self, folder: Path, budget: int | None = None) -> None:
        self._folder = folder
        self._budget = budget
        self._tokens: dict[tuple[str, int, int], array[int]] = {}  # of (name, inode, size)

    def save(
        self,
        source: Path,
        fingerprint: Fingerprint,
        tokens: Sequence[int],
        *,
        label: str,
        seconds: float,
        cut: bool,
        codec: Codec | None = None,
        note: Mapping[str, float | str] | None = None,
    ) -> Snapshot:
        """Store the file ``source``, in which the engine has saved the cache of ``tokens``, packed losslessly.

        Or with ``codec``. ``note`` is kept in the header: what has been measured of this snapshot, in finite numbers
        and short texts. Earlier snapshots of the same label and fingerprint that this one makes useless are removed.
        Raises NoRoomForSnapshot where the budget does not allow it, SnapshotError where the folder cannot be written,
        DiskFull.
        """
        from quietmind.kvstore.codec.exact import Exact

        codec = Exact() if codec is None else codec
        with self._translated():
            self._folder.mkdir(parents=True, exist_ok=True)
            raw_bytes = source.stat().st_size
            header = Header(
                fingerprint=fingerprint,
                label=label,
                tokens=len(tokens),
                codec=codec.name,
                raw_bytes=raw_bytes,
                seconds=seconds,
                cut=cut,
                made=datetime.now(UTC).isoformat(timespec="seconds"),
                note=dict(note or {}),
            )
            partial = self._folder / f".{secrets.token_hex(8)}{_PARTIAL}"
            with self._locked():  # else another writer might sweep it away before it is held
                sink = partial.open("xb")
                try_hold(sink.fileno())
            with sink:
                try:
                    with source.open("rb") as content:
                        size = write(sink, header, tokens, codec.encode(content, raw_bytes))
                    sink.flush()
                    os.fsync(sink.fileno())
                    return self._keep(partial, header, tokens, size)
                except BaseException:
                    partial.unlink(missing_ok=True)
                    raise

    def _keep(self, partial: Path, header: Header, tokens: Sequence[int], size: int) -> Snapshot:
        """Give a file that is written whole its name, after having made room for it."""
        path = self._folder / (_name(header.fingerprint, tokens) + SUFFIX)
        with self._locked():
            self._sweep()
            others = [each for each in self.snapshots() if each.path != path]
            useless = [each for each in others if self._is_superseded(each, header, tokens)]
            self._make_room(size, header.seconds / size, [each for each in others if each not in useless], useless)
            partial.replace(path)
            _sync_folder(self._folder)
            for each in useless:
                _remove(each.path)
        return _snapshot(path, header)

    def find(
        self,
        fingerprint: Fingerprint,
        tokens: Sequence[int],
        accept: Callable[[Header], bool] = lambda _header: True,
    ) -> Match | None:
        """Return the snapshot with the longest common beginning with ``tokens``, None where none has any.

        Of those that ``accept`` takes. One whose engine cannot go back to a shorter prefix counts only if it is a
        prefix whole.
        """
        wanted = array("I", tokens)
        best: Match | None = None
        for snapshot in self.snapshots():
            if snapshot.header.fingerprint != fingerprint or not accept(snapshot.header):
                continue
            with suppress(SnapshotDamaged, OSError):  # gone, or refused when it is listed
                common = _common(self._tokens_of(snapshot), wanted)
                usable = common > 0 and (snapshot.header.cut or common == snapshot.header.tokens)
                if usable and (best is None or common > best.common):
                    best = Match(snapshot, common)
        return best

    def restore(self, snapshot: Snapshot, fingerprint: Fingerprint, target: Path) -> None:
        """Write the engine's bytes of ``snapshot`` to ``target``, which appears whole or not at all.

        Raises SnapshotForeign if it does not belong to ``fingerprint``; SnapshotDamaged, after having removed it, if it
        is not what was written; SnapshotError where it is gone; DiskFull.
        """
        partial = target.with_name(f".{target.name}.{secrets.token_hex(4)}{_PARTIAL}")
        try:
            with self._translated(), snapshot.path.open("rb") as source, partial.open("x+b") as sink:
                reader = Reader(source)
                _require_same(reader.header.fingerprint, fingerprint)
                self._unpack(reader, sink)
            partial.replace(target)
            with suppress(OSError):  # a folder that may only be read
                os.utime(snapshot.path)
        except SnapshotDamaged as error:
            self.remove(snapshot)
            raise SnapshotDamaged(f"{shown_path(snapshot.path)}: {error}") from error
        finally:
            partial.unlink(missing_ok=True)

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """Give a folder on the store's own disk for an engine's file, and remove it afterwards with all it holds."""
        path = self._folder / f"{_SCRATCH}{secrets.token_hex(8)}"
        with self._translated():
            self._folder.mkdir(parents=True, exist_ok=True)
            with self._locked():  # else another writer might sweep it away before it is held
                path.mkdir(mode=0o700)
                held = (path / _HELD).open("xb")
                try_hold(held.fileno())
        with held:
            try:
                yield path
            finally:
                shutil.rmtree(path, ignore_errors=True)

    def snapshots(self) -> tuple[Snapshot, ...]:
        """Return all that can be used, in the order of their labels."""
        return tuple(each for each in self._listed() if isinstance(each, Snapshot))

    def refused(self) -> tuple[Refused, ...]:
        """Return the files that cannot be used, each with its reason. Only headers are looked at: see :meth:`check`."""
        return tuple(each for each in self._listed() if isinstance(each, Refused))

    def check(self, snapshot: Snapshot) -> None:
        """Read a snapshot whole. Raises SnapshotDamaged with what is wrong; nothing is removed."""
        with self._translated(), snapshot.path.open("rb") as source, _unnamed_file(self._folder) as sink:
            self._unpack(Reader(source), sink)

    def _unpack(self, reader: Reader, sink: BinaryIO) -> None:
        """Fill ``sink`` with the engine's bytes. Raises SnapshotDamaged, OSError."""
        reader.tokens()
        codec = codec_named(reader.header.codec, self.bases)
        with mapped(sink, reader.header.raw_bytes) as target:
            codec.decode(reader.blocks(), target)
        reader.require_end()

    def pin(self, snapshot: Snapshot, pinned: bool = True) -> None:
        """Keep a snapshot from being evicted, or no longer."""
        with self._translated(), self._locked():
            mark = snapshot.path.with_suffix(_PIN)
            mark.touch() if pinned else mark.unlink(missing_ok=True)

    def remove(self, snapshot: Snapshot | Refused) -> None:
        """Remove a snapshot, pinned or not; one that is gone already is no error."""
        with self._translated(), self._locked():
            _remove(snapshot.path)

    @property
    def bases(self) -> Path:
        """The folder of the bases that snapshots refer to by their digests."""
        return self._folder / _BASES

    def bytes_used(self) -> int:
        """Return the bytes of all snapshots together."""
        return sum(snapshot.bytes for snapshot in self.snapshots())

    def room(self) -> int | None:
        """Return how many bytes the budget has left with nothing evicted, None where there is no limit."""
        return None if self._budget is None else max(0, self._budget - self.bytes_used())

    def _listed(self) -> Iterator[Snapshot | Refused]:
        found: list[Snapshot | Refused] = []
        with self._translated():
            paths = sorted(self._folder.glob(f"*{SUFFIX}")) if self._folder.is_dir() else []
        for path in paths:
            try:
                with path.open("rb") as source:
                    found.append(_snapshot(path, Reader(source).header))
            except SnapshotDamaged as error:
                found.append(Refused(path, str(error)))
            except FileNotFoundError:  # removed by another process meanwhile
                continue
            except OSError as error:
                found.append(Refused(path, f"it cannot be read ({error.strerror})"))
        yield from sorted(found, key=_label)

    def _tokens_of(self, snapshot: Snapshot) -> array[int]:
        state = snapshot.path.stat()
        key = (snapshot.path.name, state.st_ino, state.st_size)
        if key not in self._tokens:
            with snapshot.path.open("rb") as source:
                self._tokens[key] = Reader(source).tokens()
        return self._tokens[key]

    def _is_superseded(self, old: Snapshot, new: Header, tokens: Sequence[int]) -> bool:
        """Say whether ``old`` is of no use beside a new snapshot of the same label.

        Where the engine can go back, the new one serves for every prefix of its own; where it cannot, the snapshots
        along the way are what an edit goes back to.
        """
        if (old.header.label, old.header.fingerprint) != (new.label, new.fingerprint):
            return False
        if new.cut:
            return True
        try:
            return _common(self._tokens_of(old), array("I", tokens)) < old.header.tokens
        except (SnapshotDamaged, OSError):
            return True

    def _make_room(self, size: int, worth: float, others: Sequence[Snapshot], going: Sequence[Snapshot]) -> None:
        """Evict what is cheapest to read again for the room that it takes. ``going`` is removed in any case."""
        if self._budget is None:
            return
        if size > self._budget:
            raise NoRoomForSnapshot(
                f"the snapshot takes {format_bytes(size)}, and all together may take {format_bytes(self._budget)}; "
                "raise the budget or make the notebook smaller"
            )
        excess = sum(each.bytes for each in others) + size - self._budget
        victims = sorted((each for each in others if not each.pinned), key=lambda e: (_dearness(e), e.used))
        chosen: list[Snapshot] = []
        for victim in victims:
            if excess <= 0:
                break
            if _step(victim.seconds_per_byte) > _step(worth):
                continue
            chosen.append(victim)
            excess -= victim.bytes
        if excess > 0:
            raise NoRoomForSnapshot(
                f"{format_bytes(excess)} too little room for a snapshot of {format_bytes(size)}: what else is stored "
                "is pinned, or took longer to read; raise the budget or drop a notebook"
            )
        for victim in chosen:
            _remove(victim.path)

    def _sweep(self) -> None:
        """Remove what writers that are gone have left: their lock on it went with them."""
        for partial in self._folder.glob(f".*{_PARTIAL}"):
            with suppress(FileNotFoundError), partial.open("rb") as left:
                if try_hold(left.fileno()):
                    partial.unlink(missing_ok=True)
        for scratch in self._folder.glob(f"{_SCRATCH}*"):
            with suppress(FileNotFoundError), (scratch / _HELD).open("rb") as left:
                if try_hold(left.fileno()):
                    shutil.rmtree(scratch, ignore_errors=True)
        for mark in self._folder.glob(f"*{_PIN}"):
            if not mark.with_suffix(SUFFIX).exists():
                mark.unlink(missing_ok=True)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with hold(self._folder / _LOCK):
            yield

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError as error:
            raise SnapshotError(f"{shown_path(error.filename or self._folder)}: it is gone; list the store") from error
        except EOFError as error:
            raise SnapshotError(f"the engine's file has changed while it was stored ({error}); read again") from error
        except OSError as error:
            where = shown_path(self._folder)
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise DiskFull(f"{where}: no space left for a snapshot; free some, or lower the budget") from error
            raise SnapshotError(f"{where}: cannot be used ({error.strerror or error}); see its permissions") from error


def _label(each: Snapshot | Refused) -> str:
    return each.header.label if isinstance(each, Snapshot) else ""


def _snapshot(path: Path, header: Header) -> Snapshot:
    state = path.stat()
    return Snapshot(path, header, state.st_size, state.st_mtime, path.with_suffix(_PIN).exists())


def _name(fingerprint: Fingerprint, tokens: Sequence[int]) -> str:
    content = hashlib.sha256(struct.pack(f"<{len(tokens)}I", *tokens)).hexdigest()
    return f"{fingerprint.digest[:12]}-{content[:20]}"


def _common(one: array[int], other: array[int]) -> int:
    """Return how many leading items are the same, by halving: comparing slices is quick, item by item is not."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def _dearness(snapshot: Snapshot) -> int:
    return _step(snapshot.seconds_per_byte)


def _step(seconds_per_byte: float) -> int:
    return math.floor(math.log(max(seconds_per_byte, 1e-18)) / math.log(_ALIKE))


def _require_same(stored: Fingerprint, wanted: Fingerprint) -> None:
    if differing := wanted.differences(stored):
        raise SnapshotForeign(
            f"the snapshot was made with another {' and another '.join(differing)}; read the notebook again"
        )


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.with_suffix(_PIN).unlink(missing_ok=True)


def _unnamed_file(folder: Path) -> BinaryIO:
    """Return a file that is gone when it is closed, in ``folder`` unless that may only be read."""
    try:
        return cast("BinaryIO", tempfile.TemporaryFile(dir=folder))
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EROFS):
            raise
    return cast("BinaryIO", tempfile.TemporaryFile())


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
