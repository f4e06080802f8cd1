"""Files whose readers are not installed, and folders that hold no one's notes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from quietmind.base.sqlite import connect
from quietmind.notes import formats
from quietmind.notes.census import census
from quietmind.notes.index import Index
from quietmind.notes.scan import may_matter, scan
from quietmind.notes.schema import MIGRATIONS
from quietmind.notes.search import documents


@pytest.fixture
def uninstalled(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No package that a format needs is installed."""
    monkeypatch.setattr(formats, "find_spec", lambda name: None)
    formats._missing.cache_clear()
    yield
    formats._missing.cache_clear()


def test_formats_that_cannot_be_read_are_told_of_once_each(tmp_path: Path, uninstalled: None) -> None:
    root = tmp_path / "notes"
    root.mkdir()
    for name in ("a.md", "b.org", "c.pdf", "d.PDF", "e.html"):
        (root / name).write_text("text", encoding="utf-8")
    with closing(connect(tmp_path / "archive.db", MIGRATIONS)) as connection:
        for report in (Index(connection, tmp_path / "archive.db").update(root) for _ in range(2)):
            assert [(skip.path, skip.reason) for skip in report.skipped] == [
                (root, "HTML, 1 file: what reads it is not installed: pip install 'quietmind[formats]'"),
                (root, "PDF, 2 files: what reads it is not installed: pip install 'quietmind[formats]'"),
            ]
        assert [entry.path.name for entry in documents(connection)] == ["a.md", "b.org"]
        counted = census(connection, root)
        assert (counted.new, len(counted.skipped)) == (0, 2)


def test_what_was_read_stays_when_its_reader_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "notes"
    root.mkdir()
    (root / "page.html").write_text("<p>text</p>", encoding="utf-8")
    with closing(connect(tmp_path / "archive.db", MIGRATIONS)) as connection:
        index = Index(connection, tmp_path / "archive.db")
        assert index.update(root).added == 1
        monkeypatch.setattr(formats, "find_spec", lambda name: None)
        formats._missing.cache_clear()
        (root / "page.html").write_text("<p>other text</p>", encoding="utf-8")
        report = index.update(root)
        assert (report.removed, len(report.skipped)) == (0, 1)
        assert len(documents(connection)) == 1
        monkeypatch.undo()
        formats._missing.cache_clear()
        assert index.update(root).changed == 1


def test_what_a_package_manager_fetched_is_no_ones_notes(tmp_path: Path) -> None:
    for name in ("a.md", "web/node_modules/x/index.js", "web/app.js", "lib/site-packages/b.py", ".git/c.sh"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("text", encoding="utf-8")
    assert [Path(found.path).name for found in scan(tmp_path).found] == ["a.md", "app.js"]
    assert may_matter(str(tmp_path), str(tmp_path / "web/app.js"))
    assert not may_matter(str(tmp_path), str(tmp_path / "web/node_modules/x/index.js"))
