"""A note is opened by any name that means it, and nothing but notes of the archive can be opened."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from quietmind.base.errors import NotesError, NothingIndexed
from quietmind.workspace.workspace import Workspace


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    folder = tmp_path / "notes"
    (folder / "pumps").mkdir(parents=True)
    (folder / "pumps" / "boost.md").write_text("# Boost\n\nRuns at night.\n", encoding="utf-8")
    (folder / "map.md").write_text("# Map\n\nSee [[boost]].\n", encoding="utf-8")
    (tmp_path / "secret.md").write_text("# Secret\n\nNobody indexed this.\n", encoding="utf-8")
    return folder


@pytest.fixture
def archive(notes: Path, tmp_path: Path) -> Iterator[Workspace]:
    with Workspace(tmp_path / "workspace", create=True) as workspace:
        workspace.index(notes)
        yield workspace


@pytest.mark.parametrize("given_name", ["pumps/boost.md", "boost", "pumps/../pumps/boost.md", "{root}/pumps/boost.md"])
def test_a_note_is_opened_by_any_name_that_means_it(archive: Workspace, notes: Path, given_name: str) -> None:
    document = archive.open_note(given_name.format(root=notes))
    assert (document.path, document.title) == (notes / "pumps" / "boost.md", "Boost")


def test_a_note_is_opened_as_its_file_is_now(archive: Workspace, notes: Path) -> None:
    (notes / "map.md").write_text("# Map\n\nNew words.\n", encoding="utf-8")
    assert archive.open_note("map.md").text(3, 3) == "New words."
    (notes / "map.md").unlink()
    with pytest.raises(NotesError, match="cannot be read"):
        archive.open_note("map.md")


@pytest.mark.parametrize(
    "name",
    ["../secret.md", "{root}/../secret.md", "/etc/passwd", "..", "/", "", " ", "map.md\0", "\udcff", "x" * 5000, "~"],
)
def test_nothing_but_a_note_of_the_index_can_be_named(archive: Workspace, notes: Path, name: str) -> None:
    with pytest.raises(NotesError):
        archive.open_note(name.format(root=notes))


@given(name=st.text(st.sampled_from("./~\\ secrt%2e\0md:"), max_size=24))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_spelling_reaches_a_file_beside_the_archive(archive: Workspace, name: str) -> None:
    try:
        document = archive.open_note(name)
    except NotesError:
        return
    assert document.path.is_relative_to(archive.roots()[0])


def test_a_note_that_became_a_link_out_of_the_archive_is_not_opened(archive: Workspace, notes: Path) -> None:
    (notes / "map.md").unlink()
    (notes / "map.md").symlink_to(notes.parent / "secret.md")
    with pytest.raises(NotesError, match="leads outside of the indexed folders"):
        archive.open_note("map.md")
    (notes / "pumps").rename(notes.parent / "pumps")
    (notes / "pumps").symlink_to(notes.parent / "pumps")
    with pytest.raises(NotesError, match="leads outside of the indexed folders"):
        archive.open_note("pumps/boost.md")


def test_a_link_within_the_archive_is_followed(archive: Workspace, notes: Path) -> None:
    (notes / "map.md").rename(notes / "plan.md")
    (notes / "map.md").symlink_to(notes / "plan.md")
    assert archive.open_note("map.md").title == "Map"


def test_an_empty_workspace_says_so(tmp_path: Path) -> None:
    with Workspace(tmp_path / "empty", create=True) as workspace, pytest.raises(NothingIndexed):
        workspace.open_note("a.md")
