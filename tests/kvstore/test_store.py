"""What the store lists is whole; what it gives back is what was stored; what it cannot vouch for is refused."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import signal
import struct
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from quietmind.base.errors import DiskFull, SnapshotDamaged, SnapshotError, SnapshotForeign
from quietmind.kvstore.container import write
from quietmind.kvstore.fingerprint import Fingerprint
from quietmind.kvstore.mapping import mapped
from quietmind.kvstore.store import Match, Snapshot, Store

OURS = Fingerprint("weights", "tokenizer", "template", "rope", "f16", "build 1")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "snapshots")


def keep(
    store: Store,
    tokens: Sequence[int],
    content: bytes = b"cache" * 100,
    *,
    folder: Path,
    label: str = "notes",
    seconds: float = 10.0,
    cut: bool = True,
    fingerprint: Fingerprint = OURS,
) -> Snapshot:
    source = folder / "slot"
    source.write_bytes(content)
    return store.save(source, fingerprint, tokens, label=label, seconds=seconds, cut=cut)


def test_what_was_stored_comes_back(store: Store, tmp_path: Path) -> None:
    content = os.urandom(10_000)
    kept = keep(store, [1, 2, 3], content, folder=tmp_path)
    store.restore(kept, OURS, tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == content
    assert [each.path for each in store.snapshots()] == [kept.path]
    assert store.bytes_used() == kept.path.stat().st_size == kept.bytes


def test_the_longest_common_beginning_is_found(store: Store, tmp_path: Path) -> None:
    keep(store, [1, 2, 3], folder=tmp_path, label="short")
    longer = keep(store, [1, 2, 3, 4, 5, 6], folder=tmp_path, label="long")
    assert store.find(OURS, [1, 2, 3, 4, 5, 9, 9]) == Match(longer, 5)
    assert store.find(OURS, [7]) is None
    assert store.find(OURS, []) is None


def test_a_cache_that_cannot_be_cut_serves_only_as_a_whole_prefix(store: Store, tmp_path: Path) -> None:
    whole = keep(store, [1, 2, 3], folder=tmp_path, label="short", cut=False)
    keep(store, [1, 2, 3, 4, 5], folder=tmp_path, label="long", cut=False)
    assert store.find(OURS, [1, 2, 3, 4, 9]) == Match(whole, 3)


@pytest.mark.parametrize("part", ["weights", "tokenizer", "template", "rope", "kv", "engine", "adapters", "experts"])
def test_another_fingerprint_is_neither_found_nor_restored(store: Store, tmp_path: Path, part: str) -> None:
    kept = keep(store, [1, 2, 3], folder=tmp_path)
    other = replace(OURS, **{part: "another"})
    assert store.find(other, [1, 2, 3]) is None
    with pytest.raises(SnapshotForeign, match=f"another {part}"):
        store.restore(kept, other, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert store.snapshots() == (kept,)


def test_a_snapshot_swapped_for_another_models_is_refused(store: Store, tmp_path: Path) -> None:
    ours = keep(store, [1, 2, 3], folder=tmp_path)
    foreign = keep(store, [1, 2, 3], folder=tmp_path, fingerprint=replace(OURS, weights="another"), label="b")
    foreign.path.replace(ours.path)
    assert store.find(OURS, [1, 2, 3]) is None
    with pytest.raises(SnapshotForeign):
        store.restore(ours, OURS, tmp_path / "out")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150, deadline=None)
@given(data=st.data())
def test_a_file_changed_or_cut_anywhere_is_never_used(store: Store, tmp_path: Path, data: st.DataObject) -> None:
    kept = keep(store, [1, 2, 3], bytes(range(256)) * 4, folder=tmp_path)
    whole = kept.path.read_bytes()
    at = data.draw(st.integers(0, len(whole) - 1), label="at")
    if data.draw(st.booleans(), label="cut"):
        kept.path.write_bytes(whole[:at])
    else:
        kept.path.write_bytes(whole[:at] + bytes([whole[at] ^ data.draw(st.integers(1, 255))]) + whole[at + 1 :])
    assert store.find(OURS, [1, 2, 3]) is None or store.find(OURS, [1, 2, 3]) is not None  # never an exception
    with pytest.raises((SnapshotDamaged, SnapshotForeign)):
        store.restore(kept, OURS, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_damaged_snapshot_is_removed_and_says_why(store: Store, tmp_path: Path) -> None:
    kept = keep(store, [1, 2, 3], os.urandom(1000), folder=tmp_path)
    content = bytearray(kept.path.read_bytes())
    content[-200] ^= 1
    kept.path.write_bytes(content)
    with pytest.raises(SnapshotDamaged, match="not what was written; read the notebook again"):
        store.restore(kept, OURS, tmp_path / "out")
    assert not kept.path.exists()
    again = keep(store, [1, 2, 3], folder=tmp_path)
    store.restore(again, OURS, tmp_path / "out")


def test_two_blocks_that_change_places_are_found_out(store: Store, tmp_path: Path) -> None:
    kept = keep(store, [1], os.urandom(9 << 20), folder=tmp_path)
    content = kept.path.read_bytes()
    size = len(content) // 9 * 2  # random bytes do not pack: blocks of 2 MiB and a little
    start = content.index(b"exact-2")
    swapped = content[: start + 1000] + content[start + 1000 + size :] + content[start + 1000 : start + 1000 + size]
    kept.path.write_bytes(swapped)
    with pytest.raises(SnapshotDamaged):
        store.check(kept)


def test_files_of_no_kind_are_listed_as_refused(store: Store, tmp_path: Path) -> None:
    kept = keep(store, [1], folder=tmp_path)
    (kept.path.parent / "junk.snapshot").write_bytes(b"no snapshot at all, but long enough to be read")
    future = bytearray(kept.path.read_bytes())
    future[6] = 99
    (kept.path.parent / "future.snapshot").write_bytes(future)
    reasons = {each.path.name: each.reason for each in store.refused()}
    assert "no snapshot" in reasons["junk.snapshot"]
    assert "format version 99" in reasons["future.snapshot"]
    assert store.snapshots() == (kept,)


def test_a_newer_snapshot_of_the_same_notebook_takes_the_place_of_the_old(store: Store, tmp_path: Path) -> None:
    keep(store, [1, 2], folder=tmp_path)
    newer = keep(store, [1, 9], folder=tmp_path)
    assert store.snapshots() == (newer,)


def test_snapshots_along_the_way_stay_where_the_engine_cannot_go_back(store: Store, tmp_path: Path) -> None:
    first = keep(store, [1, 2], folder=tmp_path, cut=False)
    keep(store, [1, 2, 3, 4], folder=tmp_path, cut=False)
    edited = keep(store, [1, 2, 9, 9], folder=tmp_path, cut=False)
    assert {each.path for each in store.snapshots()} == {first.path, edited.path}


def test_the_budget_evicts_what_is_cheapest_to_read_again(tmp_path: Path) -> None:
    size = keep(Store(tmp_path / "sized"), [1], os.urandom(10_000), folder=tmp_path).bytes
    store = Store(tmp_path / "snapshots", budget=2 * size + size // 2)
    dear = keep(store, [1], os.urandom(10_000), folder=tmp_path, label="dear", seconds=100)
    keep(store, [2], os.urandom(10_000), folder=tmp_path, label="cheap", seconds=1)
    newest = keep(store, [3], os.urandom(10_000), folder=tmp_path, label="newest", seconds=50)
    assert {each.path for each in store.snapshots()} == {dear.path, newest.path}


def test_of_equally_dear_ones_the_longest_unused_goes(tmp_path: Path) -> None:
    size = keep(Store(tmp_path / "sized"), [1], os.urandom(10_000), folder=tmp_path).bytes
    store = Store(tmp_path / "snapshots", budget=2 * size + size // 2)
    old = keep(store, [1], os.urandom(10_000), folder=tmp_path, label="old")
    unused = keep(store, [2], os.urandom(10_000), folder=tmp_path, label="unused")
    os.utime(old.path, (time.time() - 100, time.time() - 100))
    os.utime(unused.path, (time.time() - 200, time.time() - 200))
    store.restore(old, OURS, tmp_path / "out")
    keep(store, [3], os.urandom(10_000), folder=tmp_path, label="new")
    assert {each.header.label for each in store.snapshots()} == {"old", "new"}


def test_what_is_pinned_is_not_evicted(tmp_path: Path) -> None:
    size = keep(Store(tmp_path / "sized"), [1], os.urandom(10_000), folder=tmp_path).bytes
    store = Store(tmp_path / "snapshots", budget=size + size // 2)
    pinned = keep(store, [1], os.urandom(10_000), folder=tmp_path, label="pinned", seconds=1)
    store.pin(pinned)
    with pytest.raises(SnapshotError, match="pinned"):
        keep(store, [2], os.urandom(10_000), folder=tmp_path, label="new", seconds=100)
    assert [each.pinned for each in store.snapshots()] == [True]
    store.pin(pinned, False)
    keep(store, [2], os.urandom(10_000), folder=tmp_path, label="new", seconds=100)
    assert [each.header.label for each in store.snapshots()] == ["new"]


def test_a_cheap_snapshot_does_not_drive_out_a_dear_one(tmp_path: Path) -> None:
    size = keep(Store(tmp_path / "sized"), [1], os.urandom(10_000), folder=tmp_path).bytes
    store = Store(tmp_path / "snapshots", budget=size + size // 2)
    dear = keep(store, [1], os.urandom(10_000), folder=tmp_path, label="dear", seconds=100)
    with pytest.raises(SnapshotError, match="took longer to read"):
        keep(store, [2], os.urandom(10_000), folder=tmp_path, label="cheap", seconds=1)
    assert store.snapshots() == (dear,)


def test_one_larger_than_the_budget_is_refused_with_both_sizes(tmp_path: Path) -> None:
    store = Store(tmp_path / "snapshots", budget=1000)
    with pytest.raises(SnapshotError, match=r"takes .* KiB, and all together may take 1000 B"):
        keep(store, [1], os.urandom(10_000), folder=tmp_path)
    assert list((tmp_path / "snapshots").glob(".*")) == []


def test_a_full_disk_is_said_and_leaves_nothing(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_space(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(DiskFull, match="no space left"):
        keep(store, [1], folder=tmp_path)
    assert [path.name for path in (tmp_path / "snapshots").iterdir()] == ["lock"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_folder_that_may_only_be_read_is_said_in_one_line(store: Store, tmp_path: Path) -> None:
    kept = keep(store, [1], folder=tmp_path)
    kept.path.parent.chmod(0o500)
    try:
        store.restore(kept, OURS, tmp_path / "out")
        with pytest.raises(SnapshotError, match="cannot be used"):
            keep(store, [2], folder=tmp_path)
    finally:
        kept.path.parent.chmod(0o700)


def test_a_snapshot_that_another_process_removed_is_gone_not_a_traceback(store: Store, tmp_path: Path) -> None:
    kept = keep(store, [1], folder=tmp_path)
    kept.path.unlink()
    with pytest.raises(SnapshotError, match="it is gone"):
        store.restore(kept, OURS, tmp_path / "out")
    store.remove(kept)


WRITER = """
import sys, time
from pathlib import Path
from quietmind.kvstore.fingerprint import Fingerprint
from quietmind.kvstore.store import Store
store = Store(Path(sys.argv[1]))
number = 0
print("ready", flush=True)
while True:
    number += 1
    store.save(Path(sys.argv[2]), Fingerprint("weights", "tokenizer", "template", "rope", "f16", "build 1"),
               [number, 2], label=f"label {number % 5}", seconds=1.0, cut=True)
