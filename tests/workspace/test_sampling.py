"""What a basis is learned from: notes of all folders in every piece, and none of them held out to check with."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from quietmind.base.errors import NothingIndexed, WorkspaceError
from quietmind.engine.fake import FakeEngine
from quietmind.workspace.layout import Layout
from quietmind.workspace.sampling import Sample, blocks_within, sampled
from quietmind.workspace.workspace import Workspace

FOLDERS = ("aaa", "mmm", "zzz")


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[Workspace]:
    """Sixty notes in three folders, those of the last in Russian."""
    for folder in FOLDERS:
        (tmp_path / "notes" / folder).mkdir(parents=True)
        word = "насос" if folder == "zzz" else "pump"
        for number in range(20):
            text = f"# {folder} {number}\n\n" + f"{word} {number} " * 60 + "\n"
            (tmp_path / "notes" / folder / f"{number:02}.md").write_text(text, encoding="utf-8")
    with Workspace(tmp_path / "ws", create=True) as workspace:
        workspace.index(tmp_path / "notes")
        yield workspace


def an_engine(context: int = 8192) -> FakeEngine:
    return FakeEngine([], context=context)


def a_sample(archive: Workspace, tokens: int = 4000, piece: int = 1000, held_out: int = 800, least: int = 0) -> Sample:
    return sampled(an_engine(), archive, tokens=tokens, piece=piece, held_out=held_out, least=least)


def places(layout: Layout) -> set[Path]:
    return {block.passage.path for block in layout.blocks}


def folders(layout: Layout) -> set[str]:
    return {path.parent.name for path in places(layout)}


def test_every_piece_holds_notes_of_every_folder(archive: Workspace) -> None:
    sample = a_sample(archive)
    assert len(sample.pieces) == 4
    for piece in (*sample.pieces, sample.held_out):
        assert folders(piece) == set(FOLDERS)


def test_nothing_that_is_held_out_is_learned_from_and_nothing_twice(archive: Workspace) -> None:
    sample = a_sample(archive)
    seen = [path for layout in (*sample.pieces, sample.held_out) for path in places(layout)]
    assert len(seen) == len(set(seen))


def test_it_is_about_as_much_as_was_asked_for_and_no_piece_is_too_long(archive: Workspace) -> None:
    sample = a_sample(archive)
    assert 3200 <= sample.tokens <= 4000
    assert all(len(piece.prefix_tokens()) <= 1000 for piece in sample.pieces)
    assert 400 < len(sample.held_out.prefix_tokens()) <= 800


def test_pieces_leave_a_small_context_room_for_a_question(archive: Workspace) -> None:
    sample = sampled(an_engine(1024), archive, tokens=4000, piece=4096, held_out=600, least=0)
    assert all(len(layout.prefix_tokens()) <= 768 for layout in (*sample.pieces, sample.held_out))
    assert sample.tokens > 3000


def test_a_small_archive_gives_what_it_has(archive: Workspace) -> None:
    sample = a_sample(archive, tokens=1_000_000, piece=4096, held_out=2000)
    notes = set.union(*map(places, (*sample.pieces, sample.held_out)))
    assert len(notes) == 60


def test_too_few_notes_are_counted(archive: Workspace) -> None:
    with pytest.raises(WorkspaceError, match=r"come to 8,\d{3} tokens, and calibrating takes at least 20,000"):
        a_sample(archive, tokens=1_000_000, piece=4096, held_out=2000, least=20_000)


def test_without_notes_it_says_how_to_index_them(tmp_path: Path) -> None:
    with Workspace(tmp_path / "ws", create=True) as empty, pytest.raises(NothingIndexed, match="index FOLDER"):
        a_sample(empty)


def test_the_first_blocks_within_so_many_tokens_are_counted_whole(archive: Workspace) -> None:
    (piece, *_) = a_sample(archive).pieces
    count = blocks_within(piece, 500)
    assert len(piece.prefix_tokens(count)) <= 500 < len(piece.prefix_tokens(count + 1))
    assert blocks_within(piece, 1) == 1
    assert blocks_within(piece, 10_000) == len(piece.blocks)
