"""What is packed on trial is what is stored: the same blocks, packed once."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from quietmind.base.errors import SnapshotDamaged
from quietmind.kvstore.codec.exact import Exact
from quietmind.kvstore.draft import Draft
from quietmind.kvstore.fingerprint import Fingerprint
from quietmind.kvstore.store import Store

OURS = Fingerprint("weights", "tokenizer", "template", "rope", "f16", "engine")


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    file = tmp_path / "cache"
    file.write_bytes(bytes(1000) + os.urandom(3_000_000))
    return file


def test_a_draft_gives_back_what_was_packed(cache: Path, tmp_path: Path) -> None:
    draft = Draft(cache, Exact(), tmp_path / "packed")
    draft.unpack(tmp_path / "unpacked", tmp_path / "bases")
    assert (tmp_path / "unpacked").read_bytes() == cache.read_bytes()
    assert 0 < draft.bytes <= draft.raw_bytes + 4096


def test_a_draft_is_stored_as_its_codec_would_be(cache: Path, tmp_path: Path) -> None:
    draft = Draft(cache, Exact(), tmp_path / "packed")
    store = Store(tmp_path / "snapshots")
    kept = store.save(cache, OURS, [1, 2], label="book", seconds=1, cut=True, codec=draft, note={"level": "near"})
    assert (kept.header.codec, kept.header.note) == (Exact.name, {"level": "near"})
    store.restore(kept, OURS, tmp_path / "restored")
    assert (tmp_path / "restored").read_bytes() == cache.read_bytes()


def test_a_draft_that_was_cut_is_not_stored(cache: Path, tmp_path: Path) -> None:
    packed = tmp_path / "packed"
    draft = Draft(cache, Exact(), packed)
    os.truncate(packed, packed.stat().st_size - 1)
    store = Store(tmp_path / "snapshots")
    with pytest.raises(SnapshotDamaged, match="changed"):
        store.save(cache, OURS, [1, 2], label="book", seconds=1, cut=True, codec=draft)
    assert store.snapshots() == ()