"""


def test_writers_killed_at_any_moment_leave_only_whole_snapshots(store: Store, tmp_path: Path) -> None:
    source = tmp_path / "slot"
    source.write_bytes(os.urandom(300_000))
    folder = tmp_path / "snapshots"
    for moment in range(6):
        writer = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(WRITER), str(folder), str(source)], stdout=subprocess.PIPE
        )
        assert writer.stdout is not None
        writer.stdout.readline()
        time.sleep(0.013 * moment)
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        writer.stdout.close()
        assert store.refused() == ()
        for each in store.snapshots():
            store.check(each)
    keep(store, [0], folder=tmp_path)
    assert list(folder.glob(".*.partial")) == []


def test_two_processes_share_one_store(store: Store, tmp_path: Path) -> None:
    source = tmp_path / "slot"
    source.write_bytes(os.urandom(100_000))
    folder = tmp_path / "snapshots"
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(WRITER), str(folder), str(source)], stdout=subprocess.PIPE
        )
        for _ in range(2)
    ]
    try:
        for writer in writers:
            assert writer.stdout is not None
            writer.stdout.readline()
        for number in range(20):
            keep(store, [1_000_000 + number], folder=tmp_path, label="ours")
        assert "ours" in {each.header.label for each in store.snapshots()}
    finally:
        for writer in writers:
            writer.kill()
            writer.wait()
            assert writer.stdout is not None
            writer.stdout.close()
    assert store.refused() == ()


class Stored:
    """A codec of one block that holds the bytes as they are, and unpacks as it is told to."""

    name = "exact-2"

    def encode(self, source: BinaryIO, size: int) -> Iterator[bytes]:
        yield source.read(size)

    def decode(self, blocks: Iterable[bytes], target: memoryview) -> None:
        del blocks, target  # a codec that leaves what it is given unread


def test_it_is_packed_with_the_codec_that_is_given(store: Store, tmp_path: Path) -> None:
    source = tmp_path / "slot"
    source.write_bytes(bytes(10_000))
    plain = store.save(source, OURS, [1], label="a", seconds=1.0, cut=True, codec=Stored())
    packed = store.save(source, OURS, [2], label="b", seconds=1.0, cut=True)
    assert plain.bytes > 10_000 > packed.bytes
    assert plain.header.codec == packed.header.codec == "exact-2"


def test_a_codec_that_leaves_blocks_unread_is_found_out(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = keep(store, [1], folder=tmp_path)
    monkeypatch.setattr("quietmind.kvstore.store.codec_named", lambda _name, _bases: Stored())
    with pytest.raises(SnapshotDamaged, match="more than its codec has made"):
        store.restore(kept, OURS, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_note_is_kept_with_the_snapshot(store: Store, tmp_path: Path) -> None:
    source = tmp_path / "slot"
    source.write_bytes(b"cache")
    note: dict[str, float | str] = {"divergence": 0.004, "checked": "2026-11-22"}
    store.save(source, OURS, [1], label="a", seconds=1.0, cut=True, note=note)
    (listed,) = store.snapshots()
    assert listed.header.note == note
    assert keep(store, [2], folder=tmp_path).header.note == {}


def version_1(content: bytes) -> bytes:
    """Return a snapshot as the version before has written it: with no note in its header."""
    sha256 = hashlib.sha256
    (length,) = struct.unpack_from("<I", content, 8)
    header = json.loads(content[12 : 12 + length])
    del header["note"]
    old = json.dumps(header, sort_keys=True).encode()
    at = 12 + length + 32
    end = at + 4 * header["tokens"] + 32
    digests = sha256(old).digest() + content[end - 32 : end]
    parts = [b"QMSNAP\x01\x00", struct.pack("<I", len(old)), old, digests[:32], content[at:end]]
    while size := struct.unpack_from("<I", content, end)[0]:
        parts.append(content[end : end + 4 + size + 32])
        end += 4 + size + 32
        digests += content[end - 32 : end]
    return b"".join([*parts, content[end : end + 8], sha256(digests).digest()])


def test_files_of_the_version_before_are_read(store: Store, tmp_path: Path) -> None:
    content = os.urandom(10_000)
    kept = keep(store, [1, 2, 3], content, folder=tmp_path)
    kept.path.write_bytes(version_1(kept.path.read_bytes()))
    (old,) = store.snapshots()
    assert old.header == kept.header
    store.restore(old, OURS, tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == content


def test_a_version_that_is_not_its_own_is_refused(store: Store, tmp_path: Path) -> None:
    kept = keep(store, [1, 2, 3], folder=tmp_path)
    new = kept.path.read_bytes()
    for wrong in (new[:6] + b"\1" + new[7:], version_1(new)[:6] + b"\2" + version_1(new)[7:]):
        kept.path.write_bytes(wrong)
        (refused,) = store.refused()
        assert "a note in another version" in refused.reason


@pytest.mark.parametrize("note", [{"x": [1]}, {"x": math.nan}, {"x": None}, [1], "x"])
def test_a_note_of_another_kind_is_refused(store: Store, tmp_path: Path, note: Any) -> None:
    kept = keep(store, [1], folder=tmp_path)
    header = replace(kept.header, note=note)
    with kept.path.open("wb") as sink:
        write(sink, header, [1], [])
    (refused,) = store.refused()
    assert "a note of another kind" in refused.reason


def test_an_empty_file_comes_back(store: Store, tmp_path: Path) -> None:
    store.restore(keep(store, [1], b"", folder=tmp_path), OURS, tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == b""


def test_a_disk_too_full_to_unpack_on_is_said_and_the_snapshot_stays(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = keep(store, [1], folder=tmp_path)

    def no_space(_descriptor: int, _start: int, _size: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", no_space)
    with pytest.raises(DiskFull, match="no space left"):
        store.restore(kept, OURS, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["slot", "snapshots"]
    assert store.snapshots() == (kept,)


def test_a_size_that_no_disk_has_takes_no_room(store: Store, tmp_path: Path) -> None:
    kept = keep(store, [1], b"cache", folder=tmp_path)
    with (tmp_path / "sink").open("x+b") as sink, pytest.raises(OSError, match="space"), mapped(sink, 1 << 50):
        pass
    assert (tmp_path / "sink").stat().st_size == 0
    store.check(kept)


@pytest.mark.parametrize("refusal", [errno.EOPNOTSUPP, errno.EINVAL])
def test_it_is_unpacked_where_no_room_can_be_taken_ahead(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refusal: int
) -> None:
    def refuse(_descriptor: int, _start: int, _size: int) -> None:
        raise OSError(refusal, os.strerror(refusal))

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    content = os.urandom((1 << 20) + 17)
    store.restore(keep(store, [1], content, folder=tmp_path), OURS, tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == content
