"""Several embedders' vectors in one workspace: counted truly, and removed only when they serve no more."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from quietmind.base.errors import UsageError, WorkspaceError
from quietmind.base.sqlite import connect
from quietmind.engine.embedders.fake import FakeEmbedder
from quietmind.notes.vectors import Vectors
from quietmind.workspace import embedding
from quietmind.workspace.schema import ALL_MIGRATIONS, DATABASE
from quietmind.workspace.vector_sets import VectorSet, forget_old, vector_sets
from quietmind.workspace.workspace import Workspace

NOTES = 12


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[Workspace]:
    with Workspace(tmp_path / "workspace", create=True) as archive:
        for name in ("one", "two"):
            (tmp_path / name).mkdir()
            for n in range(NOTES):
                (tmp_path / name / f"{n:02}.md").write_text(f"{name} слово{n}\n", encoding="utf-8")
            archive.index(tmp_path / name)
        yield archive


def sets(archive: Workspace, wanted: str = "fake") -> dict[str, VectorSet]:
    connection = connect(archive.folder / DATABASE, ALL_MIGRATIONS)
    try:
        found, passages = vector_sets(archive.folder, connection, wanted, archive.roots())
    finally:
        connection.close()
    assert passages == 2 * NOTES
    return {each.embedder: each for each in found}


class Interrupted(FakeEmbedder):
    """Ends the process, so to speak, at its second batch."""

    def passages(self, texts: Sequence[str]) -> NDArray[np.float32]:
        if self.embedded:
            raise KeyboardInterrupt
        return super().passages(texts)


def test_vectors_are_counted_for_each_folder_and_only_while_the_text_is_theirs(
    archive: Workspace, tmp_path: Path
) -> None:
    archive.embed(FakeEmbedder())
    told = sets(archive)["fake"]
    assert (told.embedded, told.complete, told.serves, told.growing) == (24, True, True, False)
    assert told.below == {tmp_path / "one": NOTES, tmp_path / "two": NOTES}
    assert told.pace is not None
    assert told.bytes > told.read == 24 * 1028
    # The note that was indexed last: its passages' numbers are used again.
    (tmp_path / "two" / f"{NOTES - 1:02}.md").write_text("иначе\n", encoding="utf-8")
    archive.index(tmp_path / "two")
    told = sets(archive)["fake"]
    assert (told.embedded, told.below[tmp_path / "two"]) == (23, NOTES - 1)


def test_a_changed_embedder_is_told_from_the_one_that_serves(archive: Workspace) -> None:
    archive.embed(FakeEmbedder("old"))
    with pytest.raises(KeyboardInterrupt):
        archive.embed(Interrupted("new"))
    told = sets(archive, "new")
    assert (told["old"].serves, told["old"].wanted, told["new"].serves, told["new"].wanted) == (
        True,
        False,
        False,
        True,
    )
    assert (told["new"].embedded, told["new"].complete) == (8, False)
    archive.embed(FakeEmbedder("new"))
    told = sets(archive, "new")
    assert (told["old"].serves, told["new"].serves) == (False, True)


def test_vectors_that_are_being_made_say_so(archive: Workspace) -> None:
    growing = []

    class Looking(FakeEmbedder):
        def passages(self, texts: Sequence[str]) -> NDArray[np.float32]:
            if self.embedded:
                growing.append(sets(archive)["fake"])
            return super().passages(texts)

    archive.embed(Looking())
    assert [(each.growing, each.embedded) for each in growing] == [(True, 8)]


def test_earlier_vectors_stay_until_others_are_complete_and_one_asks(archive: Workspace) -> None:
    archive.embed(FakeEmbedder("old"))
    with pytest.raises(KeyboardInterrupt):
        archive.embed(Interrupted("new"))
    with pytest.raises(UsageError, match="not complete"):
        forget_old(archive.folder, "new")
    archive.embed(FakeEmbedder("new"))
    assert set(sets(archive, "new")) == {"old", "new"}
    ((name, size),) = forget_old(archive.folder, "new")
    assert (name, size > 0) == ("old", True)
    assert set(sets(archive, "new")) == {"new"}
    assert forget_old(archive.folder, "new") == []


def test_vectors_that_are_being_written_are_not_removed(archive: Workspace) -> None:
    archive.embed(FakeEmbedder("old"))
    archive.embed(FakeEmbedder("new"))
    (old,) = archive.folder.glob("vectors/old-*")
    with Vectors(old) as vectors, vectors.writing(), pytest.raises(WorkspaceError, match="another `quietmind embed`"):
        forget_old(archive.folder, "new")
    assert set(sets(archive, "new")) == {"old", "new"}


def test_a_removal_that_was_killed_is_done_by_the_next(archive: Workspace) -> None:
    archive.embed(FakeEmbedder("old"))
    archive.embed(FakeEmbedder("new"))
    (old,) = archive.folder.glob("vectors/old-*")
    old.rename(old.with_name(f".removed-{old.name}-1"))
    assert set(sets(archive, "new")) == {"new"}
    assert forget_old(archive.folder, "new") == []
    assert [each.name[:3] for each in archive.folder.glob("vectors/*")] == ["new"]


def test_what_changes_while_vectors_are_made_gets_one_in_the_same_pass(
    archive: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedding, "_LISTED_SECONDS", 0.0)
    monkeypatch.setattr(embedding, "_LISTED_TIMES", 0)

    class Meanwhile(FakeEmbedder):
        def passages(self, texts: Sequence[str]) -> NDArray[np.float32]:
            if not self.embedded:
                (tmp_path / "one" / "new.md").write_text("вентиль\n", encoding="utf-8")
                with Workspace(archive.folder) as other:
                    other.index(tmp_path / "one")
            return super().passages(texts)

    making = Meanwhile()
    done = archive.embed(making)
    assert (done.embedded, done.waiting) == (25, 0)
    assert "вентиль" in making.embedded[8]  # right after the batch in which it came
    assert len(set(making.embedded)) == 25


_SWITCH = """
import sys
from pathlib import Path
from quietmind.engine.embedders.fake import FakeEmbedder
from quietmind.workspace.vector_sets import forget_old
from quietmind.workspace.workspace import Workspace
class Slow(FakeEmbedder):
    def passages(self, texts):
        print("batch", flush=True)
        return super().passages(texts)
with Workspace(Path(sys.argv[1])) as archive:
    archive.embed(Slow(sys.argv[2]))
    print("made", flush=True)
    forget_old(archive.folder, sys.argv[2])
    print("gone", flush=True)
"""


@pytest.mark.parametrize("lines", [0, 1, 2, 3])
def test_killed_while_switching_one_set_serves_and_the_next_pass_ends_it(archive: Workspace, lines: int) -> None:
    archive.embed(FakeEmbedder("old"))
    command = [sys.executable, "-c", textwrap.dedent(_SWITCH), str(archive.folder), "new"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        for _ in range(lines):
            child.stdout.readline()
        os.kill(child.pid, signal.SIGKILL)
    told = sets(archive, "new")
    assert [each.complete for each in told.values() if each.serves] == [True]
    archive.embed(FakeEmbedder("new"))
    forget_old(archive.folder, "new")
    assert [(each.embedder, each.embedded) for each in sets(archive, "new").values()] == [("new", 24)]
    assert len(list(archive.folder.glob("vectors/*"))) == 1
